"""One group of blocks in the step: forward, local backward, link.

A group is a run of blocks with open borders between them; for most rules it is one block. Its
graph is a short segment that starts at a leaf, the detached output of what came before. Where the
next group sends a link back, the last units form a second segment on a leaf of their own: the
local error crosses it at once, while its weight gradients wait for the link and are computed
once, with both errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from localgrad.chain import Unit
from localgrad.decoupling import Block, Link
from localgrad.errors import LocalgradError
from localgrad.kept_weights import keeping
from localgrad.losses import LocalLoss
from localgrad.recompute import run_units
from localgrad.walked_twice import ALL, ERRORS, WEIGHTS, asking


def announce(loss: Tensor, index: int) -> Tensor:
    """Return ``loss`` as it is; a torch-function mode (the audit) sees which loss it is."""
    if has_torch_function_unary(loss):
        replaced: Tensor = handle_torch_function(announce, (loss,), loss, index)
        return replaced
    return loss


@dataclass(frozen=True, eq=False)
class Stage:
    """A block with its units, head and loss in place."""

    index: int
    block: Block
    units: tuple[Unit, ...]
    head: nn.Module | Unit
    loss: LocalLoss

    def scores(self, x: Tensor, source: Tensor) -> Any:
        """Return what the head, or the network's tail, makes of the block's output ``x``.

        Args:
            x: the block's output.
            source: the network's input.
        """
        return self.head_for(source)(x)

    def head_for(self, source: Tensor) -> nn.Module | Unit:
        """Return the head for one run of the network on ``source``."""
        return self.head.seeing(source) if isinstance(self.head, Unit) else self.head


@dataclass(eq=False)
class LinkSegment:
    """The units that wait for the next group's error.

    Args:
        before: what the rest of the group hands over, with its graph.
        leaf: the segment's input, ``before`` detached.
        end: the segment's output, with its graph.
        head_leaf: the head's input, ``end`` detached.
        head_loss: kept where the head is asked for its error a second time.
        error: the error at ``end`` that waits.
    """

    before: Tensor
    leaf: Tensor
    end: Tensor
    head_leaf: Tensor
    head_loss: Tensor | None = None
    error: Tensor | None = None


@dataclass(eq=False)
class Walk:
    """A group's state within one step.

    Args:
        leaf: the group's input; its ``grad`` is the error at the border, if it is asked for.
        border: the group's output, detached.
        logits: what the network's tail returned, detached, in the last group.
        values: each block's loss, detached.
        losses: with their graphs, until the local backward.
        link: the segment that waits for a link, if there is one.
    """

    leaf: Tensor
    border: Tensor
    logits: Tensor | None = None
    values: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    link: LinkSegment | None = None


class Group:
    """Blocks that one backward pass covers.

    Args:
        stages: the blocks, in order, with open borders between them.
        sends_error: the first block's loss reaches into the group before.
        link: how the next group's loss reaches into this one; None: not at all.
        linked: the number of units at the end that the link reaches.
        receivers: the parameters of those units that the link trains.

    Attributes:
        late: the link comes one step late, when these units' weights have been updated.
    """

    late = False

    def __init__(
        self,
        stages: tuple[Stage, ...],
        sends_error: bool,
        link: Link | None,
        linked: int,
        receivers: tuple[nn.Parameter, ...],
    ) -> None:
        self.stages, self.sends_error, self.link, self.linked = stages, sends_error, link, linked
        received = {id(p) for p in receivers}
        waiting = stages[-1].units[len(stages[-1].units) - linked :] if linked else ()
        read = [p for unit in waiting for p in (*unit.parameters(), *unit.borrowed())]
        self._received = receivers
        self._own = [p for p in read if id(p) not in received]
        self._places = [place for unit in waiting for place in unit.places()]
        self._held = [getattr(module, name) for module, name in self._places]
        first = stages[0]
        self._starts_with_norm = _group_norms((*first.units, first.head)[0])
        self._link_starts_with_norm = bool(waiting) and _group_norms(waiting[0])
        #: compiled runs, by index of the block and part (:mod:`localgrad.compiled`)
        self.runs: dict[tuple[int, str], Any] = {}

    def forward(
        self,
        x: Tensor,
        y: Any,
        image: Tensor,
        scale: Callable[[Tensor], Tensor] | None = None,
        ready: Callable[[Tensor], None] | None = None,
    ) -> Walk:
        """Run units, heads and losses on ``x``, cut off from what made it.

        Args:
            x: the output of the group before.
            y: targets.
            image: the network's input.
            scale: applied to each loss that is walked back from, not to those that are reported.
            ready: called with the group's output, detached, before the last head runs.
        """
        self._look()
        x = _leaf(x, self.sends_error, self._starts_with_norm)
        walk = Walk(leaf=x, border=x)
        with _forward_mode(x.device.type):
            for stage in self.stages:
                linked = self.linked if stage is self.stages[-1] else 0
                units = tuple(unit.seeing(image) for unit in stage.units)
                split = len(units) - linked
                x = self._run(stage, "units", units[:split], x)
                if linked:
                    leaf = _leaf(x, x.requires_grad, self._link_starts_with_norm)
                    with keeping([*self._received, *self._own]) if self.late else nullcontext():
                        end = self._run(stage, "link", units[split:], leaf)
                    before, x = x, end.detach().requires_grad_(True)
                    walk.link = LinkSegment(before, leaf, end, head_leaf=x)
                if stage is self.stages[-1]:
                    walk.border = x.detach()
                    if ready is not None:
                        ready(walk.border)
                out = self._scores(stage, x, image)
                if stage.block.head is None:
                    walk.logits = out.detach()
                loss = announce(stage.loss(out, y, image), stage.index)
                if loss.requires_grad:  # not where all that it could train is frozen
                    walk.losses.append(loss if scale is None else scale(loss))
                walk.values.append(loss.detach())
        return walk

    def _run(self, stage: Stage, part: str, units: tuple[Unit, ...], x: Tensor) -> Tensor:
        compiled = self.runs.get((stage.index, part))
        if compiled is None:
            return run_units(units, x, stage.block.checkpoint)
        out: Tensor = compiled(units, x)
        return out

    def _scores(self, stage: Stage, x: Tensor, image: Tensor) -> Any:
        compiled = self.runs.get((stage.index, "head"))
        if compiled is None:
            return stage.scores(x, image)
        head = stage.head_for(image)
        return compiled((head,) if isinstance(head, Unit) else head, x)

    def _asking(self, which: str) -> AbstractContextManager[Any]:
        """Say what a walk through compiled units wants, and that they will be walked again."""
        return asking(which) if self.runs else nullcontext()

    def _look(self) -> None:
        """See which parameters learn at present: they may have been frozen or thawed.

        Raises:
            LocalgradError: a parameter that a link trains is not the model's any more.
        """
        for (module, name), held in zip(self._places, self._held, strict=True):
            if getattr(module, name, None) is not held:
                raise LocalgradError(
                    f"parameter {name!r} of a {type(module).__name__} was replaced after "
                    "decouple(): call release() and decouple the model again"
                )
        self.receivers = tuple(p for p in self._received if p.requires_grad)
        self.local_parameters = tuple(p for p in self._own if p.requires_grad)
        sums = self.link is not None and self.link.combine == "sum" and bool(self.receivers)
        # of a late link always: the head that would be asked again has been updated by then
        keeps = self.late or (self.link is not None and self.link.keep_error)
        self.keeps_error = sums and keeps
        self.asks_head_again = sums and not self.keeps_error

    def local(self, walk: Walk) -> Tensor | None:
        """Walk back from the losses; return the error at the group's input where it is asked for.

        Frees every graph but that of the segment that waits for a link.
        """
        leaf = walk.leaf
        del walk.leaf  # whoever keeps the walk for a link has no use for the group's input
        with _backward_mode(leaf.device.type):
            if walk.link is None:
                if walk.losses:
                    torch.autograd.backward(walk.losses)
                walk.losses.clear()
                return leaf.grad
            error = self._cross(walk.link, walk.losses.pop())
            if walk.link.before is leaf:  # the link's segment is the whole group
                return error
            roots = list(walk.losses)
            errors: list[Tensor | None] = [None] * len(roots)
            if walk.link.before.requires_grad:
                roots, errors = [walk.link.before, *roots], [error, *errors]
            del walk.link.before
            walk.losses.clear()
            if roots:
                torch.autograd.backward(roots, errors)
            return leaf.grad

    def _cross(self, segment: LinkSegment, head_loss: Tensor) -> Tensor | None:
        """Take the head's error across the waiting segment; return the error at its input."""
        with self._asking(ALL):
            torch.autograd.backward(head_loss, retain_graph=self.asks_head_again)
        error, segment.head_leaf.grad = segment.head_leaf.grad, None
        onward = segment.before.requires_grad
        wanted = [*([segment.leaf] if onward else []), *self.local_parameters]
        if wanted:
            with self._asking(ALL if self.local_parameters else ERRORS):
                torch.autograd.backward(
                    segment.end, error, inputs=wanted, retain_graph=bool(self.receivers)
                )
        if self.keeps_error:
            segment.error = error
        if self.asks_head_again:
            segment.head_loss = head_loss
        else:
            del segment.head_leaf
        # the graph that waits holds the leaf: take its error away, or it lives as long
        crossed, segment.leaf.grad = segment.leaf.grad, None
        del segment.leaf
        return crossed

    def receive(self, walk: Walk, error: Tensor | None) -> None:
        """Take the next group's error at the border; :meth:`finish` then uses it."""
        assert self.link is not None
        assert walk.link is not None
        segment = walk.link
        if segment.head_loss is not None:
            with _backward_mode(segment.head_leaf.device.type), self._asking(ALL):
                torch.autograd.backward(segment.head_loss, inputs=[segment.head_leaf])
            segment.error, segment.head_loss = segment.head_leaf.grad, None
            del segment.head_leaf
        if error is None:
            return
        if segment.error is not None:
            segment.error.add_(error, alpha=self.link.weight)
        else:
            # in place: nobody else reads it, and it is as large as the border
            segment.error = error if self.link.weight == 1.0 else error.mul_(self.link.weight)

    def finish(self, walk: Walk) -> None:
        """Compute the gradients that waited for the link, from the errors at the border."""
        assert walk.link is not None
        segment, walk.link = walk.link, None
        end, error = segment.end, segment.error
        del segment
        if self.receivers and error is not None:
            with _backward_mode(end.device.type), self._asking(WEIGHTS):
                torch.autograd.backward(end, error, inputs=list(self.receivers))


