"""``localgrad train`` with late links: the same run in one process and in several, and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from command import error_line, metrics, read
from localgrad.experiment.loop import Watcher
from test_parallel_training import assert_same_run, together, train

LATE = {"parallel.late_links": "[0, 1]"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("late") / "run"
    assert train(folder, **LATE) == 0
    return folder


def waiting(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "checkpoint" / "last.pt")["late"]
    return found


def test_a_stop_in_the_middle_changes_no_bit(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batch(self: Watcher, position: Any, batches: int, losses: Any) -> None:
        if position.batch == 2:
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(Watcher, "batch", batch)
    every = {"checkpoint_every": 1}
    assert train(tmp_path / "run", **LATE, **every) == 130
    assert waiting(tmp_path / "run")
    assert train(tmp_path / "run", "--resume", **LATE, **every) == 0
    assert_same_run(tmp_path / "run", alone)


def test_several_processes_and_their_resumption(tmp_path: Path) -> None:
    """Parts end where measured times say: a run goes on with the links that it began with."""
    there = {"parallel.late_links": "true", "out": tmp_path / "run"}
    (done,) = together((2, "stop:1", {**there, "parallel.blocks": 2}, []))
    assert done.codes == [130, 130], done.err
    assert waiting(tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint" / "last.pt")
    (late,) = state["position"]["late_links"]
    (done,) = together((3, "-", {**there, "parallel.blocks": 3}, ["--resume"]))
    assert done.codes == [0, 0, 0], done.err
    assert read(tmp_path / "run" / "summary.json")["parallel"]["late_links"] == [late]
    assert train(tmp_path / "alone", **{"parallel.late_links": f"[{late}]"}) == 0
    model = "model.safetensors"
    assert (tmp_path / "run" / model).read_bytes() == (tmp_path / "alone" / model).read_bytes()
    assert metrics(tmp_path / "run") == metrics(tmp_path / "alone")
    own, wanted = waiting(tmp_path / "run"), waiting(tmp_path / "alone")
    assert own.keys() == wanted.keys()
    assert all(torch.equal(own[name], gradient) for name, gradient in wanted.items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parallel.late_links": "true"}, "'true' means links between parts, and parallel.blocks"),
        ({"parallel.late_links": "[2]"}, "late_links=[2]: the links are at [0, 1]"),
        ({**LATE, "precision": "fp16"}, "cannot go with precision 'fp16'"),
        ({**LATE, "compile": "true"}, "cannot go with compile True"),
        ({**LATE, "activation_checkpoint": "unit"}, "leave activation checkpointing out"),
        ({**LATE, "method.name": "greedy"}, "late_links=[0, 1]: the links are at []"),
    ],
)
def test_what_cannot_be(
    changed: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", **changed) == 2
    assert message in error_line(capsys)
