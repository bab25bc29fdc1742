"""Links that come one step late: what several processes do, one does, and a slow oracle says."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import late_cases
import launcher
import localgrad
from late_cases import CASES, alone
from localgrad import LocalgradError, LocalLearner
from localgrad import methods as M
from localgrad.kept_weights import keeping
from localgrad.parallel import late as late_room
from localgrad.parallel.late import LateLearner
from parallel_processes import batches, learner, sgd

from oracle import linked_parameters, oracle_gradients
from zoo import batch, build


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(what: str, folder: Path, blocks: int, data: int) -> None:
    assert launcher.call("late_cases", "run", what, folder, blocks, data) == [0] * (blocks * data)


# --- several processes are one


@pytest.fixture(scope="module", params=[(2, (2,)), (4, (0, 2, 3))], ids=["2", "4"])
def several(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[int, ...]]:
    """What so many processes wrote, and the blocks at which they end."""
    parts, ends = request.param
    folder = tmp_path_factory.mktemp("parts")
    run("bits", folder, parts, 1)
    return folder, ends


@pytest.mark.parametrize("case", CASES)
def test_several_processes_are_one(case: str, several: tuple[Path, tuple[int, ...]]) -> None:
    folder, ends = several
    state, moments, waiting, late = torch.load(folder / f"{case}.pt")
    assert late == ((0, 2) if case == "named" else ends)
    one, optimizer = alone(case, late)
    for name, value in one.state_dict().items():
        assert torch.equal(state[name], value), name
    for number, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            assert torch.equal(moments["state"][number][key], value), (number, key)
    own = late_room.waiting_gradients(one.named_parameters())
    assert own.keys() == waiting.keys()
    assert own
    assert all(torch.equal(waiting[name], gradient) for name, gradient in own.items())
    in_time = learner(CASES[case][0])
    late_cases.train(LateLearner(in_time, ()), sgd(in_time.parameters()))
    assert any(not torch.equal(state[name], v) for name, v in in_time.state_dict().items())


def test_replicas(tmp_path: Path) -> None:
    """Two parts of two replicas; a mean of two means rounds otherwise than one mean."""
    run("replicas", tmp_path, 2, 2)
    state, late = torch.load(tmp_path / "replicas.pt")
    one = learner("backlink_no_norm", norm=False, precision=torch.float64)
    late_cases.train(LateLearner(one, late), sgd(one.parameters()))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)


# --- the oracle: gradients of the whole graph, those of late units kept for a step


RULES: list[Callable[[], M.Method]] = [
    M.BackLink,
    lambda: M.BackLink(length=2, weight=0.5, keep_error=False),
    lambda: M.BackLink(length=9, combine="replace"),
    lambda: M.BackLink(length_unit="layer"),
]


def oracle_training(
    one: LocalLearner, late: Sequence[int], given: list[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Train by plain autograd; return the gradients that are left at the end."""
    names = {id(p): name for name, p in one.named_parameters()}
    slow = {names[id(p)] for k in late for p in linked_parameters(one, k)}
    optimizer = sgd(one.parameters())
    kept: dict[str, Tensor] = {}
    for x, y in given:
        now = oracle_gradients(one, x, y)
        used = {name: g for name, g in now.items() if name not in slow} | kept
        kept = {name: g for name, g in now.items() if name in slow}
        for name, parameter in one.named_parameters():
            parameter.grad = used.get(name)
        optimizer.step()
    return kept


