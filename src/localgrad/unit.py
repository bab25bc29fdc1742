"""A unit: an indivisible piece of a network, between two legal cuts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Unit:
    """An indivisible piece of the network: submodules that run one after the other."""

    name: str
    parts: tuple[nn.Module, ...]
    traced: ClassVar[bool] = False

    @property
    def legal_cuts(self) -> int:
        """The number of legal cuts of the model that was traced; 0 where none was."""
        return 0

    def __call__(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x

    def modules(self) -> Iterator[nn.Module]:
        """Yield every module inside of the unit."""
        for part in self.parts:
            yield from part.modules()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the unit's parameters, frozen ones too."""
        for part in self.parts:
            yield from part.parameters()

    def borrowed(self) -> Iterator[nn.Parameter]:
        """Yield parameters of earlier units that this one reads too (a shared position bias)."""
        return iter(())

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
