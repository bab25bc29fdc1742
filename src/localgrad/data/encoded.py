"""Encoded images (PNG, JPEG, ...) decoded into one uint8 tensor."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from localgrad.data.extra import extra
from localgrad.errors import LocalgradError

_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class EncodedRows:
    """Rows of one file: an encoded image and a label each.

    Attributes:
        where: the file, for errors.
        images: the bytes of each image; ``None`` where the row has none.
        labels: int64 ``(rows,)``.
    """

    where: str
    images: Sequence[bytes | None]
    labels: Tensor

    def first(self, number: int) -> EncodedRows:
        """The first ``number`` rows."""
        return EncodedRows(self.where, self.images[:number], self.labels[:number])


def decode(files: Sequence[EncodedRows], channels: int) -> tuple[Tensor, str]:
    """Decode the images of all files, one after the other.

    Args:
        files: where the images are; at least one image in all.
        channels: 3 for colour, 1 for grey; images of another kind are converted.

    Returns:
        uint8 ``(number, height, width, channels)``, and the formats found, such as ``"PNG"`` or
        ``"JPEG+PNG"``.

    Raises:
        LocalgradError: for an image that cannot be decoded, or whose size differs from the
            first one's; it names the file and the row.
    """
    pillow = extra("PIL.Image", "to decode images")
    number = sum(len(rows.images) for rows in files)
    mode = _MODES[channels]
    formats: set[str] = set()
    size: tuple[int, int] | None = None
    buffer = bytearray()
    # One row at a time into one buffer: no list of arrays, no second copy at the end.
    for place, (where, row, encoded) in enumerate(_rows(files)):
        if encoded is None:
            raise LocalgradError(f"{where}: row {row} holds no image bytes: write the file again")
        try:
            image = pillow.open(io.BytesIO(encoded))
            pixels = (image if image.mode == mode else image.convert(mode)).tobytes()
        # Pillow raises many types for broken bytes.
        except Exception as error:
            raise LocalgradError(
                f"{where}: row {row} cannot be decoded as an image: replace the row"
            ) from error
        if size is None:
            size = image.size
            buffer = bytearray(number * len(pixels))
        elif image.size != size:
            raise LocalgradError(
                f"{where}: row {row} is {_shown(image.size)} pixels but the first image "
                f"{_shown(size)}: resize them to one size"
            )
        buffer[place * len(pixels) : (place + 1) * len(pixels)] = pixels
        formats.add(image.format or "unknown")
    if size is None:
        raise LocalgradError(
            f"{', '.join(rows.where for rows in files)}: holds no row: pass files with images"
        )
    width, height = size
    images = torch.frombuffer(buffer, dtype=torch.uint8).view(number, height, width, channels)
    return images, "+".join(sorted(formats))


def _rows(files: Iterable[EncodedRows]) -> Iterator[tuple[str, int, bytes | None]]:
    for file in files:
        for row, encoded in enumerate(file.images):
            yield file.where, row, encoded


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
