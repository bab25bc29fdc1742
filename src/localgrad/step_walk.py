"""The walk of one local step over groups of blocks: all of them, or those that one process holds.

For each group: forward, the link of the group before the last where streams are two, the local
backward, its own link of the step before where that is late, the link of the group before. What
crosses the border of a group goes over ``lanes``, which know whether its neighbour is on another
stream or in another process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from localgrad.block_updates import BlockUpdates
from localgrad.errors import LocalgradError
from localgrad.lanes import OneLane
from localgrad.segments import Group, Walk


@dataclass(eq=False)
class Waiting:
    """A group's walk that waits for the error of the next group.

    Args:
        group: what walks.
        number: the group's place.
        walk: its state.
        lanes: of the step that it belongs to.
        error: what it waits for, where it has come.
    """

    group: Group
    number: int
    walk: Walk
    lanes: OneLane
    error: Tensor | None = None

    def finish(self) -> None:
        """Take the error, and compute the gradients that waited for it."""
        with self.lanes.at(self.number):
            error, self.error = self.lanes.take_back(self.number, self.error), None
            self.group.receive(self.walk, error)
            del error  # before the waiting gradients need room
            self.group.finish(self.walk)
            self.lanes.done(self.number)


#: By the number of a group whose link is late: what waits for the next step.
Late = dict[int, Waiting]


class StepWalk:
    """One step.

    Args:
        groups: in order.
        lanes: how groups hand over to each other.
        updates: told of each moment of the step, where blocks are updated on the way.
        late: what waits since the step before; what waits for the next one is left in it. None:
            every link comes in time.

    Attributes:
        losses: each block's, detached.
        logits: the network's own output, detached, where the last group is the network's last.
        open: the last group's walk, where it waits for an error from beyond these groups.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        lanes: OneLane,
        updates: BlockUpdates | None,
        late: Late | None = None,
    ) -> None:
        self._groups, self._lanes, self._updates = groups, lanes, updates
        self._late = late
        self._ready: Waiting | None = None  # its error has come
        self.losses: list[Tensor] = []
        self.logits: Tensor | None = None
        self.open: Waiting | None = None

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
        lanes = self._lanes
        waiting: Waiting | None = None
        for number, group in enumerate(self._groups):
            with lanes.at(number):
                lanes.take_on(number)
                walk = _forward(group, border, y, source, scale, partial(lanes.hand_on, number))
                lanes.taken(number)
            border, self.logits = walk.border, walk.logits
            self.losses += walk.values
            self._link()
            with lanes.at(number):
                error_at_input = group.local(walk)
                if waiting is not None or (number == 0 and group.sends_error):
                    lanes.hand_back(number, error_at_input)
                if waiting is not None:
                    waiting.error = error_at_input
                    self._wait(waiting)
                del error_at_input  # before the waiting gradients need room
                if not group.linked:
                    lanes.done(number)
            self._update(number, group)
            if not lanes.behind:
                self._link()
            waiting = Waiting(group, number, walk, lanes) if group.linked else None
            del walk
        self._link()
        if waiting is not None:
            self._wait(waiting)
            self.open, self._ready = self._ready, None

    def close(self, error: Tensor | None = None) -> None:
        """End the step with the error for the walk that is open, or the one that lanes receive."""
        assert self.open is not None
        self.open.error = error
        self._ready, self.open = self.open, None
        del error
        self._link()

    def _wait(self, waiting: Waiting) -> None:
        """Let a walk whose error is on its way wait for its turn, in this step or the next."""
        if self._late is not None and waiting.group.late:
            self._late[waiting.number] = waiting
        else:
            self._ready = waiting

    def _link(self) -> None:
        """Finish the walk whose error has come, if there is one."""
        ready, self._ready = self._ready, None
        if ready is None:
            return
        ready.finish()
        if self._updates is not None:
            self._updates.after_link(ready.number)
            self._lanes.updated(ready.number)

    def _update(self, number: int, group: Group) -> None:
        """Do what follows a group's own backward: updates, between them a link that is late."""
        updates = self._updates
        if updates is not None:
            updates.after_local(number)
        if self._late is not None and group.late:
            before = self._late.pop(number, None)
            if before is not None:
                before.finish()
            if updates is not None:
                updates.after_link(number, late=True)
                self._lanes.updated(number)
        elif updates is not None and not group.linked:
            self._lanes.updated(number)


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
