"""From a model and a rule to a learner: cut, decouple, build heads, join blocks into groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localgrad import heads as head_room
from localgrad import losses as loss_room
from localgrad import methods as method_room
from localgrad import ties as tie_room
from localgrad.balance import balanced
from localgrad.chain import Chain, Unit
from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError
from localgrad.layer_depth import chain_depths, layer_counts, receivers
from localgrad.learner import LocalLearner, decoupled
from localgrad.segments import Stage, groups_of
from localgrad.site import Site
from localgrad.stages import stages_of


def decouple(
    model: nn.Module | Chain,
    method: Any = "greedy",
    blocks: int | None = None,
    cuts: Sequence[str | int] | None = None,
    example_input: Tensor | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    granularity: str = "unit",
    units: Sequence[str] | None = None,
    ties: str | None = None,
    balance: str | None = None,
    checkpoint: str | None = None,
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
        loss: the task loss, ``loss(logits, y) -> scalar``; for a language model
            :func:`localgrad.losses.next_token`.
        granularity, units: what the units of a model are, see :meth:`Chain.of`.
        ties: which block trains a parameter that several blocks use: ``"first"``, ``"last"`` or
            ``"untie"`` (:mod:`localgrad.ties`). None refuses one, or leaves it to the decoupling.
        balance: how to cut into ``blocks``: ``"memory"`` for the smallest peak of activations,
            ``"time"`` for the shortest longest block (:mod:`localgrad.balance`). None: published
            cuts, else equal numbers of units.
        checkpoint: recompute activations during backward, in every block: ``"unit"`` or
            ``"sqrt"`` (see :class:`Block`). None leaves it to the method or decoupling.

    Returns:
        A learner; its ``step(x, y)`` takes the place of forward, loss and backward.

    Raises:
        LocalgradError: the model cannot be cut so, is decoupled already, or shares a parameter
            between blocks without a choice of ``ties``; no example input for heads; an unknown
            method, head or loss.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    >>> x, y = torch.randn(16, 4), torch.randint(3, (16,))
    >>> learner = decouple(model, "greedy", blocks=2, example_input=x)
    >>> optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    >>> out = learner.step(x, y)
    >>> optimizer.step(); optimizer.zero_grad()
    >>> out.logits.shape, len(out.losses)
    (torch.Size([16, 3]), 2)
    """
    if checkpoint not in (None, "unit", "sqrt"):
        raise LocalgradError(f"checkpoint={checkpoint!r}: must be None, 'unit' or 'sqrt'")
    chain = _chain_of(model, example_input, granularity, units)
    if isinstance(method, Decoupling):
        decoupling = method
        if blocks is not None or cuts is not None or balance is not None:
            raise LocalgradError("a finished decoupling has its cuts: give neither blocks nor cuts")
        if decoupling.units != chain.names:
            raise LocalgradError(
                f"the decoupling is for {len(decoupling.units)} units "
                f"({decoupling.units[0]} .. {decoupling.units[-1]}), the network has {len(chain)} "
                f"({chain.names[0]} .. {chain.names[-1]}): `localgrad transfer` carries it over"
            )
    else:
        rule = method_room.get(method) if isinstance(method, str) else method
        if isinstance(rule, type) or not callable(rule) or not hasattr(rule, "name"):
            raise LocalgradError(
                f"{rule!r} is not a method: it needs a name and a call (chain, cuts) -> Decoupling"
            )
        if balance is not None and (blocks is None or cuts is not None):
            raise LocalgradError("balance= chooses the cuts of blocks=K: give that, and no cuts=")
        if balance is not None and blocks is not None:

            def made(chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
                return _recomputing(rule(chain, cuts), checkpoint)

            ends = balanced(chain, made, blocks, balance, example_input, loss)
            blocks, cuts = None, [end - 1 for end in ends[:-1]]
        decoupling = rule(chain, chain.cuts(blocks, cuts))
        if not isinstance(decoupling, Decoupling):
            raise LocalgradError(f"method {rule.name!r} returned {decoupling!r}, not a Decoupling")
    if ties is not None:
        decoupling = replace(decoupling, ties=ties)
    decoupling = _recomputing(decoupling, checkpoint)
    chain = tie_room.cleared(chain)
    untied = tie_room.untie(chain, decoupling)
    try:
        learner = _assemble(chain, decoupling, example_input, loss, untied)
    except BaseException:
        untied.retie()
        raise
    decoupled[chain.model] = ref(learner)
    return learner


def _recomputing(decoupling: Decoupling, checkpoint: str | None) -> Decoupling:
    """Return the decoupling with ``checkpoint`` in every block; None leaves it as it is."""
    if checkpoint is None:
        return decoupling
    blocks = [replace(block, checkpoint=checkpoint) for block in decoupling.blocks]
    return replace(decoupling, blocks=tuple(blocks))


def _chain_of(
    model: Any, example: Tensor | None, granularity: str, units: Sequence[str] | None
) -> Chain:
    chain = model.chain if isinstance(model, LocalLearner) else model
    whole = chain.model if isinstance(chain, Chain) else chain
    if not isinstance(whole, nn.Module):
        raise LocalgradError(f"a {type(whole).__name__} cannot be cut: decouple takes an nn.Module")
    owner = decoupled.get(whole)
    if owner is not None and owner() is not None:
        raise LocalgradError("this model is decoupled already: call release() on its learner first")
    if isinstance(chain, Chain):
        if granularity != "unit" or units is not None:
            raise LocalgradError(
                "a chain has its units: give granularity= and units= to Chain.of, not to decouple"
            )
        return chain
    return Chain.of(whole, example, granularity, units)


def _assemble(
    chain: Chain,
    decoupling: Decoupling,
    example: Tensor | None,
    task: Callable[[Tensor, Tensor], Tensor],
    untied: tie_room.Untied,
) -> LocalLearner:
    plain, chain = chain, tie_room.settled(chain, decoupling)
    needs_shape = any(block.head for block in decoupling.blocks)
    if needs_shape and example is None:
        raise LocalgradError(f"{decoupling.method} builds heads from shapes: give example_input=x")
    shapes: list[torch.Size] = []
    classes, tokens = 0, None
    if example is not None:
        shapes, out = chain.shapes(example)
        chain.check(example)
        source = example.shape[1:]
        decoupling = replace(decoupling, stages=stages_of(plain, shapes, source))
        if needs_shape and len(out) not in (1, 2):
            raise LocalgradError(
                f"the network returns {tuple(out)} per input: expected scores, (classes,) or "
                "(tokens, classes)"
            )
        classes, tokens = (out[-1] if out else 0), (out[0] if len(out) == 2 else None)
        if needs_shape and tokens is not None and task is F.cross_entropy:
            raise LocalgradError(
                f"the network scores each of {tokens} tokens, which cross_entropy does not take: "
                "give loss=localgrad.losses.next_token (y: the tokens themselves) or "
                "loss=localgrad.losses.each_token (y: a target a token)"
            )
    goal = loss_room.Goal(task, classes)
    heads: list[nn.Module] = []
    stages: list[Stage] = []
    for k, block in enumerate(decoupling.blocks):
        first = decoupling.blocks[decoupling.first_reached(k)].start
        head: nn.Module | Unit = chain.tail.within(first)
        if block.head is not None:
            assert example is not None
            image = example.shape[1:]
            site = Site(plain, block.stop - 1, shapes, classes, image, tokens)
            head = head_room.placed(head_room.build(block.head, site), chain.model)
            if isinstance(head, head_room.Copies):
                head.checkpoint = block.checkpoint
            heads.append(head)
        units = tuple(unit.within(first) for unit in chain.units[block.start : block.stop])
        local_loss = loss_room.build(block.loss, goal)
        if isinstance(local_loss, loss_room.InfoProLoss) and example is not None:
            local_loss.check(example)
        stages.append(Stage(k, block, units, head, local_loss))
    links = [block.link for block in decoupling.blocks if block.link is not None]
    depths = None
    if example is not None and any(link.length_unit == "layer" for link in links):
        depths = chain_depths(plain, example)
    groups = groups_of(stages, partial(receivers, chain, decoupling, depths))
    ends = tuple(block.stop for block in decoupling.blocks)
    outputs = (*shapes, out) if example is not None else ()
    chain = replace(chain, outputs=outputs, ends=ends)
    shape = None if example is None or not needs_shape else example.shape[1:]
    layers = None if depths is None else layer_counts(depths)
    return LocalLearner(chain, decoupling, heads, stages, groups, shape, layers, untied)
