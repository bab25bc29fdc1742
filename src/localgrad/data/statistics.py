"""Mean and standard deviation of each channel, measured the same to the last bit everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from localgrad.data.decode import CorruptImage, corrupt
from localgrad.data.stream import StreamedSet

SAMPLE = 1024
_CHUNK = 4096

Pair = tuple[tuple[float, ...], tuple[float, ...]]


def of_pixels(images: Iterable[Tensor]) -> Pair:
    """Mean and standard deviation of each channel, 0 to 1, from counts of the 256 values.

    Args:
        images: uint8 ``(number, height, width, channels)`` each; at least one.

    >>> of_pixels([torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1)])
    ((0.5,), (0.5,))
    """
    counts: list[Tensor] = []
    for tensor in images:
        for part in tensor.split(_CHUNK):
            channels = part.reshape(-1, part.shape[3]).unbind(1)
            found = [torch.bincount(values, minlength=256).cpu() for values in channels]
            counts = [a + b for a, b in zip(counts, found, strict=True)] if counts else found
    pairs = [_moments(count.tolist()) for count in counts]
    return tuple(mean for mean, _ in pairs), tuple(std for _, std in pairs)


def _moments(counts: list[int]) -> tuple[float, float]:
    # whole numbers up to the last step: no order of additions, no rounding
    number = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    variance = (number * second - first * first) / (number * number)
    return first / number / 255, math.sqrt(variance) / 255


def of_sample(images: StreamedSet) -> Pair:
    """As :func:`of_pixels`, of at most 1024 evenly spaced training images, not augmented.

    Raises:
        LocalgradError: for an image that cannot be decoded, unless such are skipped.
    """
    step = max(1, math.ceil(len(images) / SAMPLE))
    return of_pixels(_readable(images, range(0, len(images), step)))


def _readable(images: StreamedSet, rows: range) -> Iterable[Tensor]:
    for row in rows:
        try:
            yield images.pixels(row)[None]
        except CorruptImage as error:
            if images.on_corrupt == "stop":
                raise corrupt(images.rows.name(row), str(error)) from error
