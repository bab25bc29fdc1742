"""What a training step takes where the C library gives freed memory back, and where it is kept.

    python benchmarks/cpu/freed_memory.py --json FILE

The setting cannot be taken back, so each measurement is a process of its own; the two settings
alternate. Counted besides: page faults a step, seconds of the kernel a step, the largest resident
set. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import localgrad
from localgrad import methods as M
from localgrad import networks
from localgrad.experiment import environment

RULES: dict[str, tuple[M.Method, int]] = {
    "BP": (M.Backprop(), 1),
    "Greedy": (M.Greedy(), 55),
    "BackLink": (M.BackLink(head="pool_linear"), 55),
}
BATCH = 128


def measure(rule: str, kept: bool, steps: int, found: Any) -> None:
    torch.set_num_threads(1)
    if kept and not localgrad.keep_freed_memory():
        raise SystemExit("not the GNU C library: nothing to compare")
    torch.manual_seed(0)
    method, blocks = RULES[rule]
    layout = torch.channels_last
    model = networks.get("resnet110").to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.rand(BATCH, 3, 32, 32).to(memory_format=layout)
    y = torch.randint(10, (BATCH,))
    learner = localgrad.decouple(model, method, blocks=blocks, example_input=x[:2])
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        learner.step(x, y, update=optimizer)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for _ in range(steps):
        learner.step(x, y, update=optimizer)
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    found.put(
        {
            "seconds": took / steps,
            "kernel_seconds": (after.ru_stime - before.ru_stime) / steps,
            "page_faults": (after.ru_minflt - before.ru_minflt) / steps,
            "resident_bytes": after.ru_maxrss * 1024,
        }
    )


def one(rule: str, kept: bool, steps: int) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=measure, args=(rule, kept, steps, found))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)
    result: dict[str, float] = found.get()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json")
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error("--repeats must be at least 2")
    rows = []
    for rule, (method, blocks) in RULES.items():
        pairs = [
            (one(rule, False, options.steps), one(rule, True, options.steps))
            for _ in range(options.repeats)
        ]
        ratios = [kept["seconds"] / given["seconds"] for given, kept in pairs]
        row = {
            "rule": M.label(method),
            "blocks": blocks,
            "ratio": {"mean": statistics.mean(ratios), "std": statistics.stdev(ratios)},
            **{
                name: {
                    key: statistics.median(pair[side][key] for pair in pairs) for key in pairs[0][0]
                }
                for side, name in enumerate(("given_back", "kept"))
            },
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    if options.json:
        about = environment.describe(torch.device("cpu"))
        document = {
            **about, "network": "resnet110", "batch": BATCH, "n": options.repeats,
            "steps": options.steps, "rows": rows,
        }  # fmt: skip
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
