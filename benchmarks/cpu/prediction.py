"""Predicted against measured memory: live tensors, and what the allocator gave out.

    python benchmarks/cpu/prediction.py --json benchmarks/results/prediction-cpu.json

A pair is a network and a rule. Predicted: ``localgrad.predict_memory``, under fake tensors.
Measured: three real training steps with the same optimizer, the last of them watched, both by the
counter of live tensors and by the allocator's own record, whose surplus is operators' workspace.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from localgrad import losses, networks
from localgrad import methods as M
from localgrad.cli.show import table
from localgrad.experiment import environment

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "AdamW": functools.partial(torch.optim.AdamW, lr=1e-4),
}


@dataclass(frozen=True)
class Case:
    """A network at one batch, with the blocks that its rules get."""

    name: str
    make: Callable[[], nn.Module]
    batch: int
    shape: tuple[int, ...]
    blocks: int
    optimizer: str
    precision: str = "fp32"
    vocabulary: int = 0

    def inputs(self, rows: int) -> tuple[Tensor, Tensor]:
        if self.vocabulary:
            tokens = torch.randint(self.vocabulary, (rows, *self.shape))
            return tokens, tokens
        return torch.rand(rows, *self.shape), torch.zeros(rows, dtype=torch.long)


def gpt() -> nn.Module:
    found: nn.Module = networks.gpt(
        vocabulary=5000, context=256, layers=6, width=256, heads=8, dropout=0.1
    )
    return found


CASES = [
    Case("ResNet-32", networks.resnet32, 128, (3, 32, 32), 16, "SGD"),
    Case("ResNet-110", networks.resnet110, 64, (3, 32, 32), 16, "SGD"),
    Case(
        "ResNet-50, 224x224",
        functools.partial(networks.resnet50, num_classes=1000, stem="imagenet"),
        4,
        (3, 224, 224),
        8,
        "AdamW",
    ),
    Case("ViT (timm, CIFAR)", networks.vit_cifar, 64, (3, 32, 32), 4, "AdamW"),
    Case("GPT (6 layers, dropout)", gpt, 8, (256,), 3, "AdamW", vocabulary=5000),
    Case("ResNet-32, bf16", networks.resnet32, 64, (3, 32, 32), 8, "AdamW", precision="bf16"),
]
RULES: list[M.Method] = [
    M.Backprop(),
    M.Backprop("unit"),
    M.Greedy(),
    M.BackLink(head="pool_linear"),
    M.AugLocal(1),
]


def measure(case: Case, chain: localgrad.Chain, rule: M.Method) -> dict[str, Any]:
    """Return one row."""
    torch.manual_seed(0)
    x, y = case.inputs(case.batch)
    make = OPTIMIZERS[case.optimizer]
    learner = localgrad.decouple(
        chain,
        rule,
        blocks=None if isinstance(rule, M.Backprop) else case.blocks,
        example_input=x[:2],
        loss=losses.next_token if case.vocabulary else F.cross_entropy,
        ties="first" if case.vocabulary else None,
    )
    start = time.perf_counter()
    predicted = localgrad.predict_memory(
        learner,
        x[:2],
        batch=case.batch,
        targets=y[:2],
        optimizer=make,
        precision=case.precision,
    )
    seconds = time.perf_counter() - start
    optimizer = make(learner.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16"):
            learner.step(x, y)
        optimizer.step()

    step()
    step()
    found = localgrad.measure_memory(step, learner, optimizer, workspace=True)
    row = {
        "network": case.name,
        "rule": M.label(rule),
        "batch": case.batch,
        "optimizer": case.optimizer,
        "predicted_bytes": predicted.total,
        "measured_bytes": found.total,
        "ratio": predicted.total / found.total,
        "workspace_bytes": found.workspace,
        "allocated_ratio": predicted.total / found.allocated,
        "seconds": round(seconds, 2),
    }
    learner.zero_grad()
    learner.release()
    return row


def shown(row: dict[str, Any]) -> dict[str, str]:
    """Return a row as text."""
    return {
        "network": row["network"],
        "batch": str(row["batch"]),
        "optimizer": row["optimizer"],
        "rule": row["rule"],
        "predicted, MiB": f"{row['predicted_bytes'] / 2**20:.1f}",
        "÷ measured": f"{row['ratio']:.4f}",
        "÷ allocated": f"{row['allocated_ratio']:.3f}",
        "seconds": f"{row['seconds']:.1f}",
    }


def main() -> None:
    """Measure every pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for case in CASES:
        if options.only not in case.name:
            continue
        torch.manual_seed(0)
        chain = localgrad.Chain.of(case.make(), case.inputs(2)[0])
        found = [measure(case, chain, rule) for rule in RULES]
        print(table([shown(row) for row in found]), end="\n\n", flush=True)
        rows += found
        del chain
        gc.collect()
    worst = max(abs(row["ratio"] - 1) for row in rows)
    print(f"{len(rows)} pairs; live tensors differ by {100 * worst:.3f} % at the most")
    if options.json:
        document = {**environment.describe(torch.device("cpu")), "n": 1, "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
