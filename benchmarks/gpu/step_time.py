"""A training step on a GPU: plain, compiled, on two streams, recorded as one CUDA graph.

    python benchmarks/gpu/step_time.py --network resnet110 --json benchmarks/results/step-gpu.json
    python benchmarks/gpu/step_time.py --data DIR --json FILE    # an epoch too

Each row is zero_grad, the step and SGD's step, one after the other with nothing waiting in between;
a row's time is the median of ``--repeats`` stretches of ``--steps`` steps, taken in turn with
stretches of plain BP, and its ratio the median of the ratios pair by pair. Memory is what CUDA's
allocator held at most, recording included, beyond weights, gradients and momentum; beside it what
``localgrad.predict_memory`` says. With ``--data`` an epoch of CIFAR-10 follows, augmentation
included. Awaits its first run on a GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import localgrad
from localgrad import methods as M
from localgrad import networks
from localgrad.experiment import environment

LOCAL = ("plain", "streams", "graph", "streams+graph", "compiled+streams+graph")
BACKPROP = ("plain", "compiled", "graph", "compiled+graph")


class Case:
    """A rule on a network in one of the ways to run it; ``step`` trains on a batch."""

    def __init__(self, network: str, rule: M.Method, blocks: int, batch: int, how: str) -> None:
        torch.manual_seed(0)
        model = networks.get(network).cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.rand(batch, 3, 32, 32, device="cuda").to(memory_format=torch.channels_last)
        y = torch.randint(10, (batch,), device="cuda")
        self.x, self.y = x, y
        learner = localgrad.decouple(model, rule, blocks=blocks, example_input=x[:2])
        self.learner = learner
        optimizer = torch.optim.SGD(
            learner.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True
        )
        self.predicted = localgrad.predict_memory(learner, x).activations
        ways = how.split("+")
        self.report = learner.compile(x, y, keep="always") if "compiled" in ways else None
        learner.streams = 2 if "streams" in ways else 1

        def plain(x: Tensor, y: Tensor) -> localgrad.StepOutput:
            optimizer.zero_grad()
            out = learner.step(x, y)
            optimizer.step()
            return out

        plain(x, y)  # momentum and gradients are there from now on
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.step: Callable[[Tensor, Tensor], localgrad.StepOutput] = plain
        if "graph" in ways:
            self.step = localgrad.CapturedStep(learner, x, y, optimizer=optimizer).step
        self.step(x, y)
        torch.cuda.synchronize()
        self.allocated = torch.cuda.max_memory_allocated() - held

    def seconds(self, steps: int) -> float:
        """Return the time of a step, over a stretch of them."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            self.step(self.x, self.y)
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / steps

    def epoch(self, batches: Any) -> float:
        """Return images a second of the second of two epochs."""
        speed = 0.0
        for number in range(2):
            seen, start = 0, time.perf_counter()
            for x, y in batches.epoch(number):
                self.step(x, y)
                seen += len(x)
            torch.cuda.synchronize()
            speed = seen / (time.perf_counter() - start)
        return speed


def rows_of(options: argparse.Namespace, batch: int) -> list[dict[str, Any]]:
    cases: list[tuple[M.Method, int, str]] = [(M.Backprop(), 1, how) for how in BACKPROP]
    for blocks in options.blocks:
        rules: list[M.Method] = [M.Greedy(), M.BackLink(head="pool_linear")]
        cases += [(rule, blocks, how) for rule in rules for how in LOCAL]
    batches = None
    if options.data is not None:
        from localgrad.data import load

        batches = load("cifar10", options.data).train_batches(
            batch, seed=0, drop_last=True, augment=True, device="cuda", channels_last=True
        )
    baseline = Case(options.network, M.Backprop(), 1, batch, "plain")
    baseline.seconds(options.steps)
    found = []
    for rule, blocks, how in cases:
        case = Case(options.network, rule, blocks, batch, how)
        case.seconds(options.steps)
        pairs = [
            (case.seconds(options.steps), baseline.seconds(options.steps))
            for _ in range(options.repeats)
        ]
        ratios = [took / base for took, base in pairs]
        row = {
            "network": options.network,
            "batch": batch,
            "rule": M.label(rule),
            "blocks": blocks,
            "how": how,
            "median_seconds": statistics.median(took for took, _ in pairs),
            "time_ratio": statistics.median(ratios),
            "time_ratio_std": statistics.stdev(ratios),
            "allocated_bytes": case.allocated,
            "predicted_bytes": case.predicted,
            "compile": None if case.report is None else case.report.to_dict(),
            "epoch_images_per_second": None if batches is None else case.epoch(batches),
        }
        found.append(row)
        speed = row["epoch_images_per_second"]
        print(
            f"batch {batch:<5} {row['rule']:32} K={blocks:<3} {how:23} "
            f"{1e3 * row['median_seconds']:8.2f} ms  ratio {row['time_ratio']:.2f} "
            f"+- {row['time_ratio_std']:.2f}  {case.allocated / 2**20:8.0f} MiB "
            f"(predicted {case.predicted / 2**20:.0f})"
            + ("" if speed is None else f"  {speed:,.0f} images/s"),
            flush=True,
        )
        del case
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet110")
    parser.add_argument("--blocks", type=int, nargs="+", default=[16, 55])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--steps", type=int, default=20, help="steps of a stretch")
    parser.add_argument("--repeats", type=int, default=7, help="stretches")
    parser.add_argument("--data", help="folder of CIFAR-10: time an epoch too")
    parser.add_argument("--json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("needs a CUDA device")
    if options.repeats < 5:
        parser.error("--repeats must be at least 5 for a median worth quoting")
    torch.backends.cudnn.benchmark = True
    rows = [row for batch in options.batches for row in rows_of(options, batch)]
    if options.json:
        about = environment.describe(torch.device("cuda"))
        document = {**about, "n": options.repeats, "steps": options.steps, "rows": rows}
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
