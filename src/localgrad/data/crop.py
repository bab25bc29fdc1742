"""Random and central crops of one image, resized: what a streamed image goes through.

Bilinear over the area that a new pixel covers, as Pillow and torchvision (antialiased) do. A JPEG
image that is at least twice too large is decoded at half, a quarter or an eighth of its size
first, which its format allows at little cost ("draft").
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from localgrad.data.decode import converted, fitted
from localgrad.data.extra import extra

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]  # left, top, right, bottom

_TRIES = 10
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_MARGIN = 256 / 224


def random_box(width: int, height: int, drawn: random.Random) -> Box:
    """A part of 8 to 100 % of the image's area, of a ratio of 3/4 to 4/3.

    Szegedy et al. 2015, section 6; the area is uniform and the ratio log-uniform, and what fits
    into the image in none of ten tries is replaced by the largest central part of an allowed
    ratio, as in torchvision's ``RandomResizedCrop``.

    >>> random_box(100, 50, random.Random(0))
    (44.0, 0.0, 96.0, 50.0)
    """
    # random() alone: of Python's draws, only its stream is promised to stay the same.
    low, high = (math.log(ratio) for ratio in _RATIO)
    for _ in range(_TRIES):
        area = width * height * (_AREA[0] + (_AREA[1] - _AREA[0]) * drawn.random())
        ratio = math.exp(low + (high - low) * drawn.random())
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left = int(drawn.random() * (width - wide + 1))
            top = int(drawn.random() * (height - tall + 1))
            return float(left), float(top), float(left + wide), float(top + tall)
    wide, tall = width, height
    if width / height < _RATIO[0]:
        tall = round(width / _RATIO[0])
    elif width / height > _RATIO[1]:
        wide = round(height * _RATIO[1])
    left, top = (width - wide) // 2, (height - tall) // 2
    return float(left), float(top), float(left + wide), float(top + tall)


def central_box(width: int, height: int) -> Box:
    """The middle square of 224/256 of the shorter side: resize to 256, crop 224, in one step.

    >>> central_box(512, 256)
    (144.0, 16.0, 368.0, 240.0)
    """
    side = min(width, height) / _MARGIN
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def resized(image: Image, box: Box, size: int, channels: int, name: str) -> Image:
    """The part ``box`` of an image, ``size`` by ``size`` pixels.

    Args:
        image: opened, not yet decoded.
        box: in its pixels.
        size: pixels on each side.
        channels: 1 or 3.
        name: the image's, for errors.

    Raises:
        CorruptImage: the image cannot be decoded.
        LocalgradError: it has more than 8 bits a channel.
    """
    bilinear = extra("PIL.Image", "to resize images").Resampling.BILINEAR
    width, height = image.size
    least = (
        math.ceil(width * size / (box[2] - box[0])),
        math.ceil(height * size / (box[3] - box[1])),
    )
    image.draft(None, least)  # does something to JPEG images alone
    image = converted(image, channels, name)
    across, down = image.size[0] / width, image.size[1] / height
    part = (
        box[0] * across,
        box[1] * down,
        min(box[2] * across, image.size[0]),
        min(box[3] * down, image.size[1]),
    )
    return image.resize((size, size), bilinear, box=part)


def whole(image: Image, size: int | None, channels: int, name: str) -> Image:
    """The whole image; with ``size`` resized and cut to a square, as a set in memory is.

    Raises:
        CorruptImage: the image cannot be decoded.
        LocalgradError: it has more than 8 bits a channel.
    """
    image = converted(image, channels, name)
    return image if size is None else fitted(image, size)
