"""From a network and a budget to options with their figures, and the advice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localgrad.chain import Chain
from localgrad.errors import LocalgradError
from localgrad.methods import Method
from localgrad.planning.advice import Advice
from localgrad.planning.options import options
from localgrad.planning.planner import Planner
from localgrad.planning.row import Row
from localgrad.prediction import PRECISIONS, Factory
from localgrad.sizes import read_bytes, shown


@dataclass(frozen=True)
class Plan:
    """Options, what they take, and which one to choose.

    Args:
        network: the model's class.
        batch: rows a training step.
        budget: bytes.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        rows: the options that were predicted.
        advice: see :mod:`localgrad.planning.advice`.
        left_out: options that the network does not take, with the reason.
        stopped: the option at which the time was up; None: all were predicted.
        planned: how many options there were to predict.
        example_bytes: of the batch itself, which comes on top of every total.
        baseline_batch: rows of the steps of BP that others' times are compared with.
    """

    network: str
    batch: int
    budget: int
    precision: str
    rows: tuple[Row, ...]
    advice: Advice
    left_out: tuple[tuple[str, str], ...] = ()
    stopped: str | None = None
    planned: int = 0
    example_bytes: int = 0
    baseline_batch: int | None = None

    @property
    def best(self) -> Row | None:
        """The row to choose; None where nothing fits."""
        return self.advice.best

    @property
    def fits(self) -> tuple[Row, ...]:
        """The rows within the budget."""
        return tuple(row for row in self.rows if row.total <= self.budget)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        best = self.best
        return {
            "network": self.network,
            "batch": self.batch,
            "budget_bytes": self.budget,
            "precision": self.precision,
            "example_bytes": self.example_bytes,
            "recommended": None if best is None else best.option.label,
            "reason": self.advice.reason,
            "others": [
                {"label": row.option.label, "reason": why} for row, why in self.advice.others
            ],
            "rows": [row.to_dict(self.budget, self.batch) for row in self.rows],
            "baseline_batch": self.baseline_batch,
            "left_out": dict(self.left_out),
            "stopped": self.stopped,
        }

    def __str__(self) -> str:
        lines = [
            f"{self.network}, batch {self.batch}, {self.precision}, budget {shown(self.budget)}"
        ]
        for row in self.rows:
            mark = "fits" if row.total <= self.budget else "    "
            largest = "" if row.largest_batch is None else f", largest batch {row.largest_batch}"
            lines.append(
                f"  {mark}  {row.option.label}: {shown(row.total)}, "
                f"{row.flops_ratio:.2f} times BP's FLOPs{largest}"
            )
        lines += [self.advice.reason, *(why for _, why in self.advice.others)]
        return "\n".join(lines)


def plan(
    model: nn.Module | Chain,
    example_input: Tensor,
    budget: str | float,
    batch: int | None = None,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    optimizer: Factory = torch.optim.AdamW,
    precision: str = "fp32",
    rules: Sequence[Method | str] | None = None,
    blocks: Sequence[int] | None = None,
    ties: str | None = None,
    largest: bool = False,
    seconds: float | None = None,
    watch: Callable[[Row | str], Any] = lambda what: None,
) -> Plan:
    """Predict what each way of training takes, and say which one to choose.

    Nothing is computed and no memory is taken: the steps run under fake tensors. The model is cut
    once, and as it was when this returns.

    Args:
        model: any module that :func:`localgrad.decouple` takes, or a chain made of it.
        example_input: ``(rows, ...)``; two rows do.
        budget: bytes, or a size such as ``"8GiB"``: what tensors may hold at the peak of a whole
            training step. The batch itself and operators' workspace come on top.
        batch: rows a training step; by default those of the example.
        loss: the task loss.
        optimizer: its class, or what makes one from parameters.
        precision: ``"fp32"``, or ``"bf16"`` or ``"fp16"`` by autocast.
        rules: local rules or their names; BP and checkpointing are always there. Default: those of
            :data:`localgrad.planning.options.RULES`.
        blocks: numbers of blocks; by default 2, 4, 8, 16 and one a unit.
        ties: as of :func:`localgrad.decouple`.
        largest: find the largest batch of every option, not only of BP, of checkpointing and of
            what is recommended.
        seconds: stop after so long; the plan then says where.
        watch: called with the label of an option before it is predicted, and with its row after.

    Raises:
        LocalgradError: a size, rule or number of blocks that cannot be read; the network cannot be
            cut or predicted; the time is up before BP is predicted.

    >>> layers = [layer for _ in range(4) for layer in (nn.Linear(32, 32), nn.ReLU())]
    >>> model = nn.Sequential(*layers, nn.Linear(32, 10))
    >>> found = plan(model, torch.rand(2, 32), "700 KiB", 1024, rules=["greedy"])
    >>> found.best.option.label, found.rows[0].largest_batch
    ('BP in 2 micro-batches', 812)
    >>> [row.option.label for row in found.fits]
    ['Greedy K=4', 'BP in 2 micro-batches', 'BP + checkpoint sqrt in 2 micro-batches']
    >>> learner = found.best.decouple(model, torch.rand(2, 32))
    """
    limit = read_bytes(budget)
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise LocalgradError(f"batch={batch!r}: must be a whole number >= 1")
    if precision not in PRECISIONS:
        known = ", ".join(map(repr, PRECISIONS))
        raise LocalgradError(f"precision {precision!r} must be one of {known}")
    chain = model if isinstance(model, Chain) else Chain.of(model, example_input)
    planner = Planner(
        chain,
        example_input[:2],
        limit,
        batch or len(example_input),
        loss,
        optimizer,
        precision,
        ties,
        largest,
        None if seconds is None else time.monotonic() + seconds,
        watch,
    )
    wanted = options(len(chain), rules, blocks)
    stopped = planner.run(wanted, seconds)
    rows, left_out = planner.rows, planner.left_out
    rest = {o.label for o in wanted} - {r.option.label for r in rows} - set(dict(left_out))
    return Plan(
        type(chain.model).__name__,
        planner.batch,
        limit,
        precision,
        tuple(rows),
        planner.advice(),
        tuple(left_out),
        stopped,
        len(rows) + len(rest),
        planner.batch * example_input[0].nbytes,
    )
