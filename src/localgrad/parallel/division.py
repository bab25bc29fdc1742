"""Which groups of blocks go to which part: so that the slowest part is as fast as can be.

In the steady state every part works on a batch of its own, and the slowest sets the pace. Groups
are timed alone first. Processes of one machine share its memory and caches, and run slower
together: so all time their own part at the same moment, and groups are divided anew by what they
took there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from localgrad.errors import LocalgradError
from localgrad.lanes import OneLane
from localgrad.learner import LocalLearner
from localgrad.model_state import device_of, unchanged
from localgrad.parallel.assignment import by_time
from localgrad.parallel.mesh import Mesh
from localgrad.parallel.part_memory import Bytes
from localgrad.parallel.replicas import rows
from localgrad.parallel.share import check_parts
from localgrad.step_walk import StepWalk

__all__ = ["at_work", "by_time", "seconds_of_groups", "settled"]

REPEATS = 3  # timed steps, of which the middle one counts
ROUNDS = 3  # divisions that are tried at work


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


class _Borders(OneLane):
    """Keeps what one group hands on; the network's input is handed on by none."""

    def __init__(self, before: int) -> None:
        self._before = before
        self.kept: Tensor | None = None

    def hand_on(self, group: int, border: Tensor) -> None:
        """A group's output is there."""
        if group == self._before:
            self.kept = border.detach().clone()


def seconds_of_groups(
    learner: LocalLearner, x: Tensor, y: Any, repeats: int = REPEATS
) -> list[float]:
    """Return how long each group of blocks takes in a step, the shortest of ``repeats``.

    Gradients are computed and dropped; nothing else changes. A link counts where its error comes
    from, one group late.

    Raises:
        LocalgradError: there are gradients, which would be lost.
    """
    device = device_of(learner)
    found: list[list[float]] = []
    with _nothing_kept(learner) as drop:
        for _ in range(repeats + 1):  # the first one warms up
            clock = _Clock(device)
            StepWalk(learner._groups, clock, None).run(x, y, x)
            clock.note()
            drop()
            starts, stops = clock.moments[:-1], clock.moments[1:]
            found.append([stop - start for start, stop in zip(starts, stops, strict=True)])
    return [min(times) for times in zip(*found[1:], strict=True)]


def settled(
    seconds: Sequence[float],
    parts: int,
    timed: Callable[[tuple[int, ...]], Sequence[float]],
    memory: Bytes | None = None,
    limit: int | None = None,
    rounds: int = ROUNDS,
) -> tuple[int, ...]:
    """Return the end of each part, after trying divisions until one stays.

    Args:
        seconds: of each group, alone.
        parts: number of parts.
        timed: returns the seconds of each part of a division, all at work.
        memory, limit: as of :func:`by_time`.
        rounds: divisions to try at the most; of all that were tried the fastest is returned.

    Raises:
        LocalgradError: no division keeps to the limit.

    >>> alone = [1.0, 1.0, 1.0, 1.0]
    >>> def slower_at_the_end(ends):
    ...     return sum(alone[: ends[0]]), 3 * sum(alone[ends[0] :])
    >>> settled(alone, 2, slower_at_the_end)
    (3, 4)
    """
    guess, tried = list(seconds), dict[tuple[int, ...], float]()
    ends = by_time(guess, parts, memory, limit, "groups of blocks")
    while ends not in tried and len(tried) < rounds:
        took = timed(ends)
        tried[ends] = max(took)
        for start, stop, measured in zip((0, *ends), ends, took, strict=False):
            factor = measured / max(sum(guess[start:stop]), 1e-9)
            guess[start:stop] = [value * factor for value in guess[start:stop]]
        ends = by_time(guess, parts, memory, limit, "groups of blocks")
    return min(tried, key=lambda ends: tried[ends])


def at_work(
    learner: LocalLearner,
    mesh: Mesh,
    x: Tensor,
    y: Any,
    memory: Bytes | None = None,
    limit: int | None = None,
) -> tuple[int, ...]:
    """Return the end (exclusive index of a group) of each part, timed with all at work.

    Every process calls it, with its whole learner, and gets the same. It takes a few steps;
    weights, buffers, gradients and the random state stay as they are.

    Args:
        learner: alike in every process.
        mesh: the processes.
        x, y: a batch, the same in every process; a replica takes its rows of it.
        memory: bytes of a part, with ``limit``.
        limit: bytes that a part may take.

    Raises:
        LocalgradError: more parts than groups; gradients, which would be lost; or no division
            keeps to the limit.
    """
    check_parts(learner, mesh.blocks)
    x, y = rows(mesh, x, y)
    seconds = seconds_of_groups(learner, x, y) if mesh.rank == 0 else []
    seconds = mesh.gather(seconds)[0]

    def timed(ends: tuple[int, ...]) -> list[float]:
        mine = _seconds_of_part(learner, mesh, x, y, ends)
        everyone = mesh.gather(mine)
        return [max(everyone[part :: mesh.blocks]) for part in range(mesh.blocks)]

    with _nothing_kept(learner):
        ends = settled(seconds, mesh.blocks, timed, memory, limit)
    found: tuple[int, ...] = mesh.gather(ends)[0]
    return found


def _seconds_of_part(
    learner: LocalLearner, mesh: Mesh, x: Tensor, y: Any, ends: tuple[int, ...]
) -> float:
    """Return how long this process's part takes beside the others: the median of several steps."""
    start, stop = (0, *ends)[mesh.part], ends[mesh.part]
    border = x
    took = []
    with _nothing_kept(learner) as drop:
        if start:
            borders = _Borders(start - 1)
            StepWalk(learner._groups[:start], borders, None).run(x, y, x)
            drop()
            assert borders.kept is not None
            border = borders.kept
        for _ in range(REPEATS + 1):  # the first one warms up
            mesh.gather(None)  # all begin together
            took.append(_seconds_of_step(learner, start, stop, border, y, x))
            drop()
    return statistics.median(took[1:])


def _seconds_of_step(
    learner: LocalLearner, start: int, stop: int, border: Tensor, y: Any, x: Tensor
) -> float:
    clock, ends_with = _Clock(device_of(learner)), _Borders(stop - start - 1)
    clock.note()
    walk = StepWalk(learner._groups[start:stop], ends_with, None)
    walk.run(border, y, x)
    if walk.open is not None:  # as if the next part had sent no error at all
        assert ends_with.kept is not None
        walk.close(torch.zeros_like(ends_with.kept))
    clock.note()
    return clock.moments[-1] - clock.moments[0]


@contextmanager
def _nothing_kept(learner: LocalLearner) -> Iterator[Callable[[], None]]:
    """Leave the learner as it was; yields what drops gradients."""
    parameters = list(learner.parameters())
    if any(p.grad is not None for p in parameters):
        raise LocalgradError("there are gradients, which measuring would lose: measure before")

    def drop() -> None:
        for parameter in parameters:
            parameter.grad = None

    with unchanged(learner, device_of(learner)):
        try:
            yield drop
        finally:
            drop()
