"""One training step of every rule against BP: time, peak activation memory, FLOPs.

    python benchmarks/cpu/step.py --network resnet32 --json FILE

Memory and FLOPs are exact and machine-independent. Time is a ratio to BP, taken in this process:
a step of BP and a step of the rule in turn, and the median of the ratios pair by pair, so that a
machine whose speed drifts does not matter. Nothing else should run meanwhile.
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

RULES: dict[str, list[M.Method]] = {
    "resnet32": [
        M.Backprop(),
        M.Backprop("unit"),
        M.Backprop("sqrt"),
        M.Greedy(),
        M.Greedy(head="conv_mlp"),
        M.DGL(),
        M.PredSim(),
        M.InfoPro(),
        M.BackLink(head="pool_linear"),
        M.BackLink(head="pool_linear", keep_error=False),
        M.BackLink(),
        M.BackLink(length_unit="layer"),
        M.AugLocal(2),
        M.AugLocal(5),
        M.BWBPF(),
        M.DeepSupervision(),
    ],
    "resnet110": [
        M.Backprop(),
        M.Backprop("unit"),
        M.Backprop("sqrt"),
        M.Greedy(),
        M.BackLink(head="pool_linear"),
        M.AugLocal(2),
    ],
}
BLOCKS = {"resnet32": 16, "resnet110": 55}


class Case:
    """A rule on a network with an optimizer, ready to step."""

    def __init__(self, network: str, rule: M.Method, batch: int, device: str) -> None:
        torch.manual_seed(0)
        model = networks.get(network).to(device)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.x = torch.rand(batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
        self.y = torch.randint(10, (batch,), device=device)
        self.learner = localgrad.decouple(
            model, rule, blocks=BLOCKS[network], example_input=self.x[:2]
        )
        self.optimizer = torch.optim.SGD(self.learner.parameters(), lr=0.01, momentum=0.9)
        self.label = M.label(rule)

    def gradients(self) -> Any:
        return self.learner.step(self.x, self.y)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.gradients()
        self.optimizer.step()


def seconds(run: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def allocated_bytes(case: Case, device: str) -> int | None:
    """Return what CUDA's allocator held at the peak of a step, beyond what it held before."""
    if device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    case.gradients()
    case.optimizer.zero_grad()
    return torch.cuda.max_memory_allocated() - before


def measure(network: str, batch: int, repeats: int, device: str) -> list[dict[str, Any]]:
    cases = [Case(network, rule, batch, device) for rule in RULES[network]]
    baseline = Case(network, RULES[network][0], batch, device)
    times: list[list[float]] = []
    ratios: list[list[float]] = []
    for case in cases:
        pairs = []
        for turn in range(repeats + 1):
            base = seconds(baseline.step, device)
            took = seconds(case.step, device)
            if turn:
                pairs.append((took, base))
        times.append([took for took, _ in pairs])
        ratios.append([took / base for took, base in pairs])
    rows: list[dict[str, Any]] = []
    for case, found, against in zip(cases, times, ratios, strict=True):
        case.optimizer.zero_grad()
        memory = localgrad.measure_memory(case.gradients, case.learner)
        case.optimizer.zero_grad()
        allocated = allocated_bytes(case, device)
        rows.append(
            {
                "network": network,
                "rule": case.label,
                "losses": len(case.learner.decoupling),
                "activation_bytes": memory.activations,
                "allocated_bytes": allocated,
                "flops": localgrad.measure_flops(case.gradients),
                "median_seconds": statistics.median(found),
                "time_ratio": statistics.median(against),
                "time_ratio_std": statistics.stdev(against),
            }
        )
        case.optimizer.zero_grad()
    for row in rows:
        row["memory_ratio"] = row["activation_bytes"] / rows[0]["activation_bytes"]
        row["flops_ratio"] = row["flops"] / rows[0]["flops"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet32", choices=list(RULES))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json")
    options = parser.parse_args()
    if options.repeats < 7:
        parser.error("--repeats must be at least 7 for a median worth quoting")
    network = options.network
    rows = measure(network, options.batch, options.repeats, options.device)
    print(f"{network}, K={BLOCKS[network]}, batch {options.batch}, channels-last, against BP")
    print(f"  {'rule':42}{'losses':>7}{'memory':>9}{'FLOPs':>8}{'time':>8}{'+-':>7}")
    for row in rows:
        print(
            f"  {row['rule']:42}{row['losses']:7d}{row['memory_ratio']:9.3f}"
            f"{row['flops_ratio']:8.3f}{row['time_ratio']:8.2f}{row['time_ratio_std']:7.2f}"
        )
    if options.json:
        about = environment.describe(torch.device(options.device))
        document = {**about, "n": options.repeats, "batch": options.batch, "rows": rows}
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
