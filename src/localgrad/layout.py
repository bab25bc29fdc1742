"""Where the channels of a unit's output are, and how heads get them in one order.

Feature maps come as ``(channels, height, width)`` or ``(height, width, channels)``, sequences as
``(tokens, channels)`` or ``(channels, length)``; nothing in a tensor says which.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from localgrad.layers import GlobalAvgPool
from localgrad.unit import Unit

_CONVOLUTIONS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)


def channel_axis(unit: Unit, shape: Sequence[int]) -> int:
    """Return which dimension of a unit's output (batch aside) holds the channels.

    Maps have them first and sequences last, as far as nothing else is known. Of a traced unit it
    is the dimension whose size is that of its biases, norms, layers or embeddings; where several
    fit, the first one after a convolution of as many dimensions, and the last one otherwise.
    """
    last = len(shape) - 1
    spatial = max((_spatial(module) for module in unit.modules()), default=0)
    usual = 0 if last > 1 or (last == 1 and spatial == 1) else last
    if not unit.traced:
        return usual
    tables = {id(m.weight) for m in unit.modules() if isinstance(m, nn.Embedding)}
    widths = {_width(p, id(p) in tables) for p in unit.parameters()}
    fitting = {axis for axis in (0, last) if shape[axis] in widths}
    if len(fitting) == 1:
        return fitting.pop()
    return usual if not fitting or spatial >= last else last


def _width(parameter: Tensor, is_table: bool) -> int:
    """Return the number of channels that a bias, norm or layer gives, or a table's rows have."""
    if parameter.dim() < 2:
        return parameter.numel()
    return parameter.shape[-1 if is_table else 0]


def _spatial(module: nn.Module) -> int:
    """Return over how many dimensions beside channels a layer works, 0 where it does not say."""
    if not isinstance(module, _CONVOLUTIONS):
        return 0
    digit = type(module).__name__[-2:-1]
    return int(digit) if digit.isdigit() else 2


class Arrange(nn.Module):
    """Bring a unit's output into the heads' order.

    ``(batch, channels, height, width)`` for maps, ``(batch, tokens, channels)`` for the rest.

    Args:
        axis: where the channels are, batch aside.
        dims: dimensions, batch aside.
    """

    def __init__(self, axis: int, dims: int) -> None:
        super().__init__()
        self.axis, self.dims = axis, dims

    def forward(self, x: Tensor) -> Tensor:
        """Move the channels; join what is neither batch nor channels, but for a map."""
        if self.dims == 3:
            return x.movedim(self.axis + 1, 1)
        return x.movedim(self.axis + 1, -1).flatten(1, -2)

    @property
    def needed(self) -> bool:
        """Whether anything changes."""
        return self.dims > 3 or (self.dims == 3 and self.axis != 0) or (
            self.dims == 2 and self.axis != 1
        )  # fmt: skip

    def shape(self, shape: Sequence[int]) -> torch.Size:
        """Return the shape afterwards, batch aside."""
        if self.dims < 2:
            return torch.Size(shape)
        channels = shape[self.axis]
        rest = [size for axis, size in enumerate(shape) if axis != self.axis]
        if self.dims == 3:
            return torch.Size([channels, *rest])
        return torch.Size([torch.Size(rest).numel(), channels])


class TokenMean(nn.Module):
    """Mean over tokens: ``(batch, tokens, channels)`` to ``(batch, channels)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean."""
        return x.mean(1)


def pool_for(shape: Sequence[int]) -> nn.Module:
    """Return the layer that leaves ``(batch, channels)`` of what :class:`Arrange` gives."""
    return (nn.Identity, TokenMean, GlobalAvgPool)[len(shape) - 1]()
