"""Memory and FLOPs of one step against BP, for networks of full size, without running them.

    python benchmarks/footprint.py --json benchmarks/results/footprint.json

The model is cut with real weights on a small batch; the step runs on fake tensors, which have
shapes and no content. The counter that sees them is the one for real tensors, and agrees with it to
the byte (tests/test_memory.py). Activations are all that a step makes but for the gradients of
parameters: activations, errors, temporary results.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import localgrad
from localgrad import losses
from localgrad import methods as M
from localgrad.experiment import environment


@dataclass(frozen=True)
class Case:
    """A network at the size that people train it."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    classes: int
    few: int
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    @property
    def is_text(self) -> bool:
        """Whether it reads tokens."""
        return len(self.shape) == 1

    def inputs(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return a batch and its targets."""
        if self.is_text:
            tokens = torch.randint(self.classes, (rows, *self.shape))
            return tokens, tokens
        return torch.rand(rows, *self.shape), torch.randint(self.classes, (rows,))


def resnet50() -> nn.Module:
    """ResNet-50 for ImageNet."""
    return localgrad.networks.resnet50(num_classes=1000, stem="imagenet")  # type: ignore[no-any-return]


def vit_s() -> nn.Module:
    """timm's ViT-S/16."""
    return localgrad.networks.get("timm:vit_small_patch16_224")  # type: ignore[no-any-return]


def gpt2() -> nn.Module:
    """transformers' GPT-2 small, without dropout: its fake masks have another size."""
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return localgrad.networks.get("transformers:gpt2", **none)  # type: ignore[no-any-return]


CASES = [
    Case("ResNet-50, 224x224", resnet50, (3, 224, 224), 64, 1000, 4),
    Case("ViT-S/16, 224x224", vit_s, (3, 224, 224), 64, 1000, 4),
    Case("GPT-2 small, 1024 tokens", gpt2, (1024,), 4, 50257, 4, losses.next_token),
]


def rules(units: int, few: int) -> list[tuple[M.Method, int]]:
    """Return the rules and their numbers of blocks."""
    baselines: list[tuple[M.Method, int]] = [
        (M.Backprop(), 1), (M.Backprop("unit"), 1), (M.Backprop("sqrt"), 1)
    ]  # fmt: skip
    heads: list[M.Method] = [
        M.Greedy(),
        M.BackLink(head="pool_linear"),
        M.BackLink(),
        M.AugLocal(2),
    ]
    return [*baselines, *((rule, k) for k in (few, units) for rule in heads)]


def measure(case: Case, rule: M.Method, blocks: int, chain: localgrad.Chain) -> dict[str, Any]:
    """Return one row: bytes and FLOPs of a step on fake tensors."""
    torch.manual_seed(0)
    example, _ = case.inputs(2)
    learner = localgrad.decouple(
        chain,
        rule,
        blocks=blocks if blocks > 1 else None,
        example_input=example,
        loss=case.loss,
        ties="first" if case.is_text else None,
    )
    start = time.perf_counter()
    with FakeTensorMode(allow_non_fake_inputs=True):
        x, y = case.inputs(case.batch)
        memory = localgrad.measure_memory(lambda: learner.step(x, y), learner)
        learner.zero_grad()
        flops = localgrad.measure_flops(lambda: learner.step(x, y))
        learner.zero_grad()
    took = time.perf_counter() - start
    row = {
        "network": case.name,
        "batch": case.batch,
        "rule": M.label(rule),
        "losses": len(learner.decoupling),
        **{f"{key}_bytes": value for key, value in memory.to_dict().items()},
        "flops": flops,
        "seconds": round(took, 1),
    }
    learner.release()
    return row


def main() -> None:
    """Measure every case."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for case in CASES:
        if options.only not in case.name:
            continue
        model = case.make()
        start = time.perf_counter()
        chain = localgrad.Chain.of(model, case.inputs(2)[0])
        print(f"{case.name}, batch {case.batch}: cut in {time.perf_counter() - start:.1f} s")
        print(f"  {'rule':34}{'losses':>7}{'activations':>13}{'÷ BP':>7}{'all':>11}{'FLOPs':>8}")
        base: dict[str, Any] | None = None
        for rule, blocks in rules(len(chain), case.few):
            row = measure(case, rule, blocks, chain)
            base = base or row
            row["memory_ratio"] = row["activations_bytes"] / base["activations_bytes"]
            row["total_ratio"] = row["total_bytes"] / base["total_bytes"]
            row["flops_ratio"] = row["flops"] / base["flops"]
            rows.append(row)
            print(
                f"  {row['rule']:34}{row['losses']:7d}{row['activations_bytes'] / 2**20:9.0f} MiB"
                f"{row['memory_ratio']:7.3f}{row['total_bytes'] / 2**20:7.0f} MiB"
                f"{row['flops_ratio']:8.3f}",
                flush=True,
            )
        del chain, model
        gc.collect()
    if options.json:
        document = {**environment.describe(torch.device("cpu")), "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
