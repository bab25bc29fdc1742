"""What the borders of a process lead to, and the record of what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from localgrad.lanes import OneLane
from localgrad.parallel.schedule import Action

if TYPE_CHECKING:
    from localgrad.parallel.pipeline import ParallelLearner


class Doors(OneLane):
    """One step's way between groups, and out of the process at both ends.

    Args:
        learner: whose step it is.
        key: of its batch.
        step: its number.
    """

    def __init__(self, learner: ParallelLearner, key: Any, step: int) -> None:
        self._learner, self._key, self._step = learner, key, step
        self._last = len(learner.groups) - 1

    def take_on(self, group: int) -> None:
        """The last group's weights have to be those of this step before its forward."""
        if group == self._last:
            self._learner.settle()
        self.note("forward", group)

    def hand_on(self, group: int, border: Tensor) -> None:
        """Send the last group's border on; let the error for it come."""
        if group == self._last and not self._learner.mesh.last:
            self.note("send", group, "border", +1)
            self._learner.onward.send(border, self._key)
            if self._learner.groups[group].linked and not self._learner.groups[group].late:
                self._learner.errors.begin(self._key)

    def taken(self, group: int) -> None:
        """The group's own backward is next."""
        self.note("local", group)

    def hand_back(self, group: int, error: Tensor | None) -> None:
        """Send the first group's error to the process before."""
        if group == 0 and not self._learner.mesh.first:
            self.note("send", group, "error", -1)
            self._learner.backward_errors.send(error, self._key)

    def take_back(self, group: int, error: Tensor | None) -> Tensor | None:
        """Receive the error for the last group."""
        if group == self._last and not self._learner.mesh.last:
            self.note("receive", group + 1, "error", +1)
            error = self._learner.errors.take(self._key)
        self.note("link", group)
        return error

    def updated(self, group: int) -> None:
        """The group's gradients are those of all replicas, and its update is done."""
        if self._learner.mesh.data > 1:
            self.note("reduce", group)
        self.note("step", group)

    def note(self, kind: str, group: int, what: str | None = None, to: int = 0) -> None:
        """Keep an action where that is asked for; ``to`` is +1 for the part after, -1 before."""
        actions = self._learner.actions
        if actions is not None:
            block = self._learner.first_block + group
            peer = None if what is None else self._learner.mesh.part + to
            actions.append(Action(kind, block, self._step, what=what, peer=peer))
