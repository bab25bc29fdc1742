"""From a network and a budget to options with their figures, and the advice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localgrad.assembly import decouple
from localgrad.balance import Balance
from localgrad.chain import Chain
from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner
from localgrad.methods import Method
from localgrad.planning.advice import Advice, advise
from localgrad.planning.options import Option, options
from localgrad.planning.predicted import Prediction, predict, predict_step
from localgrad.planning.row import Row
from localgrad.planning.search import largest_batch, micro_batch
from localgrad.prediction import PRECISIONS, Factory
from localgrad.sizes import read_bytes, shown

T = TypeVar("T")
_ALWAYS = ("bp", "checkpoint")  # their largest batch is always found


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
    planner = _Planner(
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
    return planner.run(options(len(chain), rules, blocks), seconds)


def has_norms(chain: Chain) -> bool:
    """Whether a BatchNorm sees the rows of a step together."""
    kind = nn.modules.batchnorm._BatchNorm
    return any(isinstance(module, kind) for module in chain.model.modules())


class _TimeIsUpError(Exception):
    pass


class _Planner:
    """The state of one plan: rows so far, the clock."""

    def __init__(
        self,
        chain: Chain,
        example: Tensor,
        budget: int,
        batch: int,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Factory,
        precision: str,
        ties: str | None,
        every_largest: bool,
        end: float | None,
        watch: Callable[[Row | str], Any],
    ) -> None:
        self.chain, self.example, self.budget, self.batch = chain, example, budget, batch
        self.loss, self.optimizer, self.precision, self.ties = loss, optimizer, precision, ties
        self.every_largest, self.end, self.watch = every_largest, end, watch
        self.rows: list[Row] = []
        self.found: dict[Option, Prediction] = {}
        self.left_out: list[tuple[str, str]] = []
        self.norms = has_norms(chain)
        self.balance = Balance(chain, example, loss)

    def run(self, wanted: list[Option], seconds: float | None) -> Plan:
        """Predict what is wanted, then what follows from it."""
        stopped = None
        current = wanted[0]
        try:
            for current in wanted:
                self.add(current)
            for current in self.accumulated():
                self.add(current)
            self.find_largest()
        except _TimeIsUpError:
            stopped = current.label
            if not self.rows:
                raise LocalgradError(
                    f"the network is too large to predict a step of {stopped} in {seconds:g} s: "
                    "allow more --seconds"
                ) from None
        rows = self.rows
        rest = [o.label for o in wanted if o.label not in {r.option.label for r in rows}]
        planned = len(rows) + len([label for label in rest if label not in dict(self.left_out)])
        return Plan(
            type(self.chain.model).__name__,
            self.batch,
            self.budget,
            self.precision,
            tuple(rows),
            self.advice(),
            tuple(self.left_out),
            stopped,
            planned,
            self.batch * self.example[0].nbytes,
        )

    def advice(self) -> Advice:
        """Return the advice on the rows so far."""
        return advise(self.rows, self.budget, self.batch, self.norms)

    def add(self, option: Option) -> None:
        """Predict an option; where the network does not take it, note why."""
        self.watch(option.label)
        try:
            ends = self.in_time(lambda left: self.ends(option))
            learner = decouple(
                self.chain,
                option.decoupling(self.chain, ends),
                example_input=self.example,
                loss=self.loss,
                ties=self.ties,
            )
        except LocalgradError as error:
            if not self.rows:  # BP itself
                raise
            self.left_out.append((option.label, str(error)))
            return
        try:
            found = self.predicted(learner, option)
            base = self.rows[0].flops if self.rows else found.flops
            row = Row(
                option,
                len(learner.decoupling),
                found.memory,
                found.flops,
                found.flops / base,
                learner.decoupling,
            )
            self.found[option] = found
            plain = option.micro_batches == 1
            if plain and (self.every_largest or option.kind in _ALWAYS):
                row = replace(row, largest_batch=self.largest_of(row, learner))
        except LocalgradError as error:
            if not self.rows:
                raise
            self.left_out.append((option.label, str(error)))
            return
        finally:
            learner.release()
        self.rows.append(row)
        self.watch(row)

    def ends(self, option: Option) -> tuple[int, ...] | None:
        """Return the end of each block; None where the option has no number of blocks."""
        if option.blocks is None:
            return None
        return self.balance.memory(option.method, option.blocks, option.checkpoint)

    def predicted(self, learner: LocalLearner, option: Option) -> Prediction:
        """Return bytes and FLOPs of an option, in the time that is left."""
        return self.in_time(
            lambda left: predict(
                learner,
                self.example,
                self.batch,
                self.optimizer,
                self.precision,
                option.micro_batches,
                left,
            )
        )

    def in_time(self, call: Callable[[float | None], T]) -> T:
        """Call with the seconds that are left; an error because of them ends the plan."""
        left = None if self.end is None else self.end - time.monotonic()
        if left is not None and left <= 0:
            raise _TimeIsUpError
        try:
            return call(left)
        except LocalgradError:
            if self.end is not None and time.monotonic() >= self.end:
                raise _TimeIsUpError from None
            raise
        # what an operator refuses under fake tensors
        except (RuntimeError, NotImplementedError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise LocalgradError(f"a step cannot be predicted: {reason}") from error

    def largest_of(self, row: Row, learner: LocalLearner) -> int:
        """Return the most rows that the option takes within the budget."""

        found = self.found[row.option]

        def peak(batch: int) -> int:
            step = self.in_time(
                lambda left: predict_step(learner, self.example, batch, self.precision, left)
            )
            return found.total(step)

        least = 2 if self.norms else 1  # a batch norm may not train on one row
        return largest_batch(peak, self.budget, {self.batch: row.total}, least)

    def accumulated(self) -> Iterable[Option]:
        """Yield parts of the batch, for BP and its leanest checkpointing, where all is too much."""
        plain = [row for row in self.rows if row.option.kind in _ALWAYS]
        over = [row for row in plain if row.total > self.budget]
        lean = max(over[1:], key=lambda row: row.largest_batch or 0, default=None)
        for row in [*(r for r in over if r.option.kind == "bp"), *([lean] if lean else [])]:
            part = micro_batch(self.batch, row.largest_batch or 0)
            while part >= (2 if self.norms else 1):
                option = replace(row.option, micro_batches=self.batch // part)
                yield option
                # gradients are held from the start: it may just not fit
                if self.rows[-1].option != option or self.rows[-1].total <= self.budget:
                    break
                part = micro_batch(self.batch, part - 1)

    def find_largest(self) -> None:
        """Find the largest batch of what is recommended, or of the least where nothing fits."""
        advice = self.advice()
        named = [
            row for row in (advice.best, *(row for row, _ in advice.others)) if row is not None
        ]
        if advice.best is None:
            named = [min(self.rows, key=lambda row: row.total)]
        for row in named:
            if row.largest_batch is None and row.option.kind != "accumulated":
                self.watch(f"{row.option.label}: largest batch")
                learner = row.decouple(self.chain, self.example, self.loss)
                try:
                    found = replace(row, largest_batch=self.largest_of(row, learner))
                finally:
                    learner.release()
                self.rows[self.rows.index(row)] = found
