"""Links that come one step late, and in one process what several do with them.

The error for batch t comes when the update for batch t is done, and waits for nobody. Then, after
the group's own backward of batch t + 1, the units that waited are walked back through: on the
activations, and with the weights, of batch t (:mod:`localgrad.kept_weights`). Their gradient, of
local error and link, is exactly that of one process without late links at these weights, and goes
into the update of batch t + 1. So these units learn one batch late, and all others as ever; the
first step leaves these units as they are.

What waits when training pauses, to test or to save, is taken then: its gradients stay in ``.grad``
for the next update, as if they had come in it. So a pause changes no bit, and a checkpoint holds
these gradients instead of a graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from localgrad import block_updates
from localgrad.block_updates import BlockUpdates
from localgrad.errors import LocalgradError
from localgrad.lanes import OneLane
from localgrad.learner import LocalLearner, StepOutput
from localgrad.parallel.builders import late_blocks
from localgrad.segments import Group
from localgrad.step_walk import Late, StepWalk


def mark(
    groups: list[Group], lasts: Collection[int], late_links: bool | Collection[int]
) -> tuple[int, ...]:
    """Let groups keep what a link needs that comes one step late; return which these are.

    Args:
        groups: of the whole learner.
        lasts: the last group of each part.
        late_links: True: links that cross from part to part; or the groups.

    Raises:
        LocalgradError: there is no such link, or it cannot be late.
    """
    links = [number for number, group in enumerate(groups) if group.linked]
    late = late_blocks(links, lasts, late_links)
    if not late and late_links is True:
        raise LocalgradError(
            "late_links: no link crosses from part to part: leave it out, or take a rule with "
            "links, as BackLink, and several parts"
        )
    for number in late:
        group = groups[number]
        if group.runs:
            raise LocalgradError("late_links: a compiled block cannot have one; leave compile out")
        if group.stages[-1].block.checkpoint is not None:
            raise LocalgradError(
                f"late_links: block {group.stages[-1].index} recomputes its activations, when its "
                "weights are other ones already: leave activation checkpointing out"
            )
    for number in late:
        groups[number].late = True
    return late


def drained(late: Late) -> list[nn.Parameter]:
    """Take every error that is late; return the parameters whose ``.grad`` waits for an update."""
    found: list[nn.Parameter] = []
    for number in sorted(late):
        waiting = late.pop(number)
        waiting.finish()
        found += waiting.group.receivers
    return [p for p in dict.fromkeys(found) if p.grad is not None]


class LateLearner:
    """A learner in one process that takes some links one step late, as several processes do.

    Args:
        learner: as :func:`localgrad.decouple` made it; ``learner.step`` is still that without
            late links. One stream is used.
        late_links: the blocks whose link is late (runs of blocks, where borders are open).

    Raises:
        LocalgradError: a block has no link, is compiled, or recomputes its activations.

    >>> import localgrad
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    >>> x, y = torch.randn(16, 4), torch.randint(3, (16,))
    >>> learner = localgrad.decouple(model, "backlink", blocks=2, example_input=x)
    >>> late = LateLearner(learner, [0])
    >>> optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    >>> for _ in range(3):
    ...     out = late.step(x, y, optimizer)
    >>> late.finish()  # before it is tested or saved
    """

    def __init__(self, learner: LocalLearner, late_links: Collection[int]) -> None:
        mark(learner._groups, (), late_links)
        self.learner = learner
        self._late: Late = {}
        self._due: block_updates.Due = block_updates.moments(
            learner._groups, list(learner.parameters())
        )

    def step(self, x: Tensor, y: Any, update: torch.optim.Optimizer | None = None) -> StepOutput:
        """Fill ``.grad``, or update block by block; as :meth:`localgrad.LocalLearner.step`.

        Without ``update``, ``.grad`` of a late block's last units is that of the batch before, and
        None in the first step.
        """
        learner = self.learner
        learner._check_input(x)
        block_updates.check(update, None, learner)
        updates = None if update is None else BlockUpdates(update, self._due)
        walk = StepWalk(learner._groups, OneLane(), updates, self._late)
        walk.run(x, y, x)
        if updates is not None:
            updates.rest()
        assert walk.logits is not None  # the last block ends in the tail
        return StepOutput(walk.logits, walk.losses)

    def finish(self) -> None:
        """Take what is late; its gradients stay in ``.grad`` for the next update."""
        drained(self._late)


def waiting_gradients(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """Return the gradients that wait for the next update, by name: what a checkpoint holds.

    Args:
        named: parameters, when all steps are finished.
    """
    return {name: p.grad.detach().cpu() for name, p in named if p.grad is not None}


def put_back(named: Iterable[tuple[str, nn.Parameter]], gradients: dict[str, Tensor]) -> None:
    """Put :func:`waiting_gradients` in place, where a parameter is among ``named``."""
    for name, parameter in named:
        if name in gradients:
            parameter.grad = gradients[name].to(parameter.device, copy=True)
