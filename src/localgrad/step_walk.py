"""The walk of one local step over groups of blocks: all of them, or those that one process holds.

For each group: forward, the link of the group before the last where streams are two, the local
backward, the link of the group before. What crosses the border of a group goes over ``lanes``,
which know whether its neighbour is on another stream or in another process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from localgrad.block_updates import BlockUpdates
from localgrad.errors import LocalgradError
from localgrad.lanes import OneLane
from localgrad.segments import Group, Walk


class StepWalk:
    """One step.

    Args:
        groups: in order.
        lanes: how groups hand over to each other.
        updates: told of each moment of the step, where blocks are updated on the way.

    Attributes:
        losses: each block's, detached.
        logits: the network's own output, detached, where the last group is the network's last.
        open: the last group's walk, where it waits for an error from beyond these groups.
    """

    def __init__(
        self, groups: Sequence[Group], lanes: OneLane, updates: BlockUpdates | None
    ) -> None:
        self._groups, self._lanes, self._updates = groups, lanes, updates
        self._late: list[Any] = []  # a walk that waits, with the error that it waits for
        self.losses: list[Tensor] = []
        self.logits: Tensor | None = None
        self.open: Walk | None = None

    def run(
        self,
        border: Tensor,
        y: Any,
        source: Tensor,
        scale: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Walk over all groups.

        Args:
            border: what the first group reads.
            y: targets.
            source: the network's input.
            scale: applied to each loss that is walked back from.
        """
        lanes, updates = self._lanes, self._updates
        waiting: Walk | None = None
        for number, group in enumerate(self._groups):
            with lanes.at(number):
                lanes.take_on(number)
                walk = _forward(group, border, y, source, scale, partial(lanes.hand_on, number))
                lanes.taken(number)
            border, self.logits = walk.border, walk.logits
            self.losses += walk.values
            self._link(number - 2)
            with lanes.at(number):
                error_at_input = group.local(walk)
                if waiting is not None:
                    self._late += [waiting, error_at_input]
                if waiting is not None or (number == 0 and group.sends_error):
                    lanes.hand_back(number, error_at_input)
                del error_at_input  # before the waiting gradients need room
                if not group.linked:
                    lanes.done(number)
            if updates is not None:
                updates.after_local(number)
            if not lanes.late:
                self._link(number - 1)
            waiting = walk if group.linked else None
        self._link(len(self._groups) - 2)
        self.open = waiting

    def close(self, error: Tensor | None) -> None:
        """Give the walk that is open the error that it waits for."""
        assert self.open is not None
        self._late += [self.open, error]
        self.open = None
        del error
        self._link(len(self._groups) - 1)

    def _link(self, number: int) -> None:
        """Give the walk of group ``number`` the error that it waits for, if it has come."""
        if not self._late:
            return
        walk, error = self._late
        self._late.clear()
        with self._lanes.at(number):
            self._lanes.take_back(number)
            self._groups[number].receive(walk, error)
            del error  # before the waiting gradients need room
            self._groups[number].finish(walk)
            self._lanes.done(number)
        if self._updates is not None:
            self._updates.after_link(number)


def _forward(
    group: Group,
    border: Tensor,
    y: Any,
    source: Tensor,
    scale: Callable[[Tensor], Tensor] | None,
    ready: Callable[[Tensor], None],
) -> Walk:
    try:
        return group.forward(border, y, source, scale, ready)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise LocalgradError(
            f"block {group.stages[-1].index}: batch norm cannot train on a batch of "
            f"{source.shape[0]}; use a larger batch or drop the last short one"
        ) from error
