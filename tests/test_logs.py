"""Logs: copies of metrics.jsonl that go on where a run goes on, and what is measured for them."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from command import SMALL, error_line, metrics, read, words
from localgrad.analysis.agreement import agreement
from localgrad.cli import main
from localgrad.errors import LocalgradError
from localgrad.experiment import loop
from localgrad.experiment.build import build
from localgrad.experiment.config import build_config
from localgrad.experiment.folder import OthersFolder, RunFolder
from localgrad.experiment.log import RunLog, scalars
from localgrad.experiment.log_tensorboard import TensorBoardLog
from localgrad.experiment.loop import Interrupted
from localgrad.experiment.tree import override

OPTIONS: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if not key.startswith("network")},
    "network.name": "digit_nets:dropout",
    "method.name": "greedy",
    "epochs": 3,
}


def config(**changed: Any) -> Any:
    tree: dict[str, Any] = {}
    for key, value in {**OPTIONS, **changed}.items():
        override(tree, key, value)
    return build_config(tree)


def run(path: Path, stop_after: int | None = None, **changed: Any) -> None:
    left = [stop_after or 10**9]

    def stop() -> bool:
        left[0] -= 1
        return left[0] <= 0

    loop.train(build(config(**changed)), RunFolder(path), resume=True, stop=stop)


def lines(path: Path) -> list[dict[str, Any]]:
    text = (path / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# --- agreement


def test_agreement_changes_no_bit_and_is_that_of_the_weights(tmp_path: Path) -> None:
    """Batch norm, dropout, momentum: all that a look at the gradients could disturb."""
    changed = {"network.name": "resnet20", "network.width": 4, "method.name": "backlink"}
    for name, asked in (("with", True), ("without", False)):
        run(tmp_path / name, epochs=2, blocks=3, **{"log.agreement": asked}, **changed)
    model = "model.safetensors"
    assert (tmp_path / "with" / model).read_bytes() == (tmp_path / "without" / model).read_bytes()
    states = [
        torch.load(tmp_path / name / "checkpoint" / "last.pt") for name in ("with", "without")
    ]
    assert torch.equal(states[0]["random"], states[1]["random"])
    for number, moments in states[1]["optimizer"]["state"].items():
        for key, value in moments.items():
            assert torch.equal(states[0]["optimizer"]["state"][number][key], value)
    found = metrics(tmp_path / "with")
    measured = [line.pop("agreement") for line in found]
    assert found == metrics(tmp_path / "without")
    experiment = build(config(epochs=2, blocks=3, **changed))
    experiment.learner.load_state_dict(states[0]["learner"])
    experiment.learner.train()
    expected = agreement(experiment.learner, *experiment.train.first())
    assert measured[1] == {entry.unit: entry.cosine for entry in expected}
    assert measured[0] != measured[1]
    assert -1 <= min(measured[1].values()) < max(measured[1].values()) <= 1 + 1e-9


def test_agreement_with_dropout_and_resume(tmp_path: Path) -> None:
    run(tmp_path / "whole", **{"log.agreement": True})
    with pytest.raises(Interrupted):
        run(tmp_path / "run", 4, **{"log.agreement": True})
    run(tmp_path / "run", **{"log.agreement": True})
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    run(tmp_path / "without")
    model = "model.safetensors"
    assert (tmp_path / "whole" / model).read_bytes() == (tmp_path / "without" / model).read_bytes()


def test_agreement_keeps_gradients_that_wait() -> None:
    experiment = build(config(**{"log.agreement": True}))
    log = RunLog(experiment, OthersFolder("nowhere"))
    experiment.learner.step(*experiment.train.first())
    before = [(p.grad, p.grad.clone()) for p in experiment.learner.parameters()]
    assert log.completed({"epoch": 1})["agreement"].keys() == {"1", "4", "tail"}
    for p, (gradient, value) in zip(experiment.learner.parameters(), before, strict=True):
        assert p.grad is gradient
        assert torch.equal(p.grad, value)


def test_agreement_needs_the_whole_network() -> None:
    mesh: Any = SimpleNamespace()
    experiment = replace(build(config(**{"log.agreement": True})), mesh=mesh)
    with pytest.raises(LocalgradError, match=r"log.agreement needs the whole network in one"):
        RunLog(experiment, OthersFolder("nowhere"))


# --- TensorBoard


def events(path: Path) -> dict[str, list[tuple[int, float]]]:
    """(epoch, value) of every name, as TensorBoard shows them."""
    room = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = room.EventAccumulator(str(path), size_guidance={"scalars": 0})
    found.Reload()
    return {
        name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]
    }


def assert_equal(found: dict[str, list[tuple[int, float]]], wanted: list[dict[str, Any]]) -> None:
    assert set(found) == set(scalars(wanted[0]))
    for name, values in found.items():
        assert [step for step, _ in values] == [line["epoch"] for line in wanted], name
        expected = [scalars(line)[name] for line in wanted]
        assert [value for _, value in values] == pytest.approx(expected, rel=1e-6)


def test_tensorboard_has_what_metrics_have(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    given = words({**OPTIONS, "log.tensorboard": True, "log.agreement": True})
    assert main(["train", *given, "--out", str(out), "--quiet"]) == 0
    found = events(out / "tensorboard")
    assert_equal(found, lines(out))
    assert {"test_accuracy", "losses/0", "losses/1", "lr", "images_per_second", "agreement/4"} <= (
        set(found)
    )


def test_a_resumed_run_goes_on_in_tensorboard(tmp_path: Path) -> None:
    """Also where epochs had been written that the checkpoint does not have, or had not been."""
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(out, 4, **{"log.tensorboard": True})
    with pytest.raises(Interrupted):
        run(out, 4, **{"log.tensorboard": False})  # its epoch is missing
    log = TensorBoardLog(out / "tensorboard")
    log.begin(lines(out)[:1], {})
    log.epoch({"epoch": 3, "test_accuracy": 0.0})  # as one that is done again
    log.close()
    files = list((out / "tensorboard").iterdir())
    newest = max(files, key=lambda path: path.stat().st_mtime)
    newest.write_bytes(newest.read_bytes() + b"\x18\0\0\0")  # killed within a record
    run(out, **{"log.tensorboard": True})
    assert_equal(events(out / "tensorboard"), lines(out))


@pytest.mark.parametrize("call", ["flush", "close"])
def test_a_full_disk_is_one_line(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    out = tmp_path / "run"
    monkeypatch.setattr(SummaryWriter, call, refuse)
    given = words({**OPTIONS, "log.tensorboard": True})
    assert main(["train", *given, "--out", str(out), "--quiet"]) == 2
    assert error_line(capsys).endswith(f"cannot write {out}/tensorboard: No space left on device")
    monkeypatch.undo()
    assert main(["train", *given, "--out", str(out), "--quiet", "--resume"]) == 0
    assert_equal(events(out / "tensorboard"), lines(out))


# --- Trackio and Weights & Biases


class Tracker(ModuleType):
    """Stands for either package; keeps what it was given."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.fails: Exception | None = None

    def init(self, **options: Any) -> Tracker:
        self.started.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        if self.fails is not None:
            raise self.fails
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture(params=["trackio", "wandb"])
def tracker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    made = Tracker(request.param)
    monkeypatch.setitem(sys.modules, request.param, made)
    return made


