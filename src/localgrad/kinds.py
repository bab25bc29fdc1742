"""Kinds of layers: norms, parts of a tail, weights of two or more dimensions."""

from __future__ import annotations

from torch import Tensor, nn

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


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm, which belongs to the layer before it."""
    return isinstance(module, _NORMS)


def is_tail_part(module: nn.Module) -> bool:
    """Whether a module pools, flattens or drops: before the classifier it belongs to the tail."""
    return isinstance(module, _TAIL_PARTS)


def wide(parameter: Tensor) -> bool:
    """Whether a parameter is more than a vector: of two or more dimensions that are not 1."""
    return parameter.dim() > 1 and sum(parameter.shape) > parameter.dim()
