"""Real training steps of what a plan proposes: time beside BP's, and bytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from localgrad.chain import Chain
from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner
from localgrad.memory import Memory, measure_memory
from localgrad.model_state import device_of
from localgrad.planning.advice import advise
from localgrad.planning.device_memory import free_bytes
from localgrad.planning.plan import Plan
from localgrad.planning.planner import has_norms
from localgrad.planning.predicted import training_step
from localgrad.planning.row import Row
from localgrad.prediction import PRECISIONS, Factory
from localgrad.sizes import shown
from localgrad.without_content import deep_copy

Batch = Callable[[int], tuple[Tensor, Tensor]]


def measure(
    plan: Plan,
    chain: Chain,
    inputs: Batch,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    optimizer: Factory = torch.optim.AdamW,
    repeats: int = 5,
    seconds: float | None = None,
    watch: Callable[[str], Any] = lambda label: None,
) -> Plan:
    """Return the plan with time and bytes of real steps, and the advice that follows from them.

    Measured are BP, checkpointing and accumulation where they fit, what is recommended and its
    runner-ups. A step of BP and one of the option are taken in turn, and the ratio is the median of
    the pairs. BP's own batch is the largest that the device has room for; where that is not the
    plan's, times are compared row by row of data. The model stays as it is: copies are trained.

    Args:
        plan, chain: the plan, and the chain it was made for.
        inputs: ``inputs(rows) -> (x, y)`` on the model's device.
        loss, optimizer: as the plan was made with.
        repeats: pairs of steps, at least 1, after one that does not count.
        seconds: measure no further option after so long.
        watch: called with the label of an option before it is measured.

    Raises:
        LocalgradError: the device has no room for a step.
    """
    device = device_of(chain.model)
    named = [row for row in (plan.best, *(row for row, _ in plan.advice.others)) if row is not None]
    chosen = [row for row in plan.fits if row in named or row.option.kind != "local"]
    bench = _Bench(chain, inputs, loss, optimizer, plan.precision, repeats)
    base = _baseline(plan, device, inputs)
    end = None if seconds is None else time.monotonic() + seconds
    found: dict[str, Row] = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        baseline = None if base is None else bench.ready(plan.rows[0], base)
        for row in chosen:
            if end is not None and found and time.monotonic() > end:
                break
            watch(row.option.label)
            found[row.option.label] = bench.measured(row, plan.batch, baseline, base)
    rows = tuple(found.get(row.option.label, row) for row in plan.rows)
    advice = advise(rows, plan.budget, plan.batch, has_norms(chain))
    return replace(plan, rows=rows, advice=advice, baseline_batch=base)


class _Bench:
    """How a step is made ready, timed and counted."""

    def __init__(
        self,
        chain: Chain,
        inputs: Batch,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Factory,
        precision: str,
        repeats: int,
    ) -> None:
        self.chain, self.inputs, self.loss = chain, inputs, loss
        self.optimizer, self.precision, self.repeats = optimizer, precision, repeats
        self.device = device_of(chain.model)

    def ready(
        self, row: Row, batch: int
    ) -> tuple[Callable[[], None], LocalLearner, torch.optim.Optimizer]:
        """Return a training step of a copy of the network, the copy's learner and optimizer."""
        lent = row.decouple(self.chain, self.inputs(2)[0], self.loss)
        try:
            learner = deep_copy(lent)
        finally:
            lent.release()
        optimizer = self.optimizer(list(learner.parameters()))
        x, y = self.inputs(batch)
        parts = row.option.micro_batches
        steps = [
            partial(self.step, learner, a, b)
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True)
        ]
        return partial(training_step, learner, optimizer, steps), learner, optimizer

    def step(self, learner: LocalLearner, x: Tensor, y: Tensor) -> None:
        """Take a local step in the plan's precision."""
        kind = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, kind, enabled=kind is not None):
            learner.step(x, y)

    def measured(
        self, row: Row, batch: int, baseline: tuple[Callable[[], None], Any, Any] | None, base: Any
    ) -> Row:
        """Return the row with what was measured.

        Raises:
            LocalgradError: there is no room for it.
        """
        _check_room(row, batch, self.device, self.inputs)
        try:
            step, learner, optimizer = self.ready(row, batch)
            own, ratios = [], []
            for turn in range(self.repeats + 1):
                theirs = None if baseline is None else self.time(baseline[0])
                took = self.time(step)
                if turn:
                    own.append(took)
                    if theirs is not None:
                        ratios.append(took / batch / (theirs / base))
            memory: Memory = measure_memory(step, learner, optimizer)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is the former
            if not _is_out_of_memory(error):
                raise
            raise LocalgradError(
                f"{row.option.label} ran out of memory at batch {batch} on {self.device}, "
                f"predicted {shown(row.total)}: lower --batch or --budget"
            ) from error
        ratio = statistics.median(ratios) if ratios else None
        return replace(row, seconds=statistics.median(own), time_ratio=ratio, measured=memory)

    def time(self, step: Callable[[], None]) -> float:
        """Return the seconds of a training step."""
        self.wait()
        start = time.perf_counter()
        step()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Wait for what a GPU has been told to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _baseline(plan: Plan, device: torch.device, inputs: Batch) -> int | None:
    """Return the rows of BP's steps: the plan's where the device has room, else BP's largest."""
    row = plan.rows[0]
    room = free_bytes(device)
    if row.total <= plan.budget or room is None or row.total + plan.example_bytes < room:
        return plan.batch
    return row.largest_batch or None


def _check_room(row: Row, batch: int, device: torch.device, inputs: Batch) -> None:
    x, _ = inputs(1)
    need, room = row.total + batch * x.nbytes, free_bytes(device)
    if room is not None and need > room:
        raise LocalgradError(
            f"{row.option.label} needs {shown(need)} at batch {batch}, {device} has {shown(room)} "
            "free: lower --batch or --budget, or measure on a larger device"
        )


def _is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error)