def test_a_tracker_gets_every_epoch_once(tmp_path: Path, tracker: Tracker) -> None:
    option = {f"log.{tracker.__name__}": "mine"}
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(out, 4, **option)
    assert tracker.finished == 1
    with pytest.raises(Interrupted):
        run(out, 3)  # without it
    (out / "checkpoint" / "last.pt").write_bytes(b"")  # back to an earlier epoch
    run(out, **option)
    assert tracker.logged == [(line["epoch"], scalars(line)) for line in lines(out)]
    assert tracker.finished == 2
    first, second = tracker.started
    assert first == second
    assert (first["project"], first["resume"]) == ("mine", "allow")
    assert first["name"].startswith("run-")
    assert first["config"]["method"] == {"name": "greedy"}
    assert ("id" in first) == (tracker.__name__ == "wandb")


def test_a_tracker_that_fails(
    tmp_path: Path, tracker: Tracker, capsys: pytest.CaptureFixture[str]
) -> None:
    name = tracker.__name__
    tracker.fails = ConnectionError("no route to host\nmore")
    run(tmp_path / "run", epochs=2, **{f"log.{name}": "mine"})
    said = capsys.readouterr().err
    assert said == f"warning: log.{name}: no route to host; the run goes on without it\n"
    assert len(lines(tmp_path / "run")) == 2

    def refuse(**options: Any) -> None:
        raise RuntimeError("no key")

    tracker.init = refuse  # type: ignore[method-assign]
    with pytest.raises(LocalgradError, match=f"log.{name}: cannot be started: no key"):
        run(tmp_path / "other", **{f"log.{name}": "mine"})


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_names_the_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    given = words({**OPTIONS, f"log.{name}": "true" if name == "tensorboard" else "mine"})
    assert main(["train", *given, "--out", str(tmp_path / "run")]) == 2
    assert error_line(capsys) == (
        f"error: log.{name} needs {name}: pip install 'localgrad[{name}]'"
    )
    assert not (tmp_path / "run").exists()


def test_others_log_nothing(tmp_path: Path) -> None:
    experiment = build(config(**{"log.tensorboard": True}))
    log = RunLog(experiment, OthersFolder(tmp_path))
    with log.open([], {}):
        log.epoch({"epoch": 1, "lr": 0.1})
    assert not list(tmp_path.iterdir())


def test_logs_may_change_between_a_run_and_its_resumption(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(out, 4)
    more = ["--log.agreement", "true", "--checkpoint.keep", "1"]
    assert main(["train", "--out", str(out), "--resume", "--quiet", *more]) == 0
    assert ["agreement" in line for line in lines(out)] == [False, True, True]
    assert read(out / "summary.json")["epochs"] == 3
    page = (out / "report.html").read_text()
    assert "2 epochs by 3 units" in page  # the first was not noted
    assert "Agreement of" in page
