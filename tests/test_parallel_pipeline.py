"""Several processes compute what one computes, to the last bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import launcher
from localgrad import LocalgradError
from localgrad.parallel import division, share
from localgrad.parallel.form import Form
from localgrad.parallel.mesh import Mesh
from localgrad.parallel.replicas import rows
from parallel_processes import CASES, OPTIMIZERS, REPLICATED, batches, learner, sgd, trained_alone


def run(folder: Path, blocks: int, data: int) -> None:
    assert launcher.call("parallel_processes", "run", folder, blocks, data) == [0] * (blocks * data)


@pytest.fixture(scope="module", params=[2, 4])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(f"parts{request.param}")
    run(folder, request.param, 1)
    return folder


@cache
def alone(rule: str, kind: str, bf16: bool) -> tuple[Any, ...]:
    """Train in one process: the learner, its optimizer, the first weights, all exits' scores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = learner(rule)
    optimizer = OPTIMIZERS[kind](one.parameters())
    start = {name: value.clone() for name, value in one.state_dict().items()}
    trained_alone(one, optimizer, bf16)
    scores = one.eval().exits(batches()[0][0])
    torch.set_num_threads(threads)
    return one, optimizer, start, scores


@pytest.mark.parametrize("case", CASES)
def test_several_processes_are_one(case: str, several: Path) -> None:
    rule, kind, _, bf16 = CASES[case]
    one, optimizer, start, scores = alone(rule, kind, bf16)
    state, moments, exits = torch.load(several / f"{case}.pt")
    wanted = one.state_dict()
    assert list(state) == list(wanted)
    for name, value in wanted.items():
        assert torch.equal(state[name], value), name
    assert any(not torch.equal(value, start[name]) for name, value in wanted.items())
    expected = optimizer.state_dict()
    assert moments["param_groups"][0]["params"] == expected["param_groups"][0]["params"]
    assert moments["state"].keys() == expected["state"].keys()
    for number, values in expected["state"].items():
        for key, value in values.items():
            assert torch.equal(moments["state"][number][key], value), (number, key)
    for found, value in zip(exits, scores, strict=True):
        assert (found is None and value is None) or torch.equal(found, value)


def test_replicas(tmp_path: Path) -> None:
    """Two parts of two replicas: a mean of two means rounds otherwise than one mean."""
    run(tmp_path, 2, 2)
    for rule in REPLICATED:
        one = learner(rule, norm=False, precision=torch.float64)
        trained_alone(one, sgd(one.parameters()), False)
        state = torch.load(tmp_path / f"{rule}.pt")
        for name, value in one.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)


# --- bad input


def mistakes(folder: Path, how: str) -> list[list[str]]:
    """Return what each of three processes was told; nothing of the one that went away."""
    launcher.call("parallel_mistakes", "run", folder, how)
    return [path.read_text(encoding="utf-8").splitlines() for path in sorted(folder.iterdir())]


def test_processes_that_differ(tmp_path: Path) -> None:
    """Every process names the same one."""
    first, *others = mistakes(tmp_path, "differ")
    assert others == [first, first]
    weights, rule, targets = first
    assert weights.startswith("rank 2 differs from rank 0 in backbone.3.weight (")
    assert rule.startswith("rank 1 differs from rank 0 in decoupling (")
    assert targets.startswith("rank 1 differs from rank 0 in targets of replica 0 (")
    assert weights.endswith("build the same learner from the same seed in every process")


@pytest.mark.parametrize(
    ("how", "reason"), [("die", "it closed the connection"), ("hang", "it did not answer in time")]
)
def test_a_process_that_goes_away(how: str, reason: str, tmp_path: Path) -> None:
    first, last = mistakes(tmp_path, how)
    steps = [f"rank 1 was lost after step {step}: {reason}" for step in (5, 6)]
    for told in (first, last):  # the first one holds the store, and may be gone before the last
        assert len(told) == 1
        assert told[0] in steps


