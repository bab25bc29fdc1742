"""The learner: runs local steps on the user's model, on one device.

Each block's backward runs, and its activations are freed, before the next block's forward; that,
not detaching, is what saves the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localgrad import heads as head_room
from localgrad import losses as loss_room
from localgrad import methods as method_room
from localgrad.chain import Chain, Unit
from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError
from localgrad.layer_depth import chain_depths, layer_counts, receivers
from localgrad.losses import logits_of
from localgrad.segments import Group, Stage, Walk, groups_of
from localgrad.site import Site

_decoupled: WeakKeyDictionary[nn.Module, ref[LocalLearner]] = WeakKeyDictionary()


class StepOutput(NamedTuple):
    """What one local step returns.

    ``logits`` are the network's own output, detached; ``losses`` holds one detached scalar tensor
    a block, in order.
    """

    logits: Tensor
    losses: list[Tensor]


class LocalLearner(nn.Module):
    """A model in blocks, with their heads. Made by :func:`decouple`.

    ``parameters()`` and ``state_dict()`` cover the backbone and the heads; calling the learner
    calls the backbone. The backbone is the user's model object, with its own state-dict keys.
    """

    def __init__(
        self,
        chain: Chain,
        decoupling: Decoupling,
        heads: list[nn.Module],
        stages: list[Stage],
        groups: list[Group],
        input_shape: torch.Size | None,
        layers: list[int] | None,
    ) -> None:
        super().__init__()
        self.backbone = chain.model
        self.heads = nn.ModuleList(heads)
        self.chain, self.decoupling = chain, decoupling
        self.input_shape = input_shape
        self._stages, self._groups = stages, groups
        self.layers = layers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the backbone; heads take no part."""
        return self.backbone(*args, **kwargs)

    def step(self, x: Tensor, y: Any) -> StepOutput:
        """Fill ``.grad`` of the backbone and the heads with local gradients; update nothing.

        Gradients add up over calls, as with ``backward()``. What no loss reaches keeps its
        ``.grad`` of None.

        Args:
            x: a batch of inputs, ``(batch, ...)``.
            y: targets, handed to the losses as they are.

        Raises:
            LocalgradError: the input's shape is not the one that the heads were built for, or a
                batch norm would get a single value.
        """
        self._check_input(x)
        losses: list[Tensor] = []
        border = x
        logits: Tensor | None = None
        waiting: tuple[Group, Walk] | None = None
        for group in self._groups:
            try:
                walk = group.forward(border, y, x)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise LocalgradError(
                    f"block {group.stages[-1].index}: batch norm cannot train on a batch of "
                    f"{x.shape[0]}; use a larger batch or drop the last short one"
                ) from error
            border, logits = walk.border, walk.logits
            losses += walk.values
            error_at_input = group.local(walk)
            if waiting is not None:
                before, its_walk = waiting
                before.receive(its_walk, error_at_input)
                del error_at_input  # before the waiting gradients need room
                before.finish(its_walk)
            waiting = (group, walk) if group.linked else None
        assert logits is not None  # the last block ends in the tail
        return StepOutput(logits, losses)

    @torch.no_grad()
    def exits(self, x: Tensor) -> list[Tensor | None]:
        """Return every loss's class scores, ``(batch, classes)``: each head as an early exit.

        None stands for a head without a classifier. The last entry is the network's own output.
        The heads run in the backbone's mode.
        """
        mode = self.heads.training
        self.heads.train(self.backbone.training)
        scores, source = [], x
        for stage in self._stages:
            for unit in stage.units:
                x = unit.seeing(source)(x)
            scores.append(logits_of(stage.scores(x, source)))
        self.heads.train(mode)
        return scores

    def reach(self) -> list[list[bool]]:
        """Return the declared reach: a row a loss, a column a unit, then one for the tail."""
        return self.decoupling.reach(self.layers)

    def release(self) -> nn.Module:
        """Give the model back, as it was before :func:`decouple`; the learner is then spent."""
        _decoupled.pop(self.backbone, None)
        self._groups = []
        return self.backbone

    def _check_input(self, x: Tensor) -> None:
        if not self._groups:
            raise LocalgradError("this learner was released: decouple the model again")
        if not torch.is_grad_enabled():
            raise LocalgradError("step computes gradients: call it outside of torch.no_grad()")
        if self.input_shape is not None and x.shape[1:] != self.input_shape:
            raise LocalgradError(
                f"step got inputs of shape {tuple(x.shape[1:])}, the heads were built for "
                f"{tuple(self.input_shape)}: decouple with an example_input of that shape"
            )


