"""The stages of a network: runs of units that work at one resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from localgrad.chain import Chain, Unit
from localgrad.layout import channel_axis

_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)


def stages_of(chain: Chain, shapes: Sequence[torch.Size], source: torch.Size) -> tuple[int, ...]:
    """Return the number of units in each stage.

    A stage begins with a unit that lowers the resolution (a residual block with a stride), or
    after one that ends in a pool, which works at the resolution that comes in (VGG). Channels do
    not count: the stem and the first stage of a ResNet-50 are one stage for small images.

    Args:
        chain: the network.
        shapes: output shape of each unit, as :meth:`Chain.shapes` returns them.
        source: shape of the network's input; all without the batch dimension.

    >>> from localgrad.networks import resnet20, vgg11
    >>> for model in (resnet20(), vgg11()):
    ...     chain, x = Chain.of(model), torch.rand(2, 3, 32, 32)
    ...     print(stages_of(chain, chain.shapes(x)[0], x.shape[1:]))
    (4, 3, 3)
    (1, 1, 2, 2, 2)
    """
    counts: list[int] = []
    at: tuple[int, ...] | None = None
    before = tuple(source[1:])  # of an image
    for unit, shape in zip(chain.units, shapes, strict=True):
        after = _resolution(unit, shape)
        works_at = before if after != before and _ends_in_pool(unit) else after
        if works_at != at:
            counts.append(0)
            at = works_at
        counts[-1] += 1
        before = after
    return tuple(counts)


def _resolution(unit: Unit, shape: torch.Size) -> tuple[int, ...]:
    """Return height and width of a map, or the number of tokens; nothing of a vector."""
    if len(shape) < 2:
        return ()
    axis = channel_axis(unit, shape)
    return tuple(size for i, size in enumerate(shape) if i != axis % len(shape))


def _ends_in_pool(unit: Unit) -> bool:
    leaves = [m for m in unit.modules() if next(m.children(), None) is None]
    return bool(leaves) and isinstance(leaves[-1], _POOLS)
