"""Layers that the built-in heads and networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.shape = x.shape
        ctx.channels_last = x.is_contiguous(memory_format=torch.channels_last)
        return x.mean((2, 3))

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        height, width = ctx.shape[2:]
        layout = torch.channels_last if ctx.channels_last else torch.contiguous_format
        grad = (grad / (height * width))[:, :, None, None].expand(ctx.shape)
        return grad.contiguous(memory_format=layout)


class GlobalAvgPool(nn.Module):
    """Mean over height and width: ``(batch, channels, height, width)`` to ``(batch, channels)``."""

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = _Mean.apply(x)
        return pooled
