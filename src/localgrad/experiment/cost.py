"""What one step of a rule costs: memory and FLOPs exactly, time beside others'."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from localgrad import LocalLearner, measure_flops, measure_memory
from localgrad.analysis.exits import exit_flops
from localgrad.experiment.build import Experiment
from localgrad.experiment.compiling import compile_steps
from localgrad.experiment.precision import autocast
from localgrad.experiment.update import Update
from localgrad.learner import StepOutput


def first_batch(experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Return the first batch of the first epoch."""
    return experiment.train.first()


def run_step(experiment: Experiment, learner: LocalLearner, x: Tensor, y: Tensor) -> StepOutput:
    """Run one local step in the configured precision."""
    with autocast(experiment.device, experiment.config.precision):
        return learner.step(x, y)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Put the random state back afterwards: measuring must not change what is trained."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        yield


def measure_cost(experiment: Experiment) -> dict[str, Any]:
    """Return bytes and FLOPs of one step at the configured batch size, and FLOPs of each exit.

    Runs on a copy of the learner, and leaves the random state as it was.
    ``peak_activation_bytes`` is of the step alone; ``peak_memory_bytes`` adds parameters,
    gradients and optimizer state, in the steady state. ``exit_flops`` are those of an answer from
    each block's head, per input (:func:`localgrad.analysis.exits.exit_flops`).
    """
    learner = copy.deepcopy(experiment.learner)
    # a scale that cannot overflow: the first update makes the optimizer's state
    update = Update(experiment.config, learner, experiment.device, scale=1.0)
    optimizer = update.optimizer
    x, y = first_batch(experiment)

    def whole() -> None:
        update.step(x, y)

    with random_state_kept(experiment.device):
        whole()  # the optimizer's state is there from now on
        optimizer.zero_grad()
        step = measure_memory(lambda: run_step(experiment, learner, x, y), learner)
        update_step = measure_memory(whole, learner, optimizer)
        optimizer.zero_grad()
        flops = measure_flops(lambda: run_step(experiment, learner, x, y))
        exits = exit_flops(learner, x[:2])
    return {
        "peak_activation_bytes": step.activations,
        "peak_memory_bytes": update_step.total,
        "parameter_bytes": update_step.parameters,
        "optimizer_bytes": update_step.optimizer,
        "flops_per_image": flops // len(x),
        "exit_flops": exits,
    }


def time_steps(
    experiments: Sequence[Experiment], repeats: int, tick: Callable[[], Any] = lambda: None
) -> list[list[float]]:
    """Return seconds of ``repeats`` steps of each experiment, taken in turn after one warm-up.

    A step is zero_grad, the local step and the optimizer's step. Taking turns lets every rule see
    the same machine, whatever else it does. ``tick`` is called before each.
    """
    runs = [_timed_step(experiment) for experiment in experiments]
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(repeats + 1):
        for run, found in zip(runs, seconds, strict=True):
            tick()
            start = time.perf_counter()
            run()
            if turn:
                found.append(time.perf_counter() - start)
    return seconds


def _timed_step(experiment: Experiment) -> Callable[[], None]:
    learner = copy.deepcopy(experiment.learner)
    compile_steps(experiment, learner)
    update = Update(experiment.config, learner, experiment.device)
    x, y = first_batch(experiment)

    def run() -> None:
        update.step(x, y)
        if experiment.device.type == "cuda":
            torch.cuda.synchronize(experiment.device)

    return run


def time_ratios(seconds: Sequence[Sequence[float]], baseline: int) -> list[float]:
    """Return each rule's time against the baseline's: the median of the ratios turn by turn."""
    base = seconds[baseline]
    return [statistics.median(a / b for a, b in zip(found, base, strict=True)) for found in seconds]
