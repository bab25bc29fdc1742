"""The one line that says why a command has ended, in one process or in several."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time

from torch import distributed as dist

from localgrad.parallel.voice import to_be_said

MISTAKE = 2


def say(text: str, own: bool = True, more: str = "") -> None:
    """Print an error as one line on stderr; of several processes that have one, a single one does.

    Args:
        text: what went wrong.
        own: here, and not in another process that was lost.
        more: printed before it.
    """
    text = " ".join(text.split())
    said = to_be_said(text, own)
    if said is not None:
        print(f"{more}error: {said}", file=sys.stderr, flush=True)
    _tell_launcher(said or text)


def end_now(text: str) -> None:
    """End this process and those that it has started; its main thread cannot do it any more."""
    if text:
        say(text, own=False)
    _leave(MISTAKE)


def left(code: int) -> int:
    """Return the exit code; where others were joined, end here: a farewell could wait for them."""
    if dist.is_available() and dist.is_initialized():
        _leave(code)
    return code


def _leave(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def _tell_launcher(text: str) -> None:
    """Let the launcher's own log name the reason (torchrun's file for the error of a process)."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    told = {"py_callstack": text, "timestamp": str(int(time.time()))}
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": text, "extraInfo": told}}, file)
    except OSError:
        return  # it is the launcher's alone
