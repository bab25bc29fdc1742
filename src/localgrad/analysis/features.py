"""What each unit of a network returns."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from localgrad.chain import Chain


@torch.no_grad()
def unit_outputs(chain: Chain, x: Tensor) -> Iterator[Tensor]:
    """Yield the output of each unit for a batch ``x``, one after the other.

    The modules run in the mode that they are in; a batch norm that trains changes its statistics.
    """
    source = x
    for unit in chain.units:
        x = unit.seeing(source)(x)
        yield x


def pooled(output: Tensor, side: int = 2) -> Tensor:
    """Return one row of features for each input, ``(batch, features)``.

    Images ``(batch, channels, height, width)`` are averaged down to ``side`` by ``side`` places,
    tokens ``(batch, length, channels)`` to their mean.

    >>> pooled(torch.ones(4, 3, 8, 8)).shape, pooled(torch.ones(4, 9, 5)).shape
    (torch.Size([4, 12]), torch.Size([4, 5]))
    """
    if output.dim() == 4:
        height, width = (min(side, size) for size in output.shape[2:])
        output = F.adaptive_avg_pool2d(output, (height, width))
    elif output.dim() == 3:
        output = output.mean(dim=1)
    return output.flatten(1)
