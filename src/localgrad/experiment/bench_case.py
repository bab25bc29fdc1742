"""A rule on a network, ready to step: what a step takes, and how long beside another's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from localgrad import (
    LocalLearner,
    decouple,
    measure_flops,
    measure_memory,
    methods,
    predict_flops,
    predict_memory,
)
from localgrad.experiment.config import Config
from localgrad.experiment.made_up import MadeUp
from localgrad.experiment.precision import autocast
from localgrad.experiment.schedule import build_optimizer
from localgrad.experiment.update import Update

Row = dict[str, Any]


class Case:
    """A rule on a network with an optimizer, ready to step.

    The learning rate is 0: the same arithmetic, and weights that random targets lead nowhere. BP
    stays as it is elsewhere: what is asked for of updates and recomputation is for the rules.
    """

    def __init__(
        self, config: Config, subject: MadeUp, rule: methods.Method, blocks: int | None
    ) -> None:
        is_bp = isinstance(rule, methods.Backprop)
        recomputed = None if is_bp else config.activation_checkpoint
        still = config.optimizer.model_copy(
            update={"lr": 0.0, "update": "step" if is_bp else config.optimizer.update}
        )
        self.subject = subject
        self.config = config.model_copy(update={"optimizer": still})
        self.label = methods.label(rule) + (f" + checkpoint {recomputed}" if recomputed else "")
        self.learner: LocalLearner = decouple(
            subject.chain,
            rule,
            blocks=None if is_bp else blocks,
            example_input=subject.example(),
            loss=subject.loss,
            ties=config.ties or ("first" if subject.inputs == "tokens" else None),
            balance=None if is_bp or blocks is None else config.balance,
            checkpoint=recomputed,
        )

    def steps(self, batch: int) -> tuple[Callable[[], Any], Callable[[], Any], Any]:
        """Return a local step, a whole step with zero_grad and update, and the optimizer."""
        x, y = self.subject.batch(batch)
        device = self.subject.device
        # a scale that cannot overflow: every step of fp16 is updated, as most are in training
        update = Update(self.config, self.learner, device, scale=1.0)

        def local() -> None:
            with autocast(device, self.config.precision):
                self.learner.step(x, y)

        return local, lambda: update.step(x, y), update.optimizer

    def counted(self, batch: int) -> Row:
        """Return bytes and FLOPs of a step."""
        local, whole, optimizer = self.steps(batch)
        whole()  # the optimizer's state is there from now on
        optimizer.zero_grad()
        activations = measure_memory(local, self.learner).activations
        total = measure_memory(whole, self.learner, optimizer).total
        optimizer.zero_grad()
        flops = measure_flops(local)
        optimizer.zero_grad()
        return {"activation_bytes": activations, "total_bytes": total, "flops": flops}

    def allocated(self, batch: int) -> Row:
        """Return what CUDA's allocator held at the peak: of a step beyond before, and in all."""
        if self.subject.device.type != "cuda":
            return {"allocated_bytes": None, "allocated_total_bytes": None}
        local, whole, optimizer = self.steps(batch)
        whole()
        found = []
        for run in (local, whole):
            optimizer.zero_grad()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            torch.cuda.synchronize()
            found.append(torch.cuda.max_memory_allocated() - before)
        optimizer.zero_grad()
        held = measure_memory(lambda: None, self.learner, optimizer)
        total = found[1] + held.parameters + held.optimizer
        return {"allocated_bytes": found[0], "allocated_total_bytes": total}

    def release(self) -> None:
        """Give the network back."""
        self.learner.zero_grad()
        self.learner.release()


class Timer:
    """A case that steps under a clock."""

    def __init__(self, case: Case, batch: int) -> None:
        self.device = case.subject.device
        _, self.whole, _ = case.steps(batch)

    def seconds(self) -> float:
        """Run a whole step; return how long it took."""
        self._wait()
        start = time.perf_counter()
        self.whole()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def paired(timer: Timer, baseline: Timer | None, repeats: int) -> Row:
    """Time steps in turn with the baseline's, after one of each that does not count."""
    taken, ratios = [], []
    for turn in range(repeats + 1):
        base = None if baseline is None else baseline.seconds()
        took = timer.seconds()
        if turn:
            taken.append(took)
            ratios += [] if base is None else [took / base]
    return {
        "median_seconds": statistics.median(taken),
        "seconds_std": statistics.stdev(taken),
        "time_ratio": statistics.median(ratios) if ratios else None,
        "time_ratio_std": statistics.stdev(ratios) if ratios else None,
    }


def measured(case: Case, batch: int, baseline: Timer | None) -> Row:
    """Return what a step takes, counted, and its time beside the baseline's."""
    costs = case.counted(batch) | case.allocated(batch)
    costs |= paired(Timer(case, batch), baseline, case.config.repeats)
    return {**costs, "per_second": batch * case.subject.each / costs["median_seconds"]}


def predicted(case: Case, batch: int) -> Row:
    """Return what a step takes, under fake tensors."""
    x, precision = case.subject.example(), case.config.precision
    update = partial(build_optimizer, case.config.optimizer)
    memory = predict_memory(case.learner, x, batch=batch, optimizer=update, precision=precision)
    return {
        "activation_bytes": memory.activations,
        "total_bytes": memory.total,
        "flops": predict_flops(case.learner, x, batch=batch),
    }