def decouple(
    model: nn.Module | Chain,
    method: Any = "greedy",
    blocks: int | None = None,
    cuts: Sequence[str | int] | None = None,
    example_input: Tensor | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    granularity: str = "unit",
    units: Sequence[str] | None = None,
) -> LocalLearner:
    """Cut a model into blocks that learn by local gradients.

    Args:
        model: any module from one tensor to one, or a chain made of it. It stays the user's:
            nothing is added to it.
        method: a value of :mod:`localgrad.methods`, its name, any object with that interface, or
            a finished :class:`Decoupling`.
        blocks: number of blocks K.
        cuts: the last unit of each block but the final one, by label or index.
        example_input: a batch of inputs, ``(batch, ...)``; heads are built from its shape.
        loss: the task loss, ``loss(logits, y) -> scalar``.
        granularity, units: what the units are, see :meth:`Chain.of`.

    Returns:
        A learner; its ``step(x, y)`` takes the place of forward, loss and backward.

    Raises:
        LocalgradError: the model cannot be cut so, is decoupled already, or shares a parameter
            between blocks; no example input for heads; an unknown method, head or loss.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    >>> x, y = torch.randn(16, 4), torch.randint(3, (16,))
    >>> learner = decouple(model, "greedy", blocks=2, example_input=x)
    >>> optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    >>> out = learner.step(x, y)
    >>> optimizer.step(); optimizer.zero_grad()
    >>> out.logits.shape, len(out.losses)
    (torch.Size([16, 3]), 2)
    """
    chain = _chain_of(model, example_input, granularity, units)
    if isinstance(method, Decoupling):
        decoupling = method
        if blocks is not None or cuts is not None:
            raise LocalgradError("a finished decoupling has its cuts: give neither blocks nor cuts")
        if decoupling.units != chain.names:
            raise LocalgradError(
                f"the decoupling is for {len(decoupling.units)} units "
                f"({decoupling.units[0]} .. {decoupling.units[-1]}), the network has {len(chain)} "
                f"({chain.names[0]} .. {chain.names[-1]})"
            )
    else:
        rule = method_room.get(method) if isinstance(method, str) else method
        if isinstance(rule, type) or not callable(rule) or not hasattr(rule, "name"):
            raise LocalgradError(
                f"{rule!r} is not a method: it needs a name and a call (chain, cuts) -> Decoupling"
            )
        decoupling = rule(chain, chain.cuts(blocks, cuts))
        if not isinstance(decoupling, Decoupling):
            raise LocalgradError(f"method {rule.name!r} returned {decoupling!r}, not a Decoupling")
    _check_ties(chain, decoupling)
    learner = _assemble(chain, decoupling, example_input, loss)
    _decoupled[chain.model] = ref(learner)
    return learner


def _chain_of(
    model: Any, example: Tensor | None, granularity: str, units: Sequence[str] | None
) -> Chain:
    chain = model.chain if isinstance(model, LocalLearner) else model
    whole = chain.model if isinstance(chain, Chain) else chain
    if not isinstance(whole, nn.Module):
        raise LocalgradError(f"a {type(whole).__name__} cannot be cut: decouple takes an nn.Module")
    owner = _decoupled.get(whole)
    if owner is not None and owner() is not None:
        raise LocalgradError("this model is decoupled already: call release() on its learner first")
    if isinstance(chain, Chain):
        return chain
    return Chain.of(whole, example, granularity, units)


