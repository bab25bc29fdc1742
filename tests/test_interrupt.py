"""Ctrl-C from the first import of a command to the end of its process: 0 or 130, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command import SMALL, words
from localgrad import report
from localgrad.cli import main

STOPPED = "stopped at once; what was saved before is kept\n"
TINY = {key: value for key, value in SMALL.items() if not key.startswith("network")}
TINY["network.name"] = "digit_nets:mlp"

# imported by Python before anything of ours; {when} is what leads to the call of `ctrl_c`
EARLY = """
import atexit, os, signal, sys

def ctrl_c(*given):
    os.kill(os.getpid(), signal.SIGINT)

class Finalised:
    __del__ = ctrl_c

class Importing:
    def find_spec(self, name, *rest):
        {when}

sys.meta_path.insert(0, Importing())
"""
MOMENTS = {
    "while torch is imported": "name == 'torch.optim' and ctrl_c()",
    "while a command is imported": "name == 'localgrad.experiment.config' and ctrl_c()",
    "in a finaliser": "name == 'localgrad.experiment.config' and Finalised()",
    "at Python's end": "name == 'localgrad.experiment.config' and atexit.register(ctrl_c)",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process(moment: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(EARLY.format(when=MOMENTS[moment]))
    line = [sys.executable, "-m", "localgrad", "train", "--print_config"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        line, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 130
    begun = moment in ("while a command is imported", "in a finaliser")
    assert done.stderr == (STOPPED if begun else "")
    assert done.stdout.startswith("method:") == (moment == "at Python's end")


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def converted() -> None:
    """As compiled modules of other libraries do while they are imported."""
    try:
        ctrl_c()
    except KeyboardInterrupt as error:
        raise ImportError("initialization failed") from error


class Finalised:
    def __del__(self) -> None:
        ctrl_c()


@pytest.mark.parametrize("how", [ctrl_c, converted, Finalised])
def test_while_the_report_is_written(
    how: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    out = tmp_path / "x"
    monkeypatch.setattr(report, "write_run", lambda *given: how())
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    assert main(["train", *words(TINY), "--out", str(out), "--quiet"]) == 130
    assert capsys.readouterr().err == STOPPED
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before
    monkeypatch.undo()
    assert main(["train", "--out", str(out), "--resume"]) == 0
    assert (out / "report.html").exists()


def test_an_error_after_a_wish_to_stop_is_an_error(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Ctrl-C while a run trains is a wish; that its state cannot be saved is to be told."""

    def full(*given: Any) -> None:
        ctrl_c()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("localgrad.experiment.checkpoint.torch.save", full)
    assert main(["train", *words(TINY), "--out", str(tmp_path / "x"), "--quiet"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("stopping after this batch")
    assert second.startswith("error: cannot write")
    assert second.endswith("No space left on device")
