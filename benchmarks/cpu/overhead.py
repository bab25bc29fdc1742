"""What the library costs beside a loop written by hand for one network and one rule.

    python benchmarks/cpu/overhead.py --json FILE

The loops below are the mathematics of Greedy and of BackLink in plain PyTorch, on the very modules
that the learner trains: blocks, borders and heads spelt out, nothing looked up and nothing checked.
Their gradients must be the learner's to the last bit; then both run in turn, and the median of the
ratios pair by pair is what the library costs. The optimizer's step, the same for both, is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from localgrad import LocalLearner, networks
from localgrad import methods as M
from localgrad.experiment import environment

Step = Callable[[Tensor, Tensor], None]
Pieces = list[tuple[list[Any], Any]]


@dataclass(frozen=True)
class Case:
    """A network, a rule and a batch."""

    network: str
    rule: M.Method
    blocks: int
    batch: int


LINKED = M.BackLink(head="pool_linear")
CASES = [
    Case("resnet32", M.Greedy(), 16, 128),
    Case("resnet32", LINKED, 16, 128),
    Case("resnet32", LINKED, 4, 128),
    Case("resnet20", M.Greedy(), 10, 8),
    Case("resnet20", LINKED, 10, 8),
]


def pieces(learner: LocalLearner) -> Pieces:
    """Return each block's units, and its head or the network's tail."""
    chain = learner.chain
    heads = [*learner.heads, chain.tail]
    blocks = learner.decoupling.blocks
    return [
        (list(chain.units[block.start : block.stop]), head)
        for block, head in zip(blocks, heads, strict=True)
    ]


def through(units: list[Any], x: Tensor) -> Tensor:
    return reduce(lambda value, unit: unit(value), units, x)


def greedy(blocks: Pieces) -> Step:
    """Each block's loss trains the block."""

    def step(x: Tensor, y: Tensor) -> None:
        for units, head in blocks:
            x = through(units, x)
            F.cross_entropy(head(x), y).backward()
            x = x.detach()

    return step


def backlink(blocks: Pieces) -> Step:
    """Each block's loss trains the block and the last unit of the one before.

    The head's error crosses that last unit at once (``inputs=[leaf]``); its weights wait for the
    error of the next block and get their gradient once, from the sum.
    """
    trained = [list(units[-1].parameters()) for units, _ in blocks]

    def step(x: Tensor, y: Tensor) -> None:
        waiting: tuple[Tensor, Tensor, list[nn.Parameter]] | None = None
        for k, (units, head) in enumerate(blocks):
            leaf = x.requires_grad_(k > 0)
            if k == len(blocks) - 1:
                F.cross_entropy(head(through(units, leaf)), y).backward()
                follows = None
            else:
                inner = before = through(units[:-1], leaf)
                if len(units) > 1:
                    inner = before.detach().requires_grad_(True)
                end = units[-1](inner)
                out = end.detach().requires_grad_(True)
                F.cross_entropy(head(out), y).backward()
                error = out.grad
                assert error is not None
                if inner.requires_grad:
                    torch.autograd.backward(end, error, inputs=[inner], retain_graph=True)
                if len(units) > 1:
                    torch.autograd.backward(before, inner.grad)
                follows = end, error, trained[k]
                x = out.detach()
            if waiting is not None:
                last, its_error, weights = waiting
                assert leaf.grad is not None
                torch.autograd.backward(last, its_error.add_(leaf.grad), inputs=weights)
            waiting = follows

    return step


BY_HAND: dict[str, Callable[[Pieces], Step]] = {"greedy": greedy, "backlink": backlink}


def gradients(step: Callable[[Tensor, Tensor], Any], learner: nn.Module, batch: Any) -> list[Any]:
    """Return every parameter's gradient of one step."""
    learner.zero_grad()
    step(*batch)
    return [p.grad for p in learner.parameters()]


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Check that both give the same bits, then time them in turn.

    Raises:
        SystemExit: a gradient differs.
    """
    torch.manual_seed(0)
    model = networks.get(case.network)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(case.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.randint(10, (case.batch,))
    learner = localgrad.decouple(model, case.rule, blocks=case.blocks, example_input=x[:2])
    by_hand = BY_HAND[case.rule.name](pieces(learner))
    ours, theirs = (gradients(step, learner, (x, y)) for step in (learner.step, by_hand))
    if not all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)):
        raise SystemExit(f"error: {case}: the loop by hand gives other gradients")
    steps: list[Callable[[Tensor, Tensor], Any]] = [learner.step, by_hand]
    pairs: list[list[float]] = []
    for turn in range(repeats + 1):
        taken = [0.0, 0.0]
        for which in (0, 1) if turn % 2 else (1, 0):  # neither is always the one that goes first
            learner.zero_grad()
            start = time.perf_counter()
            steps[which](x, y)
            taken[which] = time.perf_counter() - start
        if turn:
            pairs.append(taken)
    ratios = [library / loop for library, loop in pairs]
    return {
        "network": case.network,
        "rule": M.label(case.rule),
        "losses": len(learner.decoupling),
        "batch": case.batch,
        "median_seconds": statistics.median(library for library, _ in pairs),
        "by_hand_seconds": statistics.median(loop for _, loop in pairs),
        "time_ratio": statistics.median(ratios),
        "time_ratio_std": statistics.stdev(ratios),
    }


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=31, help="pairs of steps, at least 9")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.repeats < 9:
        parser.error("--repeats must be at least 9 for a median worth quoting")
    torch.set_num_threads(options.threads)
    print(
        f"  {'network, batch':16}{'rule':26}{'losses':>7}{'library':>10}{'by hand':>10}{'ratio':>8}"
    )
    rows = []
    for case in CASES:
        row = measure(case, options.repeats)
        rows.append(row)
        print(
            f"  {row['network'] + ', ' + str(row['batch']):16}{row['rule']:26}{row['losses']:7d}"
            f"{1e3 * row['median_seconds']:7.1f} ms{1e3 * row['by_hand_seconds']:7.1f} ms"
            f"{row['time_ratio']:8.3f} +- {row['time_ratio_std']:.3f}",
            flush=True,
        )
    if options.json:
        about = environment.describe(torch.device("cpu"))
        document = {**about, "n": options.repeats, "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