def _forward_mode(device: str) -> AbstractContextManager[Any]:
    """Under autocast, forget cast weights at once: the next backward frees what they hang on."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, torch.get_autocast_dtype(device), cache_enabled=False)
    return nullcontext()


def _leaf(x: Tensor, requires_grad: bool, norms: bool) -> Tensor:
    """Return ``x`` cut off from what made it.

    On the CPU, torch's backward of a group norm ends the process if its input is channels-last and
    nothing asks for that input's gradient (torch 2.13). In a whole network that hardly happens; in
    a block that starts with such a norm it always does, so it gets a contiguous copy.

    Args:
        x: output of what came before.
        requires_grad: whether the error at it is asked for.
        norms: whether what reads it has a group norm.
    """
    x = x.detach()
    if norms and x.device.type == "cpu" and x.dim() == 4:
        x = x.contiguous()
    return x.requires_grad_(requires_grad)


def _group_norms(reader: nn.Module | Unit) -> bool:
    return any(isinstance(module, nn.GroupNorm) for module in reader.modules())


def _backward_mode(device: str) -> AbstractContextManager[Any]:
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def groups_of(
    stages: list[Stage], receivers: Callable[[int, Link], tuple[int, tuple[nn.Parameter, ...]]]
) -> list[Group]:
    """Join stages with open borders into groups.

    Args:
        stages: every block of the decoupling.
        receivers: called with a block's index and the link that reaches into it; returns the
            number of units reached and the parameters that the link trains.
    """
    runs: list[list[Stage]] = []
    for stage in stages:
        if stage.block.open:
            runs[-1].append(stage)
        else:
            runs.append([stage])
    groups = []
    for position, run in enumerate(runs):
        following = runs[position + 1][0].block.link if position + 1 < len(runs) else None
        linked, parameters = (0, ()) if following is None else receivers(run[-1].index, following)
        own = run[0].block.link
        sends = own is not None and own.length > 0
        groups.append(Group(tuple(run), sends, following, linked, parameters))
    return groups


def norms_in_common(groups: Sequence[Group]) -> str | None:
    """Return the kind of a norm with running statistics that runs in two groups, or None."""
    owner: dict[int, int] = {}
    for number, group in enumerate(groups):
        parts = [part for stage in group.stages for part in (*stage.units, stage.head)]
        for module in {id(m): m for part in parts for m in part.modules()}.values():
            counts = getattr(module, "track_running_stats", False)
            if counts and owner.setdefault(id(module), number) != number:
                return type(module).__name__
    return None
