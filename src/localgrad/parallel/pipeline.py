"""A learner in several processes: each holds a run of blocks, and works on its own batch.

A process walks over its groups as :class:`localgrad.LocalLearner` walks over all. Its first group
reads the border that the process before sent off before that one's head and backward; the last
group's border goes on as soon as it is there. So the first process is a batch ahead of the second,
and none waits for a backward of the whole network.

With a link, the last group's units wait for an error from the next process. They wait into the
next step: its forward may run through all groups but the last with weights that are already those
of the next step, so nothing is stale and only the last group has to wait. That needs an optimizer
that steps block by block (``update``); its options of that step are kept for what is left of it.

With ``late_links`` the last group takes the error one step late instead, and no process waits for
the one after it (:mod:`localgrad.parallel.late`).

What a process does, and in which order, is its list in
:func:`localgrad.parallel.builders.local`'s schedule; ``record`` keeps it.

Arithmetic, and its order, are those of one process. Two things differ: with replicas a gradient is
a mean of means, and each process draws random numbers of its own (dropout).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from localgrad import block_updates
from localgrad.block_updates import BlockUpdates
from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner
from localgrad.losses import logits_of
from localgrad.parallel import share as share_room
from localgrad.parallel.agreement import same_batch, same_learner
from localgrad.parallel.doors import Doors
from localgrad.parallel.late import drained, mark
from localgrad.parallel.mesh import Mesh
from localgrad.parallel.messages import Incoming, Outgoing, Waits
from localgrad.parallel.replicas import Replicas, rows
from localgrad.parallel.roll import Roll
from localgrad.parallel.schedule import Action
from localgrad.segments import Group
from localgrad.step_walk import Late, StepWalk


class PartOutput(NamedTuple):
    """What a step returns in one process.

    ``losses`` are those of its own blocks; ``logits`` are there in the last part alone.
    """

    logits: Tensor | None
    losses: list[Tensor]


class ParallelLearner:
    """One process's part of a learner.

    Args:
        learner: as :func:`localgrad.decouple` made it, alike in every process (the same seed); it
            is taken over and cannot step any more until :func:`localgrad.parallel.gathered.join`.
        mesh: the processes.
        ends: end (exclusive index of a group of blocks) of each part; default: equal numbers.
        late_links: True: links that cross from part to part come one step late; or the groups
            of blocks whose link does, wherever parts end.
        record: keep what is done in ``actions``, in the words of a schedule.

    Attributes:
        late_blocks: of all parts, the groups of blocks whose link is late.
        actions: what this part has done, or None.

    Raises:
        LocalgradError: more parts than groups of blocks, parts that share a parameter, no link that
            could be late, or another learner or version of torch in some process, named.
    """

    def __init__(
        self,
        learner: LocalLearner,
        mesh: Mesh,
        ends: Sequence[int] | None = None,
        *,
        late_links: bool | Collection[int] = False,
        record: bool = False,
    ) -> None:
        same_learner(mesh, learner, ends, late_links)
        self.learner, self.mesh = learner, mesh
        self.share = share_room.take(learner, mesh.blocks, mesh.part, ends)
        self.groups = self.share.groups
        lasts = [end - 1 for end in self.share.ends]
        self.late_blocks = mark(self.share.everything, lasts, late_links)
        self.first_block = self.share.everything.index(self.groups[0])
        self.actions: list[Action] | None = [] if record else None
        self._late: Late = {}
        self._steps_begun = 0
        self.waits = Waits(mesh.device)
        self.steps_done = 0
        mesh.roll.progress = lambda: self.steps_done
        self._replicas = Replicas(mesh) if mesh.data > 1 else None
        self._open: tuple[StepWalk, BlockUpdates | None] | None = None
        whole = mesh.data > 1  # replicas meet once for each group
        self._due = block_updates.moments(self.groups, self.parameters(), whole)
        self._defers = self._may_defer()
        self._agreed = False
        before, after = mesh.rank - 1, mesh.rank + 1
        if not mesh.first:
            self.arriving = self._incoming("border", mesh.part - 1, before)
            self.backward_errors = self._outgoing("error", mesh.part - 1, before)
            self.testing_in = self._incoming("evaluation", mesh.part - 1, before)
        if not mesh.last:
            self.onward = self._outgoing("border", mesh.part, after)
            self.errors = self._incoming("error", mesh.part, after)
            self.testing_out = self._outgoing("evaluation", mesh.part, after)

    def _incoming(self, kind: str, border: int, peer: int) -> Incoming:
        mesh = self.mesh
        return Incoming(mesh.lanes[border, kind], peer, mesh.device, *self._about(kind))

    def _outgoing(self, kind: str, border: int, peer: int) -> Outgoing:
        mesh = self.mesh
        return Outgoing(mesh.lanes[border, kind], peer, mesh.device, *self._about(kind))

    def _about(self, kind: str) -> tuple[Waits, str, Roll]:
        # what testing waits is not counted
        waits = Waits(self.mesh.device) if kind == "evaluation" else self.waits
        return waits, kind, self.mesh.roll

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of this part, backbone and heads, in the learner's order."""
        return list(self.share.names)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield this part's parameters with their names in the learner."""
        yield from ((name, parameter) for parameter, name in self.share.names.items())

    def train(self, mode: bool = True) -> ParallelLearner:
        """Set the mode, as of the learner."""
        self.learner.train(mode)
        return self

    def eval(self) -> ParallelLearner:
        """Set the mode of testing."""
        return self.train(False)

    def steps(
        self,
        batches: Iterable[tuple[Tensor, Any]],
        update: torch.optim.Optimizer | None = None,
    ) -> Iterator[PartOutput]:
        """Step over batches; receives the border of the next one during each step.

        Every process gives the same batches. With ``update`` all updates are done when this ends.
        """
        left = iter(batches)
        batch = next(left, None)
        while batch is not None:
            following = next(left, None)
            x, y = batch
            yield self.step(x, y, update, None if following is None else following[0])
            batch = following
        self.finish()

    def step(
        self,
        x: Tensor,
        y: Any,
        update: torch.optim.Optimizer | None = None,
        following: Tensor | None = None,
    ) -> PartOutput:
        """Fill ``.grad`` of this part's parameters, or update them.

        Args:
            x, y: the whole batch, the same in every process; a replica takes its rows of it.
            update: an optimizer over :meth:`parameters`, stepped block by block; the last group's
                linked units are updated in the next step, or by :meth:`finish`.
            following: the input of the next step, if it is known.

        Raises:
            LocalgradError: the batch does not divide among the replicas, differs between
                processes, has another shape than the heads were built for, or a process is lost.
        """
        if not self.groups:
            raise LocalgradError("this part was joined: make a new ParallelLearner")
        self._check(x, update)
        x, y = rows(self.mesh, x, y)
        if not self._agreed:
            same_batch(self.mesh, x, y)
            self._agreed = True
        key = _key(x)
        updates = None
        if update is not None:
            reduce = None if self._replicas is None else self._replicas.average
            updates = BlockUpdates(update, self._due, reduce)
        doors = Doors(self, key, self._steps_begun)
        self._steps_begun += 1
        if len(self.groups) == 1:
            self.settle()  # before the wait for a border that cannot be worked on until then
        border: Tensor | None = x
        if not self.mesh.first:
            doors.note("receive", -1, "border", -1)
            border = self.arriving.take(key)
            if following is not None:
                self.arriving.begin(_key(rows(self.mesh, following, None)[0]))
        assert border is not None
        walk = StepWalk(self.groups, doors, updates, self._late)
        walk.run(border, y, x)
        if self.groups[-1].late:
            self.errors.begin(key)  # not sooner: the one before has been taken by now
        if walk.open is None:
            self._complete(updates)
        else:
            self._open = (walk, updates)
            if updates is None or not self._defers:
                self.settle()
            else:
                updates.keep_options()
        return PartOutput(walk.logits, walk.losses)

    def settle(self) -> None:
        """Take the error that the last group waits for, and do what is left of that step."""
        if self._open is None:
            return
        (walk, updates), self._open = self._open, None
        walk.close()
        self._complete(updates)

    def finish(self) -> None:
        """End the last step: take its link, and wait until what was sent has arrived.

        The gradients of a late link stay in ``.grad`` for the next update.
        """
        gradients = drained(self._late)
        if gradients and self._replicas is not None:
            self._replicas.average(gradients)
        self.settle()
        if not self.mesh.first:
            self.backward_errors.flush()
        if not self.mesh.last:
            self.onward.flush()

    def _complete(self, updates: BlockUpdates | None) -> None:
        self.steps_done += 1
        if updates is not None:
            updates.rest()
        elif self._replicas is not None:
            self._replicas.average(self.parameters())

    @torch.no_grad()
    def exits(self, x: Tensor) -> list[Tensor | None]:
        """Return the class scores of this part's heads, as :meth:`LocalLearner.exits`.

        Every process calls it with the same ``x``; in the last part the last entry is the
        network's own output. Replicas each work on all of it.
        """
        return [logits_of(scores) for scores in self._evaluated(x, heads=True)]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Any:
        """Return the network's output in the last part, None in the others; as :meth:`exits`."""
        scores = self._evaluated(x, heads=False)
        return scores[-1] if self.mesh.last else None

    def _evaluated(self, x: Tensor, heads: bool) -> list[Any]:
        self.finish()
        key = _key(x)
        border: Tensor | None = x if self.mesh.first else self.testing_in.take(key)
        assert border is not None
        stages = [stage for group in self.groups for stage in group.stages]
        scores = []
        for stage in stages:
            for unit in stage.units:
                border = unit.seeing(x)(border)
            if stage is stages[-1] and not self.mesh.last:
                self.testing_out.send(border, key)
            if heads or stage.block.head is None:
                scores.append(stage.scores(border, x))
        if not self.mesh.last:
            self.testing_out.flush()
        return scores

    @property
    def sent_bytes(self) -> int:
        """Bytes of messages that this process has sent in training steps."""
        sent = 0 if self._replicas is None else self._replicas.sent_bytes
        sent += 0 if self.mesh.first else self.backward_errors.sent_bytes
        return sent + (0 if self.mesh.last else self.onward.sent_bytes)

    def _check(self, x: Tensor, update: torch.optim.Optimizer | None) -> None:
        if not torch.is_grad_enabled():
            raise LocalgradError("step computes gradients: call it outside of torch.no_grad()")
        shape = self.learner.input_shape
        if shape is not None and x.shape[1:] != shape:
            raise LocalgradError(
                f"step got inputs of shape {tuple(x.shape[1:])}, the heads were built for "
                f"{tuple(shape)}: decouple with an example_input of that shape"
            )
        if update is None:
            return
        if not isinstance(update, torch.optim.Optimizer) or isinstance(update, torch.optim.LBFGS):
            raise LocalgradError(
                f"update is a {type(update).__name__}: expected a torch optimizer that looks at "
                "one parameter at a time"
            )
        block_updates.check_holds(update, self.named_parameters(), "ParallelLearner.parameters()")

    def _may_defer(self) -> bool:
        """Whether only the last group reads its weights (none is tied to another group's)."""
        last = set(_read(self.groups[-1:]))
        return not any(p in last for p in _read(self.groups[:-1]))


def _read(groups: Sequence[Group]) -> Iterator[nn.Parameter]:
    for stage in (stage for group in groups for stage in group.stages):
        for part in (*stage.units, stage.head):
            yield from part.parameters() if isinstance(part, nn.Module) else part.reads()


def _key(x: Tensor) -> tuple[Any, ...]:
    """Return what the form of a border depends on."""
    kind = x.device.type
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return tuple(x.shape), str(x.dtype), str(cast)
