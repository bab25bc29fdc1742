"""A command line in several processes, as torchrun starts it: with a store that outlives them.

Usage: parallel_training.py PROCESSES WHAT WORD..

WHAT is ``RANK:HOW:BATCH``, what happens to a process after so many batches (a function below), or
``stop:EPOCH``: all are interrupted after an epoch; ``-``: nothing. Ends with the processes' exit
codes as JSON on stdout; -9 is a process that was killed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from typing import Any

import conftest  # noqa: F401  torchvision's wheel, before anything imports it

# isort: split
import torch
from torch import distributed as dist

import localgrad.cli.train  # noqa: F401  before the processes part
from localgrad.cli import main
from localgrad.experiment.checkpoint import Position
from localgrad.experiment.loop import Watcher
from localgrad.parallel import roll

LONGEST = 60.0  # seconds until what is left is killed
roll.ANSWERS, roll.GRACE = 1.0, 1.0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep() -> None:
    """Hang in one's own work: the thread that answers is still there."""
    time.sleep(LONGEST)


def no_memory() -> None:
    raise MemoryError("no room for 3 bytes")


def fault() -> None:
    raise KeyError("a fault of the program")


def diverge() -> None:
    for parameter in _parameters:
        parameter.data.fill_(float("nan"))


_parameters: list[Any] = []
HOW = {f.__name__: f for f in (die, stop, sleep, no_memory, fault, diverge)}


def disturb(rank: int, what: str) -> None:
    """Let it happen."""
    if what == "-":
        return
    if what.startswith("stop:"):

        def epoch(self: Watcher, metrics: dict[str, Any], of: int) -> None:
            if metrics["epoch"] == int(what.partition(":")[2]):
                raise KeyboardInterrupt

        Watcher.epoch = epoch  # type: ignore[method-assign]
        return
    whose, how, after = what.split(":")
    if rank != int(whose):
        return
    if how == "path":  # this machine has the data elsewhere
        os.environ["LOCALGRAD_DATA"] = after
        return
    done = 0

    def batch(self: Watcher, position: Position, batches: int, losses: Any) -> None:
        nonlocal done
        done += 1
        if done == int(after):
            HOW[how]()

    Watcher.batch = batch  # type: ignore[method-assign]


def one_process(rank: int, size: int, port: int, what: str, words: list[str]) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    torch.set_num_threads(1)
    disturb(rank, what)
    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    size, what, *words = sys.argv[1:]
    context = multiprocessing.get_context("fork")
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    processes = [
        context.Process(target=one_process, args=(rank, int(size), store.port, what, words))
        for rank in range(int(size))
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + LONGEST
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    left = [process for process in processes if process.is_alive()]
    for process in left:
        process.kill()
        process.join()
    print(json.dumps({"codes": [process.exitcode for process in processes], "left": len(left)}))
    sys.exit(max(abs(process.exitcode or 0) for process in processes))
