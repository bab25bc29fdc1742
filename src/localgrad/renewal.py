"""A fresh instance of a unit, adapted to what comes in: AugLocal's building stone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy

from torch import nn

from localgrad.chain import Unit
from localgrad.errors import LocalgradError
from localgrad.tracing.renewal import renew
from localgrad.tracing.units import TracedUnit

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.MaxPool1d, nn.AvgPool1d)


def like(unit: Unit, shape: Sequence[int], stride: int = 1, axis: int | None = None) -> nn.Module:
    """Return a new module of the unit's structure and output width, with weights of its own.

    Args:
        unit: the unit to imitate.
        shape: what comes in, ``(channels, height, width)``, ``(tokens, channels)`` or
            ``(features,)``.
        stride: the copy's stride; pools inside the unit are left out, since the stride stands
            for them.
        axis: where the channels of what comes in are; None: first in a map, else last.

    A unit of a traced model is copied by its graph (:mod:`localgrad.tracing.renewal`). A part that
    knows how to renew itself defines ``like(in_channels, stride)`` (the built-in residual blocks
    do). Otherwise the first convolution or linear layer is made anew for what comes in, and the
    rest is copied and initialised again.
    """
    if isinstance(unit, TracedUnit):
        if axis is None:
            axis = 0 if len(shape) == 3 else len(shape) - 1
        return renew(unit, shape, axis, stride)
    parts: list[nn.Module] = []
    adapted = False
    flat = len(shape) == 1
    for part in unit.parts:
        if isinstance(part, _POOLS):
            continue
        if isinstance(part, nn.Flatten):
            flat = True
        if not adapted and any(True for _ in part.parameters()):
            part = _adapt(part, shape, stride, flat, unit.name)
            adapted = True
        else:
            part = _reset(deepcopy(part))
        parts.append(part)
    renewed = parts[0] if len(parts) == 1 else nn.Sequential(*parts)
    renewed.requires_grad_(True)  # the copy of a frozen unit learns
    weight = next((p for p in unit.parameters() if p.is_floating_point()), None)
    return renewed if weight is None else renewed.to(weight.device, weight.dtype)


def _adapt(part: nn.Module, shape: Sequence[int], stride: int, flat: bool, name: str) -> nn.Module:
    if hasattr(part, "like"):
        made: nn.Module = part.like(shape[0], stride)  # type: ignore[operator]
        return made
    bias = getattr(part, "bias", None) is not None
    if isinstance(part, nn.Conv2d) and len(shape) == 3 and part.groups == 1:
        return nn.Conv2d(
            shape[0],
            part.out_channels,
            part.kernel_size,  # type: ignore[arg-type]
            stride,
            part.padding,  # type: ignore[arg-type]
            part.dilation,  # type: ignore[arg-type]
            bias=bias,
            padding_mode=part.padding_mode,
        )
    if isinstance(part, nn.Linear):
        return nn.Linear(math.prod(shape) if flat else shape[-1], part.out_features, bias=bias)
    raise LocalgradError(
        f"unit {name!r} cannot be copied for an input of shape {tuple(shape)}: give its "
        f"{type(part).__name__} a method like(in_channels, stride)"
    )


def _reset(module: nn.Module) -> nn.Module:
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    return module
