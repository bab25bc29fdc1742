"""Processes that train together, forked from one that has imported everything: that takes seconds.

Tests :func:`call` a function of a module of theirs in that process, of which each process of pytest
has one; the function starts what it needs by :func:`forked`.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

LONGEST = 300.0  # seconds until a launcher that does not answer is ended


def call(module: str, function: str, *arguments: Any) -> Any:
    """Call a function in the launcher; arguments and result are JSON, paths are text."""
    process = _launcher()
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(LONGEST, process.kill)
    timer.start()
    print(json.dumps([module, function, arguments], default=str), file=process.stdin, flush=True)
    answer = process.stdout.readline()
    timer.cancel()
    assert answer, f"{module}.{function} ended the launcher"
    return json.loads(answer)


@cache
def _launcher() -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(started.communicate)  # the end of its input ends it
    return started


def forked(one: Callable[..., None], size: int, *arguments: Any) -> list[int | None]:
    """Call ``one(rank, *arguments)`` in processes that find each other; return the exit codes."""
    port = free_port()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_begin, args=(one, rank, size, port, arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _begin(
    one: Callable[..., None], rank: int, size: int, port: int, arguments: tuple[Any, ...]
) -> None:
    import torch

    # what torchrun sets
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )  # fmt: skip
    torch.set_num_threads(1)
    one(rank, *arguments)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _serve() -> None:
    """Answer calls, a line of JSON each, until there are no more."""
    import conftest  # noqa: F401  torchvision's wheel, before anything imports it

    # isort: split

    import localgrad.cli.train  # noqa: F401

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the processes print is no answer
    for line in sys.stdin:
        module, function, arguments = json.loads(line)
        result = getattr(import_module(module), function)(*arguments)
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
