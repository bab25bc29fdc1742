"""Which groups of blocks go to which part: so that the slowest part is as fast as can be.

In the steady state every part works on a batch of its own, and the slowest sets the pace.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from localgrad.errors import LocalgradError
from localgrad.lanes import OneLane
from localgrad.learner import LocalLearner
from localgrad.model_state import device_of, unchanged
from localgrad.partition import smallest_maximum
from localgrad.step_walk import StepWalk


class _Clock(OneLane):
    """Notes when each group begins."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.moments: list[float] = []

    def take_on(self, group: int) -> None:
        """A group begins."""
        self.note()

    def note(self) -> None:
        """Note the time when all that was asked of the device is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.moments.append(time.perf_counter())


def seconds_of_groups(learner: LocalLearner, x: Tensor, y: Any, repeats: int = 3) -> list[float]:
    """Return how long each group of blocks takes in a step, the shortest of ``repeats``.

    Gradients are computed and dropped; nothing else changes. A link counts where its error comes
    from, one group late.

    Raises:
        LocalgradError: there are gradients, which would be lost.
    """
    if any(p.grad is not None for p in learner.parameters()):
        raise LocalgradError("there are gradients, which measuring would lose: measure before")
    device = device_of(learner)
    found: list[list[float]] = []
    with unchanged(learner, device):
        for _ in range(repeats + 1):  # the first one warms up
            clock = _Clock(device)
            StepWalk(learner._groups, clock, None).run(x, y, x)
            clock.note()
            for parameter in learner.parameters():
                parameter.grad = None
            starts, stops = clock.moments[:-1], clock.moments[1:]
            found.append([stop - start for start, stop in zip(starts, stops, strict=True)])
    return [min(times) for times in zip(*found[1:], strict=True)]


def by_time(seconds: list[float], parts: int) -> tuple[int, ...]:
    """Return the end (exclusive index of a group) of each part.

    >>> by_time([3.0, 1.0, 1.0, 1.0], 2)
    (1, 4)
    """
    if parts > len(seconds):  # refused where parts are taken
        return tuple(range(1, parts + 1))
    return smallest_maximum(len(seconds), parts, lambda start, stop: sum(seconds[start:stop]))
