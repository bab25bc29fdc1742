"""Batches from a set in memory, on its device, repeatable from a seed and an epoch's number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from localgrad.data.augment import Draws, Normalise, crop_and_flip
from localgrad.data.device import on_device
from localgrad.data.order import Order
from localgrad.data.specs import Padding
from localgrad.data.validate import check_normalisation, check_pad

if TYPE_CHECKING:
    from localgrad.data.image_set import ImageSet


class Batches:
    """Normalised, optionally shuffled and augmented batches of an image set.

    The order, crops and flips of an epoch are those of :class:`~localgrad.data.order.Order`.

    Args:
        image_set: the images and labels.
        batch_size: images a batch; the last batch of an epoch may have fewer.
        mean: per channel, 0 to 1, subtracted.
        std: per channel, 0 to 1, divided by.
        pad: pixels on each side before a random crop to the image's size.
        padding: what the pad holds: ``"reflect"`` or ``"zero"``.
        flip: mirror each image left to right with probability one half.
        shuffle: draw a new order every epoch.
        seed: a whole number.
        drop_last: leave out a last batch of fewer images.
        device: where the whole set is moved, once; ``None`` leaves it where it is.
        channels_last: memory layout of the batches.

    Raises:
        LocalgradError: for a batch size below 1, a pad that is not below the image size, a mean
            or std that does not fit the channels, no batch at all, or a device that cannot be
            used.

    >>> from localgrad.data import ImageSet
    >>> images = ImageSet(torch.zeros(10, 8, 8, 3, dtype=torch.uint8), torch.zeros(10).long())
    >>> batches = Batches(images, 4, mean=(0.5,) * 3, std=(0.25,) * 3, pad=2, shuffle=True)
    >>> [tuple(x.shape) for x, y in batches.epoch(0)]
    [(4, 3, 8, 8), (4, 3, 8, 8), (2, 3, 8, 8)]
    """

    #: Corrupt images left out while training, by name: none, they are found when a set is read.
    skipped: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        pad: int = 0,
        padding: Padding = "reflect",
        flip: bool = False,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        channels_last: bool = True,
    ) -> None:
        channels, height, width = image_set.image_shape
        self.order = Order(len(image_set), batch_size, pad, flip, shuffle, seed, drop_last)
        check_pad(pad, height, width)
        check_normalisation(mean, std, channels)
        moved = image_set
        if device is not None:
            moved = on_device("the images", device, lambda: image_set.to(device))
        self._images, self._labels = moved.images.contiguous(), moved.labels
        self._normalise = Normalise(tuple(mean), tuple(std), width, self.device)
        self.padding: Padding = padding
        self.channels_last = channels_last

    @property
    def device(self) -> torch.device:
        """Where the images and the batches are."""
        return self._images.device

    @property
    def number_of_images(self) -> int:
        """Images in the set."""
        return len(self._labels)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.order)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch ``number``, counted from 0, from batch ``start`` on.

        Yields:
            Images, float32 ``(batch, channels, height, width)``, and labels, int64 ``(batch,)``.

        Raises:
            LocalgradError: for a number that is negative or not whole.
        """
        self.order.check(number, start)
        return self._epoch(number, start)

    def _epoch(self, number: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        # All of an epoch's draws at once: one transfer an epoch.
        rows, draws = self.order.epoch(number)
        rows = rows.to(self.device)
        draws = None if draws is None else draws.to(self.device)
        for batch in range(start, len(self)):
            part = self.order.part(batch)
            yield self._batch(rows[part], None if draws is None else draws[part])

    def _batch(self, rows: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor]:
        if draws is None:
            pixels = self._images.index_select(0, rows)
        else:
            pixels = crop_and_flip(self._images, rows, draws, self.order.pad, self.padding)
        return self._as_input(pixels), self._labels.index_select(0, rows)

    def first(self) -> tuple[Tensor, Tensor]:
        """The first batch of epoch 0."""
        return next(self.epoch(0))

    def evaluation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in stored order and as it is, whatever the options say.

        Yields:
            As :meth:`epoch`; the last batch may have fewer images.
        """
        parts = zip(
            torch.split(self._images, self.order.batch_size),
            torch.split(self._labels, self.order.batch_size),
            strict=True,
        )
        for pixels, labels in parts:
            yield self._as_input(pixels), labels

    def _as_input(self, pixels: Tensor) -> Tensor:
        x = self._normalise(pixels)
        return x if self.channels_last else x.contiguous()
