"""Checkpoints: nothing damaged is used, nothing good is lost, whatever stops the writing."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from command import SMALL, error_line, metrics, read, snapshot, words
from localgrad.cli import main
from localgrad.errors import LocalgradError
from localgrad.experiment import checkpoint, folder, loop
from localgrad.experiment.build import Experiment, build
from localgrad.experiment.checkpoint import Position
from localgrad.experiment.config import build_config
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.kept_checkpoints import KeptCheckpoints
from localgrad.experiment.loop import Interrupted
from localgrad.experiment.same_run import identity
from localgrad.experiment.seal import SealError, check_seal, seal
from localgrad.experiment.tree import override

OPTIONS: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if not key.startswith("network")},
    "network.name": "digit_nets:dropout",
    "method.name": "greedy",
    "epochs": 3,
}


def _benchmark() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "cpu" / "interruptions.py"
    spec = importlib.util.spec_from_file_location("interruptions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DAMAGES = _benchmark().DAMAGES


def run(path: Path, stop_after: int | None = None, **changed: Any) -> None:
    """Train; ``stop_after`` batches, or to the end."""
    tree: dict[str, Any] = {}
    for key, value in {**OPTIONS, **changed}.items():
        override(tree, key, value)
    left = [stop_after or 10**9]

    def stop() -> bool:
        left[0] -= 1
        return left[0] <= 0

    experiment = build(build_config(tree))
    if stop_after is None:
        loop.train(experiment, RunFolder(path), resume=True, stop=stop)
        return
    with pytest.raises(Interrupted):
        loop.train(experiment, RunFolder(path), resume=True, stop=stop)


def resume(path: Path) -> int:
    return main(["train", "--out", str(path), "--resume", "--quiet"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    run(path)
    return path


@pytest.fixture(scope="module")
def two_stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("stopped")
    for name, seed in (("run", 0), ("other", 1)):
        run(root / name, 5, seed=seed)  # within the second epoch of three batches
    return root / "run", root / "other"


@pytest.fixture
def stopped(two_stopped: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of a stopped run."""
    return Path(shutil.copytree(two_stopped[0], tmp_path / "run"))


def built(path: Path) -> tuple[KeptCheckpoints, Experiment, torch.optim.Optimizer]:
    """What the checkpoints of ``run`` fit, before anything is loaded."""
    experiment = build(build_config({"network": "digit_nets:dropout", "method": "greedy"}))
    optimizer = torch.optim.SGD(experiment.learner.parameters(), lr=0.1, momentum=0.9)
    return KeptCheckpoints(RunFolder(path), 2), experiment, optimizer


def run_of(path: Path) -> str:
    return str(read(path / "environment.json")["run"])


def assert_same(path: Path, whole: Path) -> None:
    assert (path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert metrics(path) == metrics(whole)


# --- damaged ones


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_one_is_named_and_not_used(
    kind: str, stopped: Path, two_stopped: tuple[Path, Path]
) -> None:
    last = stopped / "checkpoint" / "last.pt"
    DAMAGES[kind](last, two_stopped[1] / "checkpoint" / "last.pt")
    kept, experiment, optimizer = built(stopped)
    position, said = kept.load(experiment.learner, optimizer, None, run_of(stopped))
    assert (position.epoch, position.batch) == (1, 0)
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint {last} is damaged or of another network: ")
    assert said[0].endswith("; going on from last-1.pt")
    assert "\n" not in said[0]
    good = torch.load(kept.best, weights_only=True)  # of the same moment
    for name, value in experiment.learner.state_dict().items():
        assert torch.equal(value, good["learner"][name])
    assert torch.equal(torch.get_rng_state(), good["random"])


@pytest.mark.parametrize("kind", ["a bit of the data", "of another run"])
def test_the_run_ends_with_the_same_bits(
    kind: str,
    stopped: Path,
    two_stopped: tuple[Path, Path],
    whole: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = stopped / "checkpoint"
    assert {path.name for path in files.iterdir()} == {"last.pt", "last-1.pt", "best.pt"}
    DAMAGES[kind](files / "last.pt", two_stopped[1] / "checkpoint" / "last.pt")
    assert resume(stopped) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"warning: checkpoint {files / 'last.pt'} is damaged or of another ")
    assert_same(stopped, whole)


def test_the_kinds_are_ten() -> None:
    assert len(DAMAGES) == 10


def test_where_none_is_good_nothing_is_touched(
    stopped: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = stopped / "checkpoint"
    for name in ("last.pt", "last-1.pt"):
        (files / name).write_bytes(b"")
    shutil.copytree(stopped, stopped.parent / "best")
    (files / "best.pt").write_bytes(b"PK")
    before = snapshot(stopped)
    assert resume(stopped) == 2
    line = error_line(capsys)
    for name, reason in (
        ("last", "it is empty"),
        ("last-1", "it is empty"),
        ("best", "no archive"),
    ):
        assert f"{files / name}.pt is damaged or of another network: it" in line
        assert reason in line
    assert line.endswith(f"delete {files} to start the run anew")
    after = snapshot(stopped)
    before.pop("config.yaml"), after.pop("config.yaml")  # it says where the folder is
    assert after == before
    shutil.rmtree(files)
    assert resume(stopped) == 0
    assert_same(stopped, whole)
    # the best one is a checkpoint too
    assert resume(stopped.parent / "best") == 0
    assert capsys.readouterr().err.count("; going on from best.pt\n") == 2
    assert_same(stopped.parent / "best", whole)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(40), "b": "text"}, path)
    check_seal(path)  # one of before there were digests
    seal(path)
    check_seal(path)
    good = path.read_bytes()
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.arange(40))
    for position in range(0, len(good), 13):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        path.write_bytes(bad)
        with pytest.raises(SealError):
            check_seal(path)
    for length in range(0, len(good), 31):
        path.write_bytes(good[:length])
        with pytest.raises(SealError):
            check_seal(path)
    path.write_bytes(good + b" ")
    with pytest.raises(SealError, match="its end is missing"):
        check_seal(path)


