"""A command line in several processes, as torchrun starts it: with a store that outlives them.

What happens is ``RANK:HOW:BATCH``, to a process after so many batches (a function below);
``stop:EPOCH``, all are interrupted after an epoch; ``RANK:path:DIR``, it looks for data there; or
``-``, nothing. An exit code of -9 is that of a process that was killed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from localgrad import LocalgradError
from localgrad.cli import main
from localgrad.experiment.checkpoint import Position
from localgrad.experiment.loop import Watcher
from localgrad.parallel import roll, voice

LONGEST = 60.0  # seconds until what is left is killed


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


def one_process(
    rank: int, size: int, port: int, what: str, words: list[str], environment: dict[str, str]
) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    torch.set_num_threads(1)
    roll.ANSWERS, roll.GRACE, voice.ALIKE = 1.0, 1.0, 1.0
    os.environ.update(environment)
    disturb(rank, what)
    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(
    size: int, what: str, words: list[str], environment: dict[str, str], to: str
) -> dict[str, Any]:
    """Run a command line; return the exit codes, how many had to be killed, what was written.

    Args:
        size: number of processes.
        what: happens to them.
        words: the command line.
        environment: in which they start, besides this one's.
        to: folder that what they write goes to.
    """
    if "gpt" in words:
        import transformers.models.gpt2  # noqa: F401  once for all
    folder = Path(to)
    # in this process, as torchrun's: it outlives the others
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:

        def start(rank: int) -> None:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            one_process(rank, size, store.port, what, words, environment)

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


def run_several(cases: list[list[Any]], at_once: int = 3) -> list[dict[str, Any]]:
    """Run command lines, some at the same time: most of them wait for others most of the time.

    Args:
        cases: arguments of :func:`run`.
        at_once: how many.
    """
    context = multiprocessing.get_context("fork")
    waiting, running = list(cases), list[Any]()
    while waiting or running:
        while waiting and len(running) < at_once:
            running.append(context.Process(target=_keep, args=waiting.pop(0)))
            running[-1].start()
        connection.wait([one.sentinel for one in running])
        running = [one for one in running if one.is_alive()]
    return [json.loads((Path(to) / "found").read_text()) for *_, to in cases]


def _keep(*case: Any) -> None:
    (Path(case[-1]) / "found").write_text(json.dumps(run(*case)), encoding="utf-8")
