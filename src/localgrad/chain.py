"""A network as a chain of units: pieces between which exactly one tensor is alive.

A chain is built from an ``nn.Sequential`` or from any module that says what its units are:

* ``chain_units()`` returns ``{label: (submodule name, ...)}``, each unit's submodules in the
  order in which they run;
* ``chain_tail()`` returns the names of the submodules after the last unit (pool, classifier);
* ``chain_cuts()`` (optional) returns published cut tables, ``{K: (last unit of each block but
  the final one, ...)}``.

The chain holds references to the model's own submodules and adds nothing to the model.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.layers import GlobalAvgPool

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
_TAIL_PARTS = (
    nn.Flatten,
    nn.Dropout,
    nn.Identity,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    GlobalAvgPool,
)


@dataclass(frozen=True, eq=False)
class Unit:
    """An indivisible piece of the network: submodules that run one after the other."""

    name: str
    parts: tuple[nn.Module, ...]

    def __call__(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the unit's parameters, frozen ones too."""
        for part in self.parts:
            yield from part.parameters()


@dataclass(frozen=True, eq=False)
class Chain:
    """A model cut into ``units``, then a ``tail`` (pool, classifier) that joins the last block.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    >>> chain = Chain.of(model)
    >>> [unit.name for unit in chain.units], chain.tail.name
    (['0', '2'], 'tail')
    >>> chain.cuts(blocks=2)
    (1, 2)
    """

    model: nn.Module
    units: tuple[Unit, ...]
    tail: Unit
    published_cuts: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> Chain:
        """Cut ``model`` into units.

        Raises:
            LocalgradError: the model is neither an ``nn.Sequential`` nor defines
                ``chain_units``/``chain_tail``, has no unit before its last layer, or has a
                parameter in none of its units.
        """
        if hasattr(model, "chain_units"):
            chain = _declared(model)
        elif isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
            chain = _sequential(model)
        else:
            raise LocalgradError(
                f"{type(model).__name__} cannot be cut: give an nn.Sequential (with its own "
                "forward), or define chain_units() and chain_tail() on it"
            )
        chain._check()
        return chain

    def __len__(self) -> int:
        return len(self.units)

    def __call__(self, x: Tensor) -> Tensor:
        """Run the units and the tail; the same arithmetic as the model's own forward."""
        for unit in self.units:
            x = unit(x)
        return self.tail(x)

    @property
    def names(self) -> tuple[str, ...]:
        """The units' labels in order."""
        return tuple(unit.name for unit in self.units)

    def cuts(
        self, blocks: int | None = None, cuts: Sequence[str | int] | None = None
    ) -> tuple[int, ...] | None:
        """Return the end (exclusive unit index) of each block, or None where neither is given.

        Args:
            blocks: number of blocks K; the published cuts where the network has them, else
                blocks whose numbers of units differ by one at the most.
            cuts: label or index of the last unit of each block but the final one.

        Raises:
            LocalgradError: both are given, K is out of range, or the cuts are unknown or out of
                order.
        """
        count = len(self.units)
        if blocks is not None and cuts is not None:
            raise LocalgradError("give blocks= or cuts=, not both")
        if cuts is not None:
            return (*self._ends(cuts), count)
        if blocks is None:
            return None
        if isinstance(blocks, bool) or not isinstance(blocks, int) or not 1 <= blocks <= count:
            raise LocalgradError(
                f"blocks={blocks!r}: must be a whole number from 1 to {count}, the number of units"
            )
        if blocks in self.published_cuts:
            return (*self._ends(self.published_cuts[blocks]), count)
        return tuple(count * (k + 1) // blocks for k in range(blocks))

    def _ends(self, cuts: Sequence[str | int]) -> list[int]:
        if isinstance(cuts, str):
            raise LocalgradError(f"cuts={cuts!r}: give a list of unit labels")
        ends: list[int] = []
        for cut in cuts:
            is_index = isinstance(cut, int) and not isinstance(cut, bool)
            index = int(cut) if is_index else self.index(str(cut))
            if not 0 <= index < len(self.units) - 1:
                raise LocalgradError(
                    f"cut {cut!r}: a block but the final one must end at a unit from "
                    f"{self.names[0]!r} to {self.names[max(len(self.units) - 2, 0)]!r}"
                )
            if ends and index + 1 <= ends[-1]:
                raise LocalgradError(
                    f"cut {cut!r} is out of order: each cut must come after the one before it"
                )
            ends.append(index + 1)
        return ends

    def index(self, name: str) -> int:
        """Return the index of the unit called ``name``."""
        if name in self.names:
            return self.names.index(name)
        near = difflib.get_close_matches(name, self.names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f" (units: {', '.join(self.names)})"
        raise LocalgradError(f"no unit is called {name!r}{hint}")

    @torch.no_grad()
    def shapes(self, example_input: Tensor) -> tuple[list[torch.Size], torch.Size]:
        """Return each unit's output shape and the model's, without the batch dimension.

        Runs the chain once in eval mode on at most two rows; leaves buffers, modes and the random
        state as they were.
        """
        x = self.sample(example_input)
        shapes: list[torch.Size] = []
        with evaluation(self.model.modules()):
            for unit in (*self.units, self.tail):
                before = tuple(x.shape[1:])
                try:
                    x = unit(x)
                except (RuntimeError, ValueError, IndexError) as error:
                    reason = str(error).splitlines()[0]
                    raise LocalgradError(
                        f"unit {unit.name!r} cannot take an input of shape {before}: {reason}"
                    ) from error
                if not isinstance(x, Tensor):
                    raise LocalgradError(
                        f"unit {unit.name!r} returns a {type(x).__name__}: "
                        "a unit must return one tensor"
                    )
                shapes.append(x.shape[1:])
        return shapes[:-1], shapes[-1]

    @torch.no_grad()
    def check(self, example_input: Tensor) -> None:
        """Run the chain and the model on at most two rows, in eval mode.

        Raises:
            LocalgradError: the units in their order do not give what the model gives.
        """
        x = self.sample(example_input)
        with evaluation(self.model.modules()):
            ours, theirs = self(x), self.model(x)
        if not isinstance(theirs, Tensor) or not torch.allclose(
            ours, theirs, rtol=0, atol=0, equal_nan=True
        ):
            raise LocalgradError(
                f"the units of {type(self.model).__name__}, run in their order, do not give what "
                "the model gives: chain_units() and chain_tail() must be all of its forward"
            )

    def sample(self, example_input: Tensor) -> Tensor:
        """Return a copy of at most two rows, on the model's device and in its precision."""
        x = example_input[:2].to(_device(self.model), copy=True)
        return x.to(_dtype(self.model)) if x.is_floating_point() else x

    def _check(self) -> None:
        if not self.units:
            raise LocalgradError(
                f"{type(self.model).__name__} has no unit before its last layer: nothing to cut"
            )
        if self.tail.name in self.names:
            raise LocalgradError(f"no unit may be called {self.tail.name!r}: the last part is")
        held = {id(p) for unit in (*self.units, self.tail) for p in unit.parameters()}
        for name, parameter in self.model.named_parameters():
            if id(parameter) not in held:
                raise LocalgradError(f"parameter {name!r} is in no unit of the chain")


@contextmanager
def evaluation(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules in eval mode, and each back into its own."""
    modes = [(module, module.training) for module in modules]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _device(model: nn.Module) -> torch.device:
    tensor = next(model.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _declared(model: nn.Module) -> Chain:
    def parts(names: Sequence[str]) -> tuple[nn.Module, ...]:
        try:
            return tuple(model.get_submodule(name) for name in names)
        except AttributeError as error:
            raise LocalgradError(f"{type(model).__name__}: {error}") from error

    units: dict[str, tuple[str, ...]] = model.chain_units()  # type: ignore[operator]
    tail: tuple[str, ...] = model.chain_tail()  # type: ignore[operator]
    published = model.chain_cuts() if hasattr(model, "chain_cuts") else {}  # type: ignore[operator]
    return Chain(
        model,
        tuple(Unit(label, parts(names)) for label, names in units.items()),
        Unit("tail", parts(tail)),
        dict(published),
    )


def _flat(module: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module._modules.items():  # named_children() would skip a shared ReLU
        if child is None:
            continue
        if type(child) is nn.Sequential:
            yield from _flat(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _weighted(module: nn.Module) -> bool:
    return not isinstance(module, _NORMS) and any(True for _ in module.parameters())


def _sequential(model: nn.Sequential) -> Chain:
    """Group a layer that has weights with the norms, activations and pools that follow it."""
    groups: list[list[tuple[str, nn.Module]]] = [[]]
    for name, child in _flat(model):
        if _weighted(child) and any(_weighted(part) for _, part in groups[-1]):
            groups.append([])
        groups[-1].append((name, child))
    tail = [part for _, part in groups.pop()]
    while groups and isinstance(groups[-1][-1][1], _TAIL_PARTS):
        tail.insert(0, groups[-1].pop()[1])
    units = []
    for group in groups:
        label = next(name for name, part in group if _weighted(part))
        units.append(Unit(label, tuple(part for _, part in group)))
    return Chain(model, tuple(units), Unit("tail", tuple(tail)))
