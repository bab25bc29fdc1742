"""A command line in several processes, as torchrun starts it: with a store that outlives them.

Reads cases from stdin, a list of ``{"size": processes, "what": WHAT, "words": [..]}``, and writes
what came of each to stdout; all as JSON. The imports are paid for once.

WHAT is ``RANK:HOW:BATCH``, what happens to a process after so many batches (a function below), or
``stop:EPOCH``: all are interrupted after an epoch; or ``RANK:path:DIR``: it looks for data there;
``-``: nothing. An exit code of -9 is that of a process that was killed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import conftest  # noqa: F401  torchvision's wheel, before anything imports it

# isort: split
import sklearn.datasets  # noqa: F401  before the processes part
import torch
import torch._dynamo
import transformers.models.gpt2  # noqa: F401
from torch import distributed as dist

import localgrad.cli.train  # noqa: F401
from localgrad import LocalgradError
from localgrad.cli import main
from localgrad.experiment.checkpoint import Position
from localgrad.experiment.loop import Watcher
from localgrad.parallel import roll, voice

LONGEST = 60.0  # seconds until what is left is killed
roll.ANSWERS, roll.GRACE = 1.0, 1.0
voice.ALIKE = 1.0


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


def refuse() -> None:
    raise LocalgradError("an image cannot be read")


HOW = {f.__name__: f for f in (die, stop, sleep, no_memory, fault, refuse)}


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


def run(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run one case; return the exit codes, how many had to be killed, what was written."""
    size, what = case["size"], case["what"]
    # in this process, as torchrun's: it outlives the others
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:

        def start(rank: int) -> None:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            one_process(rank, size, store.port, what, case["words"])

        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=start, args=(rank,)) for rank in range(size)]
        for process in processes:
            process.start()
        end = time.monotonic() + LONGEST
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
        left = [process for process in processes if process.is_alive()]
        for process in left:
            process.kill()
            process.join()
    return {
        "codes": [process.exitcode for process in processes],
        "left": len(left),
        "out": (folder / "out").read_text(encoding="utf-8"),
        "err": (folder / "err").read_text(encoding="utf-8"),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        results = [run(case, Path(folder)) for case in json.load(sys.stdin)]
    print(json.dumps(results))
