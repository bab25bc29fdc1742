"""One group of blocks in the step: forward, local backward, link.

A group is a run of blocks with open borders between them; for most rules it is one block. Its
graph is a short segment that starts at a leaf, the detached output of what came before. Where the
next group sends a link back, the last units form a second segment on a leaf of their own: the
local error crosses it at once, while its weight gradients wait for the link and are computed
once, with both errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils.checkpoint import checkpoint

from localgrad.chain import Unit
from localgrad.decoupling import Block, Link
from localgrad.losses import LocalLoss


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


class Group:
    """Blocks that one backward pass covers, and their state within one step.

    Args:
        stages: the blocks, in order, with open borders between them.
        sends_error: the first block's loss reaches into the group before.
        link: how the next group's loss reaches into this one; None: not at all.
        linked: the number of units at the end that the link reaches.
        receivers: the parameters of those units that the link trains.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...],
        sends_error: bool,
        link: Link | None,
        linked: int,
        receivers: tuple[nn.Parameter, ...],
    ) -> None:
        self.stages, self.sends_error, self.link, self.linked = stages, sends_error, link, linked
        self.receivers = receivers
        received = {id(p) for p in receivers}
        last = stages[-1].units[len(stages[-1].units) - linked :] if linked else ()
        own = [p for unit in last for p in unit.parameters() if id(p) not in received]
        self.local_parameters = tuple(p for p in own if p.requires_grad)

    def forward(self, x: Tensor, y: Any, image: Tensor) -> tuple[Tensor, Any, list[Tensor]]:
        """Run the units, heads and losses; return the detached output, the tail's output, losses."""
        self.leaf = x.detach().requires_grad_(self.sends_error)
        x = self.leaf
        losses: list[Tensor] = []
        out: Any = None
        with _forward_mode(x.device.type):
            for stage in self.stages:
                split = len(stage.units) - (self.linked if stage is self.stages[-1] else 0)
                x = _run(stage.units[:split], x, stage.block.checkpoint)
                if stage is self.stages[-1] and self.linked:
                    self.before = x  # where the rest of the group ends and the link's segment starts
                    self.link_leaf = x.detach().requires_grad_(True)
                    self.end = _run(stage.units[split:], self.link_leaf, stage.block.checkpoint)
                    x = self.head_leaf = self.end.detach().requires_grad_(True)
                out = stage.head(x)
                loss = stage.loss(out, y, image)
                losses.append(announce(loss, stage.index))
        self.losses = losses
        return x.detach(), out, [loss.detach() for loss in losses]

    def local(self) -> Tensor | None:
        """Walk back from the losses; return the error at the group's input where it is asked for."""
        losses, self.losses = self.losses, []
        leaf, self.leaf = self.leaf, None
        with _backward_mode(leaf.device.type):
            if not self.linked:
                torch.autograd.backward(losses)
                return leaf.grad
            again = self._asks_head_again()
            self.head_loss = losses.pop()
            torch.autograd.backward(self.head_loss, retain_graph=again)
            self.error, self.head_leaf.grad = self.head_leaf.grad, None
            if not again:
                self.head_loss = self.head_leaf = None
            before, self.before = self.before, None
            goes_on = before.requires_grad
            if goes_on or self.local_parameters:
                wanted = [*([self.link_leaf] if goes_on else []), *self.local_parameters]
                torch.autograd.backward(
                    self.end, self.error, inputs=wanted, retain_graph=bool(self.receivers)
                )
            # the graph that waits for the link holds the leaf, so take its error away
            error, self.link_leaf.grad = self.link_leaf.grad, None
            self.link_leaf = None
            if again or (self.link is not None and self.link.combine == "replace"):
                self.error = None
            if before is leaf:  # the link's segment is the whole group
                return error
            roots = [before, *losses] if goes_on else losses
            if roots:
                errors = [error] if goes_on else []
                torch.autograd.backward(roots, [*errors, *(None for _ in losses)])
            return leaf.grad

    def _asks_head_again(self) -> bool:
        link = self.link
        if link is None or link.combine == "replace" or not self.receivers:
            return False
        return not link.keep_error

    def receive(self, error: Tensor | None) -> None:
        """Take the next group's error at the border; :meth:`finish` then uses it."""
        assert self.link is not None
        if self.head_loss is not None:
            loss, self.head_loss = self.head_loss, None
            leaf, self.head_leaf = self.head_leaf, None
            with _backward_mode(leaf.device.type):
                torch.autograd.backward(loss, inputs=[leaf])
            self.error = leaf.grad
        if error is None:
            self.error = None
        elif self.error is None:
            self.error = error if self.link.weight == 1.0 else error * self.link.weight
        else:
            self.error.add_(error, alpha=self.link.weight)

    def finish(self) -> None:
        """Compute the gradients that waited for the link, from the error received."""
        end, self.end = self.end, None
        error, self.error = self.error, None
        if self.receivers and error is not None:
            with _backward_mode(end.device.type):
                torch.autograd.backward(end, error, inputs=list(self.receivers))


def _run(units: tuple[Unit, ...], x: Tensor, how: str | None) -> Tensor:
    if how is None:
        for unit in units:
            x = unit(x)
        return x
    size = 1 if how == "unit" else max(1, round(math.sqrt(len(units))))
    for start in range(0, len(units), size):
        x = _checkpointed(units[start : start + size], x)
    return x


def _checkpointed(units: tuple[Unit, ...], x: Tensor) -> Tensor:
    def run(x: Tensor) -> Tensor:
        for unit in units:
            x = unit(x)
        return x

    modules = [m for unit in units for part in unit.parts for m in part.modules()]
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    dropout = any("Dropout" in type(m).__name__ for m in modules)
    out: Tensor = checkpoint(
        run,
        x,
        use_reentrant=False,
        preserve_rng_state=dropout,
        context_fn=lambda: (nullcontext(), _statistics_frozen(norms)),
    )
    return out


@contextmanager
def _statistics_frozen(norms: list[Any]) -> Iterator[None]:
    """Let batch norms run in training mode a second time without counting the batch twice."""
    kept = [(m, m.momentum, m.num_batches_tracked) for m in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count


@contextmanager
def _forward_mode(device: str) -> Iterator[None]:
    """Under autocast, forget cast weights at once: the next backward frees what they hang on."""
    with ExitStack() as stack:
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            stack.enter_context(torch.autocast(device, dtype, cache_enabled=False))
        yield


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