def test_a_run_of_before_there_were_digests_goes_on(stopped: Path, whole: Path) -> None:
    last = stopped / "checkpoint" / "last.pt"
    state = torch.load(last, weights_only=True)
    del state["position"]["run"]
    torch.save(state, last)
    for name in ("last-1.pt", "best.pt"):
        (last.parent / name).unlink()
    environment = read(stopped / "environment.json")
    del environment["run"]
    RunFolder(stopped).write_json("environment.json", environment)
    assert resume(stopped) == 0
    assert_same(stopped, whole)


def test_no_pickled_code_is_run(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
            return os.mkdir, (str(stopped / "sprung"),)

    last = stopped / "checkpoint" / "last.pt"
    torch.save({"learner": Trap()}, last)
    seal(last)
    assert resume(stopped) == 0
    assert "last.pt is damaged" in capsys.readouterr().err
    assert not (stopped / "sprung").exists()


# --- which are kept


def small(path: Path, keep: int) -> tuple[KeptCheckpoints, nn.Module, torch.optim.Optimizer]:
    learner = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
    return KeptCheckpoints(RunFolder(path), keep), learner, optimizer


def save(path: Path, keep: int, batch: int) -> None:
    kept, learner, optimizer = small(path, keep)
    with kept.making_room():
        checkpoint.save(kept.last, learner, optimizer, Position(batch=batch))


def batches(path: Path) -> list[int]:
    """The positions of the checkpoints that there are, the newest first."""
    kept, learner, optimizer = small(path, 1)
    return [checkpoint.load(file, learner, optimizer).batch for file in kept.found()]


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    for batch in range(7):
        save(tmp_path, keep, batch)
        assert batches(tmp_path) == list(range(batch, max(-1, batch - keep), -1))
    save(tmp_path, 2, 7)  # with fewer to keep
    assert batches(tmp_path) == [7, 6]
    names = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert names == {"last.pt", "last-1.pt"}


@pytest.mark.parametrize("keep", [2, 3])
def test_killed_between_any_two_file_operations(
    tmp_path: Path, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one operation on nothing happens any more, as after SIGKILL."""

    class Killed(BaseException):
        pass

    left = [10**9]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return call(*given, **named)

        return operation

    calls = [(os, "replace"), (os, "link"), (os, "fsync"), (Path, "unlink"), (torch, "save")]
    for at in range(40):
        path = tmp_path / str(at)
        for batch in range(4):
            save(path, keep, batch)
        with monkeypatch.context() as patched:
            for owner, name in calls:
                patched.setattr(owner, name, counted(getattr(owner, name)))
            left[0] = at
            try:
                save(path, keep, 4)
            except Killed:
                done = False
            else:
                done = True
        found = batches(path)
        assert found in ([3, 2, 1][:keep], [4, 3, 2, 1][:keep], [4, 3, 2, 1][: keep + 1])
        save(path, keep, found[0] + 1)
        assert batches(path) == [found[0] + 1, *found][:keep]
        if done:
            return
    raise AssertionError("the writing never came to its end")


def test_a_damaged_one_takes_no_good_ones_place(tmp_path: Path) -> None:
    for batch in range(4):
        save(tmp_path, 3, batch)
    kept, learner, optimizer = small(tmp_path, 3)
    kept.last.write_bytes(b"")
    position, said = kept.load(learner, optimizer, None, "")
    assert (position.batch, len(said)) == (2, 1)
    with kept.making_room():
        checkpoint.save(kept.last, learner, optimizer, Position(batch=9))
    assert batches(tmp_path) == [9, 2, 1]


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    kept, learner, optimizer = small(tmp_path, 1)
    history: list[dict[str, Any]] = []

    def best() -> int:
        return checkpoint.load(kept.best, learner, optimizer).epoch

    for epoch, accuracy in enumerate([0.2, 0.5, 0.4, 0.5, 0.6], start=1):
        history.append({"test_accuracy": accuracy})
        with kept.making_room():
            checkpoint.save(kept.last, learner, optimizer, Position(epoch=epoch))
        kept.note_best(history, Position(epoch=epoch))
        assert best() == (1, 2, 2, 2, 5)[epoch - 1]
    with kept.making_room():
        checkpoint.save(kept.last, learner, optimizer, Position(epoch=5, batch=1))
    kept.note_best(history, Position(epoch=5, batch=1))
    assert best() == 5
    assert checkpoint.load(kept.best, learner, optimizer).batch == 0
    # a validation part decides where there is one
    history = [
        {"test_accuracy": 0.9, "validation_accuracy": 0.1},
        {"test_accuracy": 0.1, "validation_accuracy": 0.9},
    ]
    for epoch in (1, 2):
        with kept.making_room():
            checkpoint.save(kept.last, learner, optimizer, Position(epoch=epoch))
        kept.note_best(history[:epoch], Position(epoch=epoch))
    assert best() == 2


def test_a_run_keeps_as_many_as_it_says(tmp_path: Path, whole: Path) -> None:
    run(tmp_path / "run", **{"checkpoint.keep": 3, "checkpoint_every": 1})
    files = {path.name for path in (tmp_path / "run" / "checkpoint").iterdir()}
    assert files == {"last.pt", "last-1.pt", "last-2.pt", "best.pt"}
    found = [line["test_accuracy"] for line in metrics(tmp_path / "run")]
    best = torch.load(tmp_path / "run" / "checkpoint" / "best.pt", weights_only=True)
    assert best["position"]["epoch"] == 1 + found.index(max(found))
    assert_same(tmp_path / "run", whole)


def test_where_files_cannot_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for batch in range(3):
        save(tmp_path, 2, batch)
        assert batches(tmp_path) == [batch, batch - 1][: batch + 1]


# --- a full disk


@pytest.fixture(params=["save", "seal", "link and copy"])
def full_disk(
    stopped: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    def refuse(*given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        if request.param == "save":
            patched.setattr(torch, "save", refuse)
        elif request.param == "seal":
            patched.setattr(checkpoint, "seal", refuse)
        else:
            patched.setattr(os, "link", refuse)
            patched.setattr(shutil, "copyfile", refuse)
        yield stopped


def test_a_full_disk_loses_nothing(full_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped = full_disk
    before = snapshot(stopped / "checkpoint")
    assert resume(stopped) == 2
    line = error_line(capsys)
    assert f"cannot write {stopped / 'checkpoint'}" in line
    assert line.endswith(": No space left on device")
    assert snapshot(stopped / "checkpoint") == before


def test_after_a_full_disk_the_run_goes_on(stopped: Path, whole: Path) -> None:
    (stopped / "checkpoint" / "last.pt.part").write_bytes(b"half")
    (stopped / "checkpoint" / "aside.pt.part").write_bytes(b"half")
    assert resume(stopped) == 0
    assert_same(stopped, whole)
    assert not list((stopped / "checkpoint").glob("*.part"))


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be synced")
def test_the_file_and_then_its_folder_reach_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(number: int) -> None:
        done.append("sync " + Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)

    def replaced(old: Path, new: Path) -> None:
        done.append(f"{old.name} -> {new.name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    folder.atomically(tmp_path / "x", lambda part: part.write_text("text"))
    assert done == ["sync x.part", "x.part -> x", f"sync {tmp_path.name}"]


def test_another_run_of_the_same_shape_is_refused(stopped: Path, two_stopped: Any) -> None:
    other = two_stopped[1] / "checkpoint" / "last.pt"
    kept, experiment, optimizer = built(stopped)
    checkpoint.load(other, experiment.learner, optimizer)  # it would fit
    run = run_of(stopped)
    with pytest.raises(LocalgradError, match="it is of another run"):
        checkpoint.load(other, experiment.learner, optimizer, run=run)
    assert checkpoint.load(kept.last, experiment.learner, optimizer, run=run).batch == 2


def test_the_options_of_a_run_decide_which_it_is() -> None:
    def of(**changed: Any) -> str:
        tree: dict[str, Any] = {}
        for key, value in changed.items():
            override(tree, key, value)
        return identity(build_config(tree))

    assert of() == of(**{"data.path": "elsewhere", "threads": 3, "log.tensorboard": True})
    assert len({of(), of(seed=1), of(**{"network.name": "resnet32"}), of(epochs=11)}) == 4


def test_options_are_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = words({**OPTIONS, "checkpoint.keep": 0})
    assert main(["train", *given, "--out", str(tmp_path / "x")]) == 2
    assert "checkpoint.keep: must be greater than or equal to 1, got 0" in error_line(capsys)
