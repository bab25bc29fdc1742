"""Random crops and flips of a whole batch as one gather from the stored images.

Padding by reflection, cropping and flipping only rename pixels: each pixel of the result is one
pixel of the stored image. So the names are worked out, and the pixels are fetched once, in uint8.
Padding with zeros fetches a pixel at the edge, and blackens it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from localgrad.data.specs import Padding


@dataclass(frozen=True)
class Draws:
    """What was drawn for each image of a batch or an epoch.

    Attributes:
        top: int64 ``(number,)``, 0 to ``2 * pad``: first row of the crop in the padded image.
        left: int64 ``(number,)``, 0 to ``2 * pad``: first column of the crop.
        mirrored: bool ``(number,)``: whether the crop is mirrored left to right.
    """

    top: Tensor
    left: Tensor
    mirrored: Tensor

    @classmethod
    def random(cls, number: int, pad: int, flip: bool, generator: torch.Generator) -> Draws:
        """Uniform crops, and mirrors with probability one half where ``flip``."""
        crops = torch.randint(0, 2 * pad + 1, (2, number), generator=generator)
        coins = torch.randint(0, 2, (number,), generator=generator)
        return cls(crops[0], crops[1], coins.bool() if flip else torch.zeros(number).bool())

    def __getitem__(self, part: slice | Tensor) -> Draws:
        return Draws(self.top[part], self.left[part], self.mirrored[part])

    def to(self, device: torch.device) -> Draws:
        """These draws on ``device``."""
        return Draws(self.top.to(device), self.left.to(device), self.mirrored.to(device))


def crop_and_flip(
    images: Tensor, index: Tensor, draws: Draws, pad: int, padding: Padding = "reflect"
) -> Tensor:
    """The images at ``index``, each padded, cropped to its size and mirrored.

    Args:
        images: contiguous ``(number, height, width, channels)``.
        index: int64 ``(batch,)``, rows of ``images``.
        draws: the crop and mirror of each image of the batch, on the images' device.
        pad: pixels on each side; less than the height and the width.
        padding: ``"reflect"`` (the edge is not repeated) or ``"zero"``.

    Returns:
        ``(batch, height, width, channels)``, contiguous, of the images' dtype.

    >>> image = torch.arange(5).view(1, 1, 5, 1)
    >>> drawn = Draws(torch.tensor([0]), torch.tensor([1]), torch.tensor([True]))
    >>> crop_and_flip(image, torch.tensor([0]), drawn, pad=0).flatten()  # left 1, mirrored
    tensor([3, 4, 3, 2, 1])
    """
    number, height, width, channels = images.shape
    device = images.device
    rows = torch.arange(height, device=device) + (draws.top - pad)[:, None]
    columns = torch.arange(width, device=device).expand(len(index), width)
    columns = torch.where(draws.mirrored[:, None], width - 1 - columns, columns)
    columns = columns + (draws.left - pad)[:, None]
    inside = _reflected if padding == "reflect" else _clamped
    image_rows = index[:, None] * height + inside(rows, height)
    pixels = image_rows[:, :, None] * width + inside(columns, width)[:, None, :]
    # index_select copies a pixel's channels as one run: 4 times faster here than indexing
    # with rows and columns.
    gathered = images.view(number * height * width, channels).index_select(0, pixels.flatten())
    gathered = gathered.view(len(index), height, width, channels)
    if padding == "zero" and pad:
        seen = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
        gathered *= seen[..., None]
    return gathered


def _clamped(position: Tensor, size: int) -> Tensor:
    return position.clamp(0, size - 1)


def _within(position: Tensor, size: int) -> Tensor:
    return (position >= 0) & (position < size)


def _reflected(position: Tensor, size: int) -> Tensor:
    """Positions beyond either edge, mirrored at that edge (which is not repeated)."""
    return (size - 1) - ((size - 1) - position.abs()).abs()


class Normalise:
    """From pixels 0 to 255 to floats of mean 0 and standard deviation 1 per channel.

    Args:
        mean: per channel, 0 to 1.
        std: per channel, in the same units.
        width: of the images, in pixels.
        device: where the images are.
    """

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        width: int,
        device: torch.device,
    ) -> None:
        # Repeated over a row of pixels: broadcasting over three channels alone is 6 times slower.
        self._mean = torch.tensor([255 * m for m in mean], device=device).repeat(width)
        self._std = torch.tensor([255 * s for s in std], device=device).repeat(width)

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 ``(batch, height, width, channels)``, contiguous, to float32
        ``(batch, channels, height, width)`` in channels-last layout."""
        batch, height, width, channels = pixels.shape
        rows = pixels.view(batch, height, width * channels).float()
        rows.sub_(self._mean).div_(self._std)
        return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