@pytest.mark.parametrize("late", [[0], [1, 2], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chain", ["mlp", "plain_conv", "residual"])
def test_the_oracle(chain: str, rule: Callable[[], M.Method], late: list[int]) -> None:
    given = [batch(chain, seed=t) for t in range(5)]
    slow, fast = (
        localgrad.decouple(build(chain), rule(), 4, example_input=given[0][0]) for _ in range(2)
    )
    left = oracle_training(slow, late, given)
    one, optimizer = LateLearner(fast, late), sgd(fast.parameters())
    for x, y in given:
        one.step(x, y, optimizer)
    one.finish()
    for (name, found), wanted in zip(fast.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12, msg=name)
    found_left = late_room.waiting_gradients(fast.named_parameters())
    assert found_left.keys() == left.keys()
    for name, gradient in left.items():
        torch.testing.assert_close(found_left[name], gradient, rtol=1e-9, atol=1e-12)


# --- pauses


def test_a_pause_changes_no_bit() -> None:
    plain, _ = alone("sgd", (0, 2))
    paused, _ = alone("pauses", (0, 2))
    for a, b in zip(plain.state_dict().values(), paused.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_first_update_leaves_late_units_as_they_are() -> None:
    one = learner("backlink")
    late = LateLearner(one, [1])
    optimizer = sgd(one.parameters())
    start = {name: p.clone() for name, p in one.named_parameters()}
    late.step(*batches()[0], optimizer)
    names = {id(p): name for name, p in one.named_parameters()}
    same = {name for name, p in one.named_parameters() if torch.equal(p, start[name])}
    assert same == {names[id(p)] for p in linked_parameters(one, 1)}
    assert all(p.grad is None for p in one.parameters())
    late.finish()
    assert {name for name, p in one.named_parameters() if p.grad is not None} == same
    assert late_room.drained({}) == []


# --- memory


def test_one_segment_is_kept_for_one_step() -> None:
    x, y = batch("residual")
    one = localgrad.decouple(build("residual"), M.BackLink(), 4, example_input=x)
    late = LateLearner(one, [1])
    optimizer = sgd(one.parameters())
    kept = []
    for _ in range(3):
        late.step(x, y, optimizer)
        (waiting,) = late._late.values()
        assert vars(waiting.walk).keys() == {"border", "logits", "values", "losses", "link"}
        assert waiting.walk.link is not None
        assert vars(waiting.walk.link).keys() <= {"before", "end", "head_loss", "error"}
        assert waiting.walk.link.head_loss is None
        assert waiting.walk.border.untyped_storage().data_ptr() == (
            waiting.walk.link.end.untyped_storage().data_ptr()
        )
        kept.append(weakref.ref(waiting.walk.link.end))
        del waiting
        assert [end() is not None for end in kept] == [False] * (len(kept) - 1) + [True]
    late.finish()
    assert kept[-1]() is None
    assert late._late == {}


# --- bad input


def mlp_learner(rule: M.Method, **options: Any) -> LocalLearner:
    x, _ = batch("mlp")
    return localgrad.decouple(build("mlp"), rule, 3, example_input=x, **options)


def test_what_cannot_be_late() -> None:
    with pytest.raises(LocalgradError, match=r"late_links=\[2\]: the links are at \[0, 1\]"):
        LateLearner(mlp_learner(M.BackLink()), [2])
    with pytest.raises(LocalgradError, match=r"late_links=\[0\]: the links are at \[\]"):
        LateLearner(mlp_learner(M.Greedy()), [0])
    with pytest.raises(LocalgradError, match="no link crosses from part to part"):
        late_room.mark(mlp_learner(M.Greedy())._groups, [0, 2], True)


def test_weights_are_kept_and_other_changes_are_refused() -> None:
    w = nn.Parameter(torch.rand(3, 3))
    x = torch.rand(3, requires_grad=True)
    with keeping([w]):
        hidden = x.exp()
        out = (w.t() @ hidden).sum()
    wanted = torch.autograd.grad((w.detach().clone().t() @ x.exp()).sum(), x)[0]
    with torch.no_grad():
        w.mul_(7)
    assert torch.equal(torch.autograd.grad(out, x, retain_graph=True)[0], wanted)
    hidden.detach().add_(1)
    with pytest.raises(LocalgradError, match="was changed in place after its forward"):
        out.backward()
