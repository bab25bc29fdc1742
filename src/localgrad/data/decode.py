"""Encoded images (PNG, JPEG, ...) to pixels."""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from localgrad.data.extra import extra
from localgrad.data.image_set import ImageSet
from localgrad.errors import LocalgradError

if TYPE_CHECKING:
    from PIL.Image import Image

    from localgrad.data.rows import Rows

OnCorrupt = Literal["stop", "skip"]
_MODES = {1: "L", 3: "RGB"}
_SHOWN = {1: "grey", 3: "colour"}
_GREY = ("1", "L", "LA", "La")
_DEEP = ("I", "F")  # 16 or 32 bits a pixel; "I;16" and its relatives begin with I


class CorruptImage(Exception):  # noqa: N818 - the image's fault; the caller says what it means
    """These bytes are no image; holds the reason."""


def read_image(rows: Rows, row: int) -> Image:
    """Open an image; its header is read, its pixels not yet.

    Raises:
        CorruptImage: there are no bytes, or they are no image.
    """
    pillow = extra("PIL.Image", "to decode images")
    try:
        encoded = rows.read(row)
    except OSError as error:
        raise CorruptImage(f"cannot be read: {error.strerror}") from error
    if encoded is None:
        raise CorruptImage("holds no image bytes")
    try:
        image: Image = pillow.open(io.BytesIO(encoded))
    except Exception as error:  # Pillow raises many types for broken bytes
        raise CorruptImage("cannot be decoded as an image") from error
    return image


def channels_of(image: Image, name: str) -> int:
    """1 for a grey image, 3 for any other.

    Raises:
        LocalgradError: it has more than 8 bits a channel.
    """
    if image.mode.startswith(_DEEP):
        raise LocalgradError(
            f"{name} has more than 8 bits a channel (mode {image.mode}): write it with 8 bits"
        )
    return 1 if image.mode in _GREY else 3


def check_channels_match(image: Image, channels: int, name: str) -> None:
    """Raise a ``LocalgradError`` where an image of a set without stated channels differs."""
    found = channels_of(image, name)
    if found != channels:
        raise LocalgradError(
            f"{name} is {_SHOWN[found]} but the first image {_SHOWN[channels]}: say what to make "
            "of all by --data.channels rgb or --data.channels grey"
        )


def converted(image: Image, channels: int, name: str) -> Image:
    """The image in 8 bits of grey or red, green and blue, its pixels decoded.

    Raises:
        CorruptImage: the pixels cannot be decoded.
        LocalgradError: it has more than 8 bits a channel.
    """
    channels_of(image, name)
    mode = _MODES[channels]
    try:
        image.load()
        return image if image.mode == mode else image.convert(mode)
    except Exception as error:
        raise CorruptImage("cannot be decoded as an image") from error


def fitted(image: Image, size: int) -> Image:
    """The image resized so that its shorter side is ``size``, its middle square cut out.

    Bilinear over the area that a new pixel covers, as Pillow and torchvision (antialiased) do.
    """
    bilinear = extra("PIL.Image", "to resize images").Resampling.BILINEAR
    width, height = image.size
    if (width, height) == (size, size):
        return image
    scale = size / min(width, height)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (wide - size) // 2, (high - size) // 2
    return image.resize((wide, high), bilinear).crop((left, top, left + size, top + size))


def as_tensor(image: Image, channels: int) -> Tensor:
    """uint8 ``(height, width, channels)``."""
    width, height = image.size
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(height, width, channels)


@dataclass
class Decoded:
    """A whole split in memory.

    Attributes:
        images: with their labels.
        channels: 1 or 3.
        formats: such as ``{"PNG"}``.
        skipped: names of corrupt images that were left out, with the reason.
    """

    images: ImageSet
    channels: int
    formats: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)


def decode(
    rows: Rows, channels: int | None, size: int | None = None, on_corrupt: OnCorrupt = "stop"
) -> Decoded:
    """Decode the images of all rows into one tensor.

    Args:
        rows: at least one.
        channels: 3 for colour, 1 for grey, others are converted; ``None``: as the first image,
            and all must be so.
        size: pixels on each side, by :func:`fitted`; ``None``: as the first image, and all must
            be so.
        on_corrupt: ``"skip"`` leaves out and names images that cannot be decoded.

    Raises:
        LocalgradError: for an image that cannot be decoded (with ``"stop"``), no image at all,
            sizes or channels that differ, or more pixels than the machine has memory; it names
            the image.
    """
    stated = channels is not None
    skipped: dict[str, str] = {}
    formats: set[str] = set()
    kept: list[int] = []
    shape: tuple[int, int] | None = None
    buffer = bytearray()
    # One row at a time into one buffer: no list of arrays, no second copy at the end.
    for row in range(len(rows)):
        name = rows.name(row)
        try:
            image = read_image(rows, row)
            if channels is None:
                channels = channels_of(image, name)
            elif not stated:
                check_channels_match(image, channels, name)
            formats.add(image.format or "unknown")
            image = converted(image, channels, name)
        except CorruptImage as error:
            if on_corrupt == "stop":
                raise corrupt(name, str(error)) from error
            skipped[name] = str(error)
            continue
        if size is not None:
            image = fitted(image, size)
        if shape is None:
            shape = image.size
            length = shape[0] * shape[1] * channels
            buffer = _buffer(len(rows) * length)
        elif image.size != shape:
            raise differs(name, image.size, shape)
        place = len(kept) * length
        buffer[place : place + length] = image.tobytes()
        kept.append(row)
    if shape is None or channels is None:
        found = f"none of {len(rows)} images can be decoded" if skipped else "holds no row"
        raise LocalgradError(f"{_where(rows)}: {found}: pass files with images")
    pixels = torch.frombuffer(buffer, dtype=torch.uint8)[: len(kept) * length]
    images = pixels.view(len(kept), shape[1], shape[0], channels)
    labels = rows.labels[kept] if skipped else rows.labels
    return Decoded(ImageSet(images, labels), channels, formats, skipped)


def _where(rows: Rows) -> str:
    return ", ".join(source.where for source in rows.sources)


def corrupt(name: str, reason: str) -> LocalgradError:
    """The error for an image that cannot be decoded."""
    return LocalgradError(
        f"{name} {reason}: replace it, or leave such images out and count them by "
        "--data.on_corrupt skip"
    )


def differs(name: str, size: tuple[int, int], first: tuple[int, int]) -> LocalgradError:
    """The error for images of different sizes."""
    return LocalgradError(
        f"{name} is {size[0]}x{size[1]} pixels but the first image {first[0]}x{first[1]}: resize "
        "all to N by N pixels by --data.size N"
    )


def _buffer(number: int) -> bytearray:
    """Room for the pixels, unless the machine cannot hold them."""
    try:
        memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not told on this system
        memory = math.inf
    if number > memory:
        raise LocalgradError(
            f"the images take {number / 2**30:.0f} GiB of memory, the machine has "
            f"{memory / 2**30:.0f}: read them while training by --data.stream true, or give a "
            "smaller --data.size or --data.limit"
        )
    return bytearray(number)
