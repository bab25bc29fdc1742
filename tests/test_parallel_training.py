"""``localgrad train`` in several processes: its files are those of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import launcher
from command import SMALL, error_line, metrics, read, words
from localgrad import LocalgradError
from localgrad.cli import main
from localgrad.experiment.build import build
from localgrad.experiment.config import build_config

OPTIONS: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if not key.startswith("network")},
    "network.name": "digit_nets:mlp",
    "method.name": "backlink",
    "blocks": 3,
    "epochs": 2,
    "threads": 1,
    "data.limit": 80,  # the last batch is a short one
}


def together(*cases: tuple[int, str, dict[str, Any], list[str]]) -> list[SimpleNamespace]:
    """Run ``train`` in several processes: how many, what happens, options, more words."""
    environment = {k: v for k, v in os.environ.items() if k == "LOCALGRAD_DATA"}
    with ExitStack() as folders:
        given = [
            (size, what, ["train", *words({**OPTIONS, **changed}), "--quiet", *more], environment,
             folders.enter_context(tempfile.TemporaryDirectory()))
            for size, what, changed, more in cases
        ]  # fmt: skip
        found = launcher.call("parallel_training", "run_several", given)
    return [SimpleNamespace(**one) for one in found]


def train(out: Path, *more: str, **changed: Any) -> int:
    given = words({**OPTIONS, **changed})
    return main(["train", *given, "--out", str(out), "--quiet", *more])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert train(folder) == 0
    return folder


def assert_same_run(folder: Path, alone: Path) -> None:
    model = "model.safetensors"
    assert (folder / model).read_bytes() == (alone / model).read_bytes()
    assert metrics(folder) == metrics(alone)
    for name in ("decoupling.yaml", "reach.json"):
        assert read(folder / name) == read(alone / name)
    own, wanted = read(folder / "summary.json"), read(alone / "summary.json")
    for key in ("test_accuracy", "block_accuracy", "parameters", "head_parameters", "blocks"):
        assert own[key] == wanted[key], key
    own, wanted = (torch.load(f / "checkpoint" / "last.pt") for f in (folder, alone))
    assert list(own["learner"]) == list(wanted["learner"])
    for name, value in wanted["learner"].items():
        assert torch.equal(own["learner"][name], value), name
    assert own["optimizer"]["param_groups"] == wanted["optimizer"]["param_groups"]
    for number, state in wanted["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(own["optimizer"]["state"][number][key], value)
    times = ("seconds", "epoch_seconds")
    left, right = (
        {k: v for k, v in s["position"].items() if k not in times} for s in (own, wanted)
    )
    assert left == right


def test_a_run_and_its_resumption_by_other_numbers_of_processes(
    alone: Path, tmp_path: Path
) -> None:
    first, other = tmp_path / "run", tmp_path / "other"
    (done,) = together((2, "stop:1", {"parallel.blocks": 2, "out": first}, []))
    assert done.codes == [130, 130], done.err
    assert not (first / "summary.json").exists()
    shutil.copytree(first, other)
    (done,) = together((3, "-", {"parallel.blocks": 3, "out": first}, ["--resume"]))
    assert done.codes == [0, 0, 0], done.err
    assert done.out.count("test accuracy") == 1
    assert_same_run(tmp_path / "run", alone)
    summary = read(tmp_path / "run" / "summary.json")["parallel"]
    assert (summary["blocks"], summary["data"]) == (3, 1)
    assert all(sent > 0 for sent in summary["sent_bytes"])
    assert train(tmp_path / "other", "--resume") == 0
    assert_same_run(tmp_path / "other", alone)


def test_one_process_says_that_a_run_is_finished(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank, times in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert train(alone, "--resume", **{"parallel.blocks": 2}) == 0
        assert capsys.readouterr().out.count("is finished already") == times


def test_a_last_batch_that_does_not_divide() -> None:
    options = {"data": {"limit": 83}, "batch_size": 20, "parallel": {"data": 2}}
    mesh: Any = SimpleNamespace(device=torch.device("cpu"))
    with pytest.raises(LocalgradError, match="the last batch of 3 images does not divide among 2"):
        build(build_config(options), mesh=mesh)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parallel.data": 3}, "a batch_size of 32 does not divide among 3 replicas"),
        ({"parallel.blocks": 2, "precision": "fp16"}, "needs a scaler that sees the gradients"),
        ({"parallel.blocks": 2, "compile": "true"}, "parallel: compile is for one process"),
        ({"parallel.blocks": 2}, "is not set: start the processes with torchrun"),
    ],
)
def test_what_cannot_be(
    changed: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert train(tmp_path / "run", **changed) == 2
    assert message in error_line(capsys)
