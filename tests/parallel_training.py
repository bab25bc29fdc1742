"""A command line in several processes, as torchrun starts it.

Usage: parallel_training.py PROCESSES EPOCHS WORD..; without it all end after so many epochs, where
EPOCHS is not 0.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

import conftest  # noqa: F401  torchvision's wheel, before anything imports it

# isort: split
import torch

import localgrad.cli.train  # noqa: F401  before the processes part
from localgrad.cli import main
from localgrad.experiment.loop import Watcher
from parallel_processes import free_port


def one_process(rank: int, size: int, port: int, epochs: int, words: list[str]) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    torch.set_num_threads(1)

    def epoch(self: Watcher, metrics: dict[str, Any], of: int) -> None:
        if metrics["epoch"] == epochs:
            raise KeyboardInterrupt

    Watcher.epoch = epoch  # type: ignore[method-assign]
    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    size, epochs, *words = sys.argv[1:]
    port = free_port()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=one_process, args=(rank, int(size), port, int(epochs), words))
        for rank in range(int(size))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))
