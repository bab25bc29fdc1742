"""A unit: an indivisible piece of a network, between two legal cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Unit:
    """An indivisible piece of the network: submodules that run one after the other.

    Args:
        name: its label.
        parts: submodules.
        elsewhere: parameters that it reads and another block trains (tied weights): constants
            here, through which errors pass but at which none ends.
        lent: parameters that it reads and trains together with an earlier unit, to which they
            are counted (tied weights inside of one block).
    """

    name: str
    parts: tuple[nn.Module, ...]
    elsewhere: tuple[nn.Parameter, ...] = field(default=(), kw_only=True)
    lent: tuple[nn.Parameter, ...] = field(default=(), kw_only=True)
    traced: ClassVar[bool] = False

    @property
    def legal_cuts(self) -> int:
        """The number of legal cuts of the model that was traced; 0 where none was."""
        return 0

    def __call__(self, x: Tensor) -> Tensor:
        if not self.elsewhere:
            return self.run(x)
        with constant(self.elsewhere):
            return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        """Compute the unit's output."""
        for part in self.parts:
            x = part(x)
        return x

    def modules(self) -> Iterator[nn.Module]:
        """Yield every module inside of the unit."""
        for part in self.parts:
            yield from part.modules()

    def places(self) -> Iterator[tuple[nn.Module, str]]:
        """Yield where the unit's parameters are: a module, and the parameter's name there."""
        for module in self.modules():
            for name, _ in module.named_parameters(recurse=False):
                yield module, name

    def reads(self) -> Iterator[nn.Parameter]:
        """Yield every parameter that the unit's own operations read, once."""
        found = {id(p): p for part in self.parts for p in part.parameters()}
        return iter(found.values())

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that count as the unit's own, frozen ones too."""
        others = {id(p) for p in (*self.borrowed(), *self.elsewhere)}
        return (p for p in self.reads() if id(p) not in others)

    def borrowed(self) -> Iterator[nn.Parameter]:
        """Yield parameters of earlier units that this one reads too (a shared position bias)."""
        return iter(self.lent)

    def seeing(self, source: Tensor) -> Unit:
        """Return the unit for one run of the network on ``source``, its very input.

        Some units read the network's token numbers again: a pooling that looks for the last one
        that is no padding, a mask.
        """
        return self

    def within(self, first: int) -> Unit:
        """Return the unit as part of a block that starts at unit ``first``.

        What it borrows from units before that one reaches it without a gradient, since no error
        leaves the block that way.
        """
        return self


@contextmanager
def constant(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let operations read parameters without a gradient; graphs that are there stay as they are."""
    trained = [p for p in parameters if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
