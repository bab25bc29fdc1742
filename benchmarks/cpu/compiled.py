"""Compiled steps against plain ones, rule by rule.

    python benchmarks/cpu/compiled.py --network resnet32 --layout channels_last --json FILE

A compiled step and a plain one in turn, each with ``zero_grad`` and the optimizer's step; the
median of the ratios pair by pair. Nothing else should run meanwhile. A rule takes minutes to
compile on a CPU the first time; torch keeps the code (``TORCHINDUCTOR_CACHE_DIR``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import localgrad
from localgrad import methods as M
from localgrad import networks
from localgrad.experiment import environment

CASES: dict[str, tuple[M.Method, int]] = {
    "bp": (M.Backprop(), 1),
    "greedy-4": (M.Greedy(), 4),
    "greedy-16": (M.Greedy(), 16),
    "backlink-4": (M.BackLink(head="pool_linear"), 4),
}


def seconds(run: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    rule, blocks = CASES[name]
    device = options.device
    torch.manual_seed(0)
    layout = getattr(torch, options.layout)
    model = networks.get(options.network).to(device).to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.rand(options.batch, 3, 32, 32, device=device).to(memory_format=layout)
    y = torch.randint(10, (options.batch,), device=device)
    learner = localgrad.decouple(model, rule, blocks=blocks, example_input=x[:2])
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.01, momentum=0.9)
    report = learner.compile(x, y, keep="always")
    compiled = [group.runs for group in learner._groups]

    def step() -> None:
        optimizer.zero_grad()
        learner.step(x, y)
        optimizer.step()

    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(options.repeats + 1):
        for found, on in zip(times, (False, True), strict=True):
            for group, runs in zip(learner._groups, compiled, strict=True):
                group.runs = runs if on else {}
            took = seconds(step, device)
            if turn:
                found.append(took)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    return {
        "network": options.network,
        "rule": M.label(rule),
        "blocks": blocks,
        "layout": options.layout,
        "graphs": report.graphs,
        "compile_seconds": report.seconds,
        "gradient_difference": report.difference,
        "plain_seconds": statistics.median(times[0]),
        "compiled_seconds": statistics.median(times[1]),
        "time_ratio": statistics.median(ratios),
        "time_ratio_std": statistics.stdev(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet32")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--layout", default="channels_last")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json")
    options = parser.parse_args()
    if options.layout not in ("channels_last", "contiguous_format"):
        parser.error("--layout is channels_last or contiguous_format")
    if options.repeats < 5:
        parser.error("--repeats must be at least 5 for a median worth quoting")
    rows = []
    for name in options.cases:
        row = measure(name, options)
        rows.append(row)
        print(
            f"{row['rule']:40} K={row['blocks']:<3} {row['graphs']:3d} graphs in "
            f"{row['compile_seconds']:6.1f} s  difference {row['gradient_difference']:.1e}  "
            f"plain {1e3 * row['plain_seconds']:7.1f} ms  "
            f"compiled {1e3 * row['compiled_seconds']:7.1f} ms  "
            f"ratio {row['time_ratio']:.2f} +- {row['time_ratio_std']:.2f}",
            flush=True,
        )
        torch._dynamo.reset()
    if options.json:
        about = environment.describe(torch.device(options.device))
        document = {**about, "n": options.repeats, "batch": options.batch, "rows": rows}
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
