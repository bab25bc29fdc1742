"""Five budgets on three networks: is what the planner chooses within the budget, run for real?

    python benchmarks/budget.py --json benchmarks/results/budget.json

For each budget the plan is made under fake tensors; then its choice, and the best local rule that
fits, take real training steps with their optimizer, and the bytes of a step in the steady state
are counted (zero_grad, step, optimizer's step). It takes about five minutes on two free cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from localgrad import losses, networks
from localgrad.experiment import environment
from localgrad.planning import Plan, Row, plan, shown, training_step

#: Parts of what BP takes beyond parameters, gradients and optimizer state.
BUDGETS = (1.02, 0.5, 0.25, 0.15, 0.08)
VOCABULARY = 256


@dataclass(frozen=True)
class Case:
    """A network, its batch and optimizer."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    optimizer: Callable[..., torch.optim.Optimizer]
    blocks: tuple[int, ...]
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def inputs(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return a batch and its targets."""
        if len(self.shape) == 1:
            tokens = torch.randint(VOCABULARY, (rows, *self.shape))
            return tokens, tokens
        return torch.rand(rows, *self.shape), torch.randint(10, (rows,))


SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
ADAMW = partial(torch.optim.AdamW, lr=1e-4)
CASES = [
    Case("resnet32", networks.resnet32, (3, 32, 32), 128, SGD, (2, 16)),
    Case("vit_cifar", networks.vit_cifar, (3, 32, 32), 64, ADAMW, (2, 9)),
    Case(
        "gpt, 128 tokens",
        partial(networks.gpt, VOCABULARY, 128, layers=8),
        (128,),
        32,
        ADAMW,
        (2, 8),
        losses.next_token,
    ),
]


def choose(case: Case, chain: localgrad.Chain, budget: int) -> Plan:
    """Return the plan for a budget."""
    example, _ = case.inputs(2)
    return plan(
        chain,
        example,
        budget,
        case.batch,
        loss=case.loss,
        optimizer=case.optimizer,
        rules=["greedy", "auglocal"],
        blocks=[k for k in case.blocks if k <= len(chain)],
        ties="first" if len(case.shape) == 1 else None,
    )


def of_bp(case: Case, chain: localgrad.Chain) -> localgrad.Memory:
    """Return the bytes that BP takes."""
    example, _ = case.inputs(2)
    learner = localgrad.decouple(chain, "backprop", example_input=example, loss=case.loss)
    found = localgrad.predict_memory(learner, example, batch=case.batch, optimizer=case.optimizer)
    learner.release()
    return found


def measured(case: Case, chain: localgrad.Chain, row: Row) -> localgrad.Memory:
    """Return the bytes of the third real training step."""
    torch.manual_seed(0)
    x, y = case.inputs(case.batch)
    learner = row.decouple(chain, x[:2], case.loss)
    optimizer = case.optimizer(learner.parameters())
    parts = row.option.micro_batches
    steps = [
        partial(learner.step, a, b) for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True)
    ]
    for _ in range(2):
        training_step(learner, optimizer, steps)
    found = localgrad.measure_memory(
        lambda: training_step(learner, optimizer, steps), learner, optimizer
    )
    learner.zero_grad()
    learner.release()
    return found


def main() -> None:
    """Plan and run every case at every budget."""
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
        whole = of_bp(case, chain)
        held = whole.parameters + whole.gradients + whole.optimizer
        for part in BUDGETS:
            budget = held + int(part * (whole.total - held))
            found = choose(case, chain, budget)
            local = [row for row, _ in found.advice.others if row.option.kind == "local"]
            best = [("chosen", found.best)] if found.best is not None else []
            for role, row in [*best, *(("local", row) for row in local[:1])]:
                assert row is not None
                real = measured(case, chain, row)
                rows.append(
                    {
                        "network": case.name,
                        "batch": case.batch,
                        "bp_bytes": whole.total,
                        "budget_bytes": budget,
                        "role": role,
                        "option": row.option.label,
                        "losses": row.losses,
                        "flops_ratio": row.flops_ratio,
                        "predicted_bytes": row.total,
                        "measured_bytes": real.total,
                        "within": real.total <= budget,
                    }
                )
                print(
                    f"{case.name:16} budget {shown(budget):>9}  {role:6} {row.option.label:36} "
                    f"predicted {shown(row.total):>9}  measured {shown(real.total):>9}  "
                    f"{'within' if real.total <= budget else 'OVER'}",
                    flush=True,
                )
            if found.best is None:
                print(f"{case.name:16} {found.advice.reason}", flush=True)
    if options.json:
        document = {**environment.describe(torch.device("cpu")), "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