def _assemble(
    chain: Chain,
    decoupling: Decoupling,
    example: Tensor | None,
    task: Callable[[Tensor, Tensor], Tensor],
) -> LocalLearner:
    needs_shape = any(block.head for block in decoupling.blocks)
    if needs_shape and example is None:
        raise LocalgradError(f"{decoupling.method} builds heads from shapes: give example_input=x")
    shapes: list[torch.Size] = []
    classes, tokens = 0, None
    if example is not None:
        shapes, out = chain.shapes(example)
        chain.check(example)
        if needs_shape and len(out) not in (1, 2):
            raise LocalgradError(
                f"the network returns {tuple(out)} per input: expected scores, (classes,) or "
                "(tokens, classes)"
            )
        classes, tokens = (out[-1] if out else 0), (out[0] if len(out) == 2 else None)
    heads: list[nn.Module] = []
    stages: list[Stage] = []
    for k, block in enumerate(decoupling.blocks):
        first = decoupling.blocks[decoupling.first_reached(k)].start
        head: nn.Module | Unit = chain.tail.within(first)
        if block.head is not None:
            assert example is not None
            image = example.shape[1:]
            site = Site(chain, block.stop - 1, shapes, classes, image, tokens)
            head = _placed(head_room.build(block.head, site), chain.model)
            heads.append(head)
        units = tuple(unit.within(first) for unit in chain.units[block.start : block.stop])
        local_loss = loss_room.build(block.loss, task, classes)
        if isinstance(local_loss, loss_room.InfoProLoss) and example is not None:
            local_loss.check(example)
        stages.append(Stage(k, block, units, head, local_loss))
    links = [block.link for block in decoupling.blocks if block.link is not None]
    depths = None
    if example is not None and any(link.length_unit == "layer" for link in links):
        depths = chain_depths(chain, example)
    groups = groups_of(stages, partial(receivers, chain, decoupling, depths))
    ends = tuple(block.stop for block in decoupling.blocks)
    outputs = (*shapes, out) if example is not None else ()
    chain = replace(chain, outputs=outputs, ends=ends)
    shape = None if example is None or not needs_shape else example.shape[1:]
    layers = None if depths is None else layer_counts(depths)
    return LocalLearner(chain, decoupling, heads, stages, groups, shape, layers)


def _placed(head: nn.Module, model: nn.Module) -> nn.Module:
    """Give a head the model's device, precision and memory layout."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is None:
        return head
    held = [t for t in (*head.parameters(), *head.buffers()) if t.is_floating_point()]
    if any((t.device, t.dtype) != (like.device, like.dtype) for t in held):
        head = head.to(like.device, like.dtype)
    maps = [p for p in model.parameters() if p.dim() == 4]
    last = torch.channels_last
    if any(not p.is_contiguous() and p.is_contiguous(memory_format=last) for p in maps):
        head = head.to(memory_format=last)  # type: ignore[call-overload]
    return head


def _check_ties(chain: Chain, decoupling: Decoupling) -> None:
    """Refuse a parameter that two blocks use: no reach could be honest about it."""
    names = {id(p): name for name, p in chain.model.named_parameters()}
    owner: dict[int, int] = {}
    for k, block in enumerate(decoupling.blocks):
        parts = list(chain.units[block.start : block.stop])
        if k == len(decoupling.blocks) - 1:
            parts.append(chain.tail)
        for part in parts:
            for parameter in part.parameters():
                first = owner.setdefault(id(parameter), k)
                if first != k:
                    raise LocalgradError(
                        f"parameter {names[id(parameter)]!r} is used in blocks {first} and {k} "
                        "(tied weights): cut elsewhere, or untie it with a copy of its own"
                    )
