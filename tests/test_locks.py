"""A folder that a process fills is not filled by another one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from command import SMALL, error_line, snapshot, words
from localgrad.cli import main
from localgrad.errors import LocalgradError
from localgrad.experiment import locks, loop
from localgrad.experiment.config import to_yaml
from localgrad.experiment.folder import LOCK, OthersFolder, RunFolder
from localgrad.experiment.locks import locked

if sys.platform == "win32":
    pytest.skip("locks are of POSIX systems", allow_module_level=True)

TINY = {key: value for key, value in SMALL.items() if not key.startswith("network")}
TINY["network.name"] = "digit_nets:mlp"
COMPARED = {**TINY, "methods": "backprop,greedy", "repeats": 5}
COMMANDS = {
    "train": ["train", *words(TINY)],
    "train --resume": ["train", *words(TINY), "--resume"],
    "compare": ["compare", *words(COMPARED)],
    "reproduce": ["reproduce", "auglocal/resnet32", "--rows", "bp"],
    "search": ["search", *words(TINY), "--search.trials", "1"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_second_one_is_refused_and_touches_nothing(
    command: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    out = tmp_path / "x"
    if command == "train --resume":
        assert main([*COMMANDS["train"], "--quiet", "--out", str(out)]) == 0
        (out / "summary.json").unlink()
    else:
        out.mkdir()
    capsys.readouterr()
    if command == "reproduce":  # its data are not at hand; what counts is before them
        monkeypatch.setattr("localgrad.experiment.reproduce.runs._estimated", None)
    with RunFolder(out).alone():
        before = snapshot(out)
        assert main([*COMMANDS[command], "--out", str(out)]) == 2
        assert snapshot(out) == before
    assert error_line(capsys) == (
        f"error: {out} is in use by process {os.getpid()}: wait until it has ended, or give "
        "another --out"
    )


def test_a_run_of_a_comparison_that_is_in_use_does_not_stop_the_others(
    tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "x"
    (out / "bp-s0").mkdir(parents=True)
    with RunFolder(out / "bp-s0").alone():
        assert main(["compare", *words(COMPARED), "--out", str(out), "--quiet"]) == 1
    line = error_line(capsys)
    assert line.startswith(f"error: 1 of 2 runs failed: BP, seed 0 ({out / 'bp-s0'} is in use by")
    assert snapshot(out / "bp-s0") == {}
    assert (out / "greedy-s0" / "summary.json").exists()


@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.parametrize("what", ["runs", "has run"])
def test_a_folder_that_another_makes_in_the_meantime(
    what: str, resume: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """It was not there when it was looked at, and is when the run is to begin."""
    out = tmp_path / "x"
    good = loop.measure_cost
    with ExitStack() as other:

        def meanwhile(experiment: Any) -> Any:
            out.mkdir()
            if what == "runs":
                other.enter_context(RunFolder(out).alone())
            else:
                (out / "config.yaml").write_text(to_yaml(experiment.config))
            return good(experiment)

        monkeypatch.setattr(loop, "measure_cost", meanwhile)
        assert main([*COMMANDS["train"], "--out", str(out), "--quiet", *resume]) == 2
    expected = "is in use by process" if what == "runs" else "holds a run already"
    assert expected in error_line(capsys)
    assert set(snapshot(out)) == (set() if what == "runs" else {"config.yaml"})


def test_a_lock_is_let_go(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for _ in range(2):
        with folder.alone(), folder.alone():
            assert {path.name for path in tmp_path.iterdir()} == {LOCK}
            with (
                pytest.raises(LocalgradError, match="is in use by process"),
                RunFolder(tmp_path).alone(),
            ):
                pass
        assert not list(tmp_path.iterdir())


def test_processes_of_one_run_share_its_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path).alone(), OthersFolder(tmp_path).alone():
        pass


def test_whoever_waits_gets_the_file_that_is_there(tmp_path: Path) -> None:
    """A lock on a file that its last holder has removed keeps nobody out."""
    path = tmp_path / LOCK
    good, removed = locks._is_at, []

    def removes(handle: int, at: Path) -> bool:
        if not removed:
            removed.append(at.unlink())
        return good(handle, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "_is_at", removes)
        with (
            locked(path, seconds=0),
            pytest.raises(LocalgradError, match="busy"),
            locked(path, seconds=0, busy="busy"),
        ):
            pass
    assert removed == [None]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_systems_without_locks(number: int, tmp_path: Path, monkeypatch: Any) -> None:
    def none(handle: int, kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with RunFolder(tmp_path).alone(), RunFolder(tmp_path).alone():
        pass


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: Any) -> None:
    def refuses(*given: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(locks.os, "open", refuses)
    with RunFolder(tmp_path).alone():
        pass


HOLDS = """
import os, sys, time
from pathlib import Path
from localgrad.experiment.locks import locked

with locked(Path(sys.argv[1]), seconds=0, stays=False):
    child = os.fork()  # such as a worker of a data loader
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


def test_a_killed_process_holds_nothing_nor_do_its_children(tmp_path: Path) -> None:
    path = tmp_path / LOCK
    line = [sys.executable, "-c", HOLDS, str(path)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        busy = pytest.raises(LocalgradError, match=f"^by process {process.pid}$")
        with busy, locked(path, seconds=0, busy="by {holder}"):
            pass
        process.kill()
        process.wait()
        assert path.exists()
        with locked(path, seconds=0, stays=False):
            os.kill(child, 0)  # it is still there
        assert not path.exists()
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()
