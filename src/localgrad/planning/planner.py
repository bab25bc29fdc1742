"""The work of a plan: options predicted one by one, within the time that there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor, nn

from localgrad.assembly import decouple
from localgrad.balance import Balance
from localgrad.chain import Chain
from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner
from localgrad.planning.advice import Advice, advise
from localgrad.planning.options import Option
from localgrad.planning.predicted import Prediction, predict, predict_step
from localgrad.planning.row import Row
from localgrad.planning.search import largest_batch, micro_batch
from localgrad.prediction import Factory

T = TypeVar("T")
_ALWAYS = ("bp", "checkpoint")  # their largest batch is always found


def has_norms(chain: Chain) -> bool:
    """Whether a BatchNorm sees the rows of a step together."""
    kind = nn.modules.batchnorm._BatchNorm
    return any(isinstance(module, kind) for module in chain.model.modules())


class _TimeIsUpError(Exception):
    pass


class Planner:
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

    def run(self, wanted: list[Option], seconds: float | None) -> str | None:
        """Predict what is wanted, then what follows from it.

        Returns:
            The option at which the time was up; None: all were predicted.
        """
        current = wanted[0]
        try:
            for current in wanted:
                self.add(current)
            for current in self.accumulated():
                self.add(current)
            self.find_largest()
        except _TimeIsUpError:
            if not self.rows:
                raise LocalgradError(
                    f"the network is too large to predict a step of {current.label} in "
                    f"{seconds:g} s: allow more --seconds"
                ) from None
            return current.label
        return None

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
