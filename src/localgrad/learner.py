"""The learner: runs local steps on the user's model, on one device.

Each block's backward runs, and its activations are freed, before the next block's forward; that,
not detaching, is what saves the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localgrad import heads as head_room
from localgrad import losses as loss_room
from localgrad import methods as method_room
from localgrad.chain import Chain, Unit
from localgrad.decoupling import Decoupling, Link
from localgrad.errors import LocalgradError
from localgrad.layer_depth import layer_depths
from localgrad.losses import logits_of
from localgrad.segments import Group, Stage, groups_of

_decoupled: WeakSet[nn.Module] = WeakSet()


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
        depths: list[dict[nn.Parameter, int]] | None,
    ) -> None:
        super().__init__()
        self.backbone = chain.model
        self.heads = nn.ModuleList(heads)
        self.chain, self.decoupling = chain, decoupling
        self.input_shape = input_shape
        self._stages, self._groups = stages, groups
        self.layers = None if depths is None else [max(d.values(), default=0) for d in depths]

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
        out: Any = None
        border = x
        previous: Group | None = None
        for group in self._groups:
            try:
                border, out, values = group.forward(border, y, x)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise LocalgradError(
                    f"block {group.stages[-1].index}: batch norm cannot train on a batch of "
                    f"{x.shape[0]}; use a larger batch or drop the last short one"
                ) from error
            losses += values
            error_at_input = group.local()
            if previous is not None:
                previous.receive(error_at_input)
                del error_at_input  # before the waiting gradients need room
                previous.finish()
            previous = group if group.linked else None
        return StepOutput(out.detach(), losses)

    @torch.no_grad()
    def exits(self, x: Tensor) -> list[Tensor | None]:
        """Return every loss's class scores, ``(batch, classes)``: each head as an early exit.

        None stands for a head without a classifier. The last entry is the network's own output.
        """
        scores = []
        for stage in self._stages:
            for unit in stage.units:
                x = unit(x)
            scores.append(logits_of(stage.head(x)))
        return scores

    def reach(self) -> list[list[bool]]:
        """Return the declared reach: a row a loss, a column a unit, then one for the tail."""
        return self.decoupling.reach(self.layers)

    def release(self) -> nn.Module:
        """Give the model back, as it was before :func:`decouple`; the learner is then spent."""
        _decoupled.discard(self.backbone)
        self._groups = []
        return self.backbone

    def _check_input(self, x: Tensor) -> None:
        if not self._groups:
            raise LocalgradError("this learner was released: decouple the model again")
        if self.input_shape is not None and x.shape[1:] != self.input_shape:
            raise LocalgradError(
                f"step got inputs of shape {tuple(x.shape[1:])}, the heads were built for "
                f"{tuple(self.input_shape)}: decouple with an example_input of that shape"
            )


def decouple(
    model: nn.Module,
    method: Any = "greedy",
    blocks: int | None = None,
    cuts: Sequence[str | int] | None = None,
    example_input: Tensor | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> LocalLearner:
    """Cut a model into blocks that learn by local gradients.

    Args:
        model: an ``nn.Sequential``, or a module that says what its units are (see ``chain``).
            It stays the user's: nothing is added to it.
        method: a value of :mod:`localgrad.methods`, its name, any object with that interface, or
            a finished :class:`Decoupling`.
        blocks: number of blocks K.
        cuts: the last unit of each block but the final one, by label or index.
        example_input: a batch of inputs, ``(batch, ...)``; heads are built from its shape.
        loss: the task loss, ``loss(logits, y) -> scalar``.

    Returns:
        A learner; its ``step(x, y)`` takes the place of forward, loss and backward.

    Raises:
        LocalgradError: the model cannot be cut so, is decoupled already, or shares a parameter
            between blocks; no example input for heads; an unknown method, head or loss.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x, y = torch.randn(16, 4), torch.randint(3, (16,))
    >>> learner = decouple(model, "greedy", blocks=2, example_input=x)
    >>> optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    >>> out = learner.step(x, y)
    >>> optimizer.step(); optimizer.zero_grad()
    >>> out.logits.shape, len(out.losses)
    (torch.Size([16, 3]), 2)
    """
    if isinstance(model, LocalLearner) or model in _decoupled:
        raise LocalgradError(
            "this model is decoupled already: call release() on its learner first"
        )
    chain = Chain.of(model)
    if isinstance(method, Decoupling):
        decoupling = method
        if decoupling.units != chain.names:
            raise LocalgradError(
                f"the decoupling is for {len(decoupling.units)} units "
                f"({decoupling.units[0]} .. {decoupling.units[-1]}), the network has {len(chain)} "
                f"({chain.names[0]} .. {chain.names[-1]})"
            )
    else:
        rule = method_room.get(method) if isinstance(method, str) else method
        if not callable(rule) or not hasattr(rule, "name"):
            raise LocalgradError(
                f"{rule!r} is not a method: it needs a name and a call (chain, cuts) -> Decoupling"
            )
        decoupling = rule(chain, chain.cuts(blocks, cuts))
    _check_ties(chain, decoupling)
    learner = _assemble(chain, decoupling, example_input, loss)
    _decoupled.add(model)
    return learner


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
    classes = 0
    if example is not None:
        shapes, out = chain.shapes(example)
        if len(out) != 1:
            raise LocalgradError(
                f"the network returns {tuple(out)} per input: expected (classes,) scores"
            )
        classes = out[0]
    heads: list[nn.Module] = []
    stages: list[Stage] = []
    for k, block in enumerate(decoupling.blocks):
        head: nn.Module | Unit = chain.tail
        if block.head is not None:
            assert example is not None
            site = head_room.Site(chain, block.stop - 1, shapes, classes, example.shape[1:])
            head = _placed(head_room.build(block.head, site), chain.model)
            heads.append(head)
        units = chain.units[block.start : block.stop]
        local_loss = loss_room.build(block.loss, task, classes)
        if isinstance(local_loss, loss_room.InfoProLoss) and example is not None:
            local_loss.check(example)
        stages.append(Stage(k, block, units, head, local_loss))
    depths = _depths(chain, decoupling, example)

    def receivers(k: int, link: Link) -> tuple[int, tuple[nn.Parameter, ...]]:
        layers = None if depths is None else [max(d.values(), default=0) for d in depths]
        return _receivers(chain, decoupling, depths, layers, k, link)

    groups = groups_of(stages, receivers)
    shape = None if example is None or not needs_shape else example.shape[1:]
    return LocalLearner(chain, decoupling, heads, stages, groups, shape, depths)


def _receivers(
    chain: Chain,
    decoupling: Decoupling,
    depths: list[dict[nn.Parameter, int]] | None,
    layers: list[int] | None,
    k: int,
    link: Link,
) -> tuple[int, tuple[nn.Parameter, ...]]:
    """Return how many units of block ``k`` the link reaches, and which of their parameters."""
    units = decoupling.linked_units(k, layers)
    left = link.length
    found: list[nn.Parameter] = []
    for u in reversed(units):
        for parameter in chain.units[u].parameters():
            if parameter.requires_grad and (depths is None or depths[u].get(parameter, 1) <= left):
                found.append(parameter)
        left -= layers[u] if layers is not None else 1
    return len(units), tuple(found)


def _depths(
    chain: Chain, decoupling: Decoupling, example: Tensor | None
) -> list[dict[nn.Parameter, int]] | None:
    """Return the layer depth of every parameter, where a link counts its length in layers."""
    links = [block.link for block in decoupling.blocks if block.link is not None]
    if not any(link.length_unit == "layer" for link in links):
        return None
    assert example is not None
    parameter = next(chain.model.parameters())
    x = example[:2].to(parameter.device, parameter.dtype)
    found = []
    for unit in chain.units:
        found.append(layer_depths(unit, x))
        x = chain_output(unit, x)
    return found


@torch.no_grad()
def chain_output(unit: Unit, x: Tensor) -> Tensor:
    """Run a unit in eval mode and leave its modules as they were."""
    modes = [(m, m.training) for part in unit.parts for m in part.modules()]
    for module, _ in modes:
        module.training = False
    x = unit(x)
    for module, training in modes:
        module.training = training
    return x


def _placed(head: nn.Module, model: nn.Module) -> nn.Module:
    """Give a head the model's device, precision and memory layout."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is None:
        return head
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
