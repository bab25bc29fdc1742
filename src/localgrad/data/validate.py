"""Checks of what a user passes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from localgrad.errors import LocalgradError


def check_whole(name: str, value: object, least: int | None = None) -> None:
    """Raise a ``LocalgradError`` unless ``value`` is a whole number of at least ``least``.

    >>> check_whole("limit", 0, least=1)
    Traceback (most recent call last):
    localgrad.errors.LocalgradError: limit must be a whole number of at least 1; got 0
    """
    if isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least):
        return
    bound = "" if least is None else f" of at least {least}"
    raise LocalgradError(f"{name} must be a whole number{bound}; got {value!r}")


def check_channels(name: str, values: Sequence[float], channels: int) -> None:
    """Raise a ``LocalgradError`` unless there is one finite number for each channel."""
    if len(values) != channels or not all(math.isfinite(value) for value in values):
        raise LocalgradError(
            f"{name} must be {channels} finite numbers, one for each channel; got {tuple(values)}"
        )


def check_labels(labels: Tensor, num_classes: int, where: str) -> None:
    """Raise a ``LocalgradError`` naming the first row whose label is no class."""
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise LocalgradError(
            f"{where}: row {row} has label {int(labels[row])}, but there are {num_classes} "
            f"classes, 0 to {num_classes - 1}: correct the labels or load the data set they are of"
        )


def check_pad(pad: int, height: int, width: int) -> None:
    """Raise a ``LocalgradError`` unless a crop keeps some of the image, and can be reflected."""
    if pad >= min(height, width):
        raise LocalgradError(
            f"pad must be below the image size; got pad {pad} for images of {height}x{width}: use "
            f"at most {min(height, width) - 1}"
        )


def check_normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Raise a ``LocalgradError`` unless both fit the channels and can be divided by."""
    check_channels("mean", mean, channels)
    check_channels("std", std, channels)
    if min(std) <= 0:
        raise LocalgradError(f"std must be above 0 for every channel; got {tuple(std)}")


def check_one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise a ``LocalgradError`` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        shown = ", ".join(repr(one) for one in allowed if one is not None)
        raise LocalgradError(f"{name} must be one of {shown}; got {value!r}")