@pytest.mark.parametrize(
    ("size", "blocks", "data", "message"),
    [
        (3, 2, 1, "parallel.blocks 2 x parallel.data 1 = 2 processes, but 3 were started"),
        (1, 2, 2, "= 4 processes, but 1 was started: use torchrun --nproc-per-node 4"),
        (2, 0, 1, "parallel.blocks=0: must be a whole number >= 1"),
        (2, 2, True, "parallel.data=True: must be a whole number >= 1"),
        (None, 2, 1, "WORLD_SIZE is not set: start the processes with torchrun"),
    ],
)
def test_a_grid_that_does_not_fit(
    size: int | None, blocks: int, data: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "0"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", str(size))
    with pytest.raises(LocalgradError) as told:
        Mesh.start(blocks, data, "cpu")
    assert message in str(told.value)


@pytest.mark.parametrize(
    ("parts", "ends", "message"),
    [
        (7, None, "7 parts, but greedy has 6 groups of blocks that can be apart"),
        (2, [6, 6], "ends=(6, 6): expected 2 rising numbers, the last one 6"),
        (2, [3, 5], "ends=(3, 5): expected 2 rising numbers, the last one 6"),
        (2, [6], "ends=(6,): expected 2 rising numbers, the last one 6"),
    ],
)
def test_parts_that_do_not_fit(parts: int, ends: list[int] | None, message: str) -> None:
    with pytest.raises(LocalgradError) as told:
        share.take(learner("greedy"), parts, 0, ends)
    assert message in str(told.value)


def test_a_batch_that_does_not_divide() -> None:
    mesh: Any = SimpleNamespace(data=2, replica=1)
    x = torch.arange(8).view(4, 2)
    half, targets = rows(mesh, x, {"y": x[:, 0], "weight": 1.0})
    assert half.tolist() == [[4, 5], [6, 7]]
    assert targets["y"].tolist() == [4, 6]
    assert targets["weight"] == 1.0
    with pytest.raises(LocalgradError, match="a batch of 3 does not divide among 2 replicas"):
        rows(mesh, x[:3], None)


# --- pieces


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(2, 3, 4, 5),
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.rand(2, 1, 4, 4).to(memory_format=torch.channels_last),
        torch.rand(3, 4, 5).permute(1, 2, 0),
        torch.rand(4, 6)[:, ::2],
        torch.rand(1, 6).expand(4, 6),
        torch.tensor(3),
    ],
    ids=["plain", "channels-last", "one channel", "permuted", "gaps", "expanded", "scalar"],
)
def test_a_form_survives_the_way(tensor: torch.Tensor) -> None:
    form = Form.of(tensor)
    assert Form.unpack(form.pack()) == form
    room = form.empty(torch.device("cpu"))
    room.copy_(tensor)
    assert Form.of(room) == form
    assert torch.equal(room, tensor)
    if tensor.dim() == 4:
        assert room.stride() == tensor.stride()


def test_parts_are_divided_by_time() -> None:
    """Measuring changes nothing; every group takes some time."""
    one = learner("backlink")
    before = {name: value.clone() for name, value in one.state_dict().items()}
    random = torch.get_rng_state()
    seconds = division.seconds_of_groups(one, *batches()[0])
    assert len(seconds) == 6
    assert min(seconds) > 0
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in one.parameters())
    one.step(*batches()[0])
    with pytest.raises(LocalgradError, match="measuring would lose"):
        division.seconds_of_groups(one, *batches()[0])


def test_a_share_holds_no_more() -> None:
    """What other parts hold keeps its shape, without memory, and cannot be mistaken for weights."""
    one = learner("backlink")
    shapes = [p.shape for p in one.parameters()]
    mine = share.take(one, 3, 1, None)
    assert [p.shape for p in one.parameters()] == shapes
    assert 0 < len(mine.names) < len(shapes)
    for name, p in one.named_parameters():
        assert (p.untyped_storage().nbytes() == p.element_size()) == (p not in mine.names), name
        assert p.isnan().all() or p in mine.names
    with pytest.raises(LocalgradError, match="released"):
        one.step(*batches()[0])
