"""What a training step takes where threads that wait spin for long, and where they soon sleep.

    python benchmarks/cpu/waiting.py --json FILE

The setting is read when torch is imported, so each measurement is a process of its own; the two
alternate, first with nothing else on the machine, then beside a busy process on every core. Nothing
else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import localgrad
from localgrad import networks
from localgrad.experiment import environment

CASES = {"BP, 1x8x8, batch 64": (64, 1, 8, 8), "BP, 3x32x32, batch 64": (64, 3, 32, 32)}
WAITS: dict[str, str | None] = {"long": None, "short": "10000"}  # GOMP_SPINCOUNT
SECONDS = 3.0  # of steps, of which the last one began within them


def measure(case: str, found: Any) -> None:
    shape = CASES[case]
    localgrad.keep_freed_memory()
    torch.manual_seed(0)
    layout = torch.channels_last
    model = networks.get("resnet32", in_channels=shape[1])
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    x, y = torch.rand(shape).to(memory_format=layout), torch.randint(10, shape[:1])
    learner = localgrad.decouple(model, "backprop")
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.01, momentum=0.9)
    learner.step(x, y, update=optimizer)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        learner.step(x, y, update=optimizer)
        steps += 1
    found.put((time.perf_counter() - start) / steps)


def one(case: str, spins: str | None) -> float:
    os.environ.pop("GOMP_SPINCOUNT", None)
    if spins is not None:
        os.environ["GOMP_SPINCOUNT"] = spins
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=measure, args=(case, found))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)
    seconds: float = found.get()
    return seconds


def busy(parent: int) -> None:
    while os.getppid() == parent:
        pass


@contextmanager
def beside(processes: int) -> Iterator[None]:
    """Keep as many cores busy."""
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=busy, args=(os.getpid(),), daemon=True) for _ in range(processes)
    ]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--json")
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error("--repeats must be at least 2")
    rows = []
    for others in (0, torch.get_num_threads()):
        for case in options.cases:
            with beside(others):
                pairs = [
                    [one(case, spins) for spins in WAITS.values()] for _ in range(options.repeats)
                ]
            ratios = [short / long for long, short in pairs]
            seconds = zip(WAITS, zip(*pairs, strict=True), strict=True)
            row = {
                "case": case,
                "busy_processes": others,
                **{f"{name}_seconds": statistics.median(found) for name, found in seconds},
                "ratio": {"mean": statistics.mean(ratios), "std": statistics.stdev(ratios)},
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    if options.json:
        about = environment.describe(torch.device("cpu"))
        document = {**about, "network": "resnet32", "n": options.repeats, "rows": rows}
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
