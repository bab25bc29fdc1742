"""Batches from a set in memory, on its device, repeatable from a seed and an epoch's number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from localgrad.data.augment import Draws, Normalise, crop_and_flip
from localgrad.data.validate import check_channels, check_whole
from localgrad.errors import LocalgradError

if TYPE_CHECKING:
    from localgrad.data.image_set import ImageSet


class Batches:
    """Normalised, optionally shuffled and augmented batches of an image set.

    The order, crops and flips of an epoch depend on ``seed`` and the epoch's number alone: not on
    earlier epochs, the device, the batch size or PyTorch's global random state. So a run resumes
    at any epoch exactly.

    Args:
        image_set: the images and labels.
        batch_size: images a batch; the last batch of an epoch may have fewer.
        mean: per channel, 0 to 1, subtracted.
        std: per channel, 0 to 1, divided by.
        pad: pixels of reflection on each side before a random crop to the image's size.
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

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        pad: int = 0,
        flip: bool = False,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        channels_last: bool = True,
    ) -> None:
        _, height, width, channels = image_set.images.shape
        check_whole("batch_size", batch_size, 1)
        check_whole("pad", pad, 0)
        check_whole("seed", seed)
        if pad >= min(height, width):
            raise LocalgradError(
                f"pad must be below the image size to reflect; got pad {pad} for images of "
                f"{height}x{width}: use at most {min(height, width) - 1}"
            )
        check_channels("mean", mean, channels)
        check_channels("std", std, channels)
        if min(std) <= 0:
            raise LocalgradError(f"std must be above 0 for every channel; got {tuple(std)}")
        if drop_last and batch_size > len(image_set):
            raise LocalgradError(
                f"drop_last leaves no batch: {len(image_set)} images are fewer than batch_size "
                f"{batch_size}; use a smaller batch or keep the last one"
            )
        moved = _moved(image_set, device)
        self._images, self._labels = moved.images.contiguous(), moved.labels
        self._normalise = Normalise(tuple(mean), tuple(std), width, self.device)
        self.batch_size, self.seed, self.drop_last = batch_size, seed, drop_last
        self.pad, self.flip, self.shuffle = pad, flip, shuffle
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
        full, rest = divmod(self.number_of_images, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch ``number``, counted from 0.

        Yields:
            Images, float32 ``(batch, channels, height, width)``, and labels, int64 ``(batch,)``.

        Raises:
            LocalgradError: for a number that is negative or not whole.
        """
        check_whole("epoch", number, 0)
        return self._epoch(number)

    def _epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        # All of an epoch's draws at once, on the CPU: the same bits on every device, and one
        # transfer an epoch.
        generator = _generator(self.seed, number)
        count = self.number_of_images
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        order = order.to(self.device)
        draws = None
        if self.pad or self.flip:
            draws = Draws.random(count, self.pad, self.flip, generator).to(self.device)
        for batch in range(len(self)):
            part = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            index = order[part]
            if draws is None:
                pixels = self._images.index_select(0, index)
            else:
                pixels = crop_and_flip(self._images, index, draws[part], self.pad)
            yield self._as_input(pixels), self._labels.index_select(0, index)

    def evaluation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in stored order and as it is, whatever the options say.

        Yields:
            As :meth:`epoch`; the last batch may have fewer images.
        """
        parts = zip(
            torch.split(self._images, self.batch_size),
            torch.split(self._labels, self.batch_size),
            strict=True,
        )
        for pixels, labels in parts:
            yield self._as_input(pixels), labels

    def _as_input(self, pixels: Tensor) -> Tensor:
        x = self._normalise(pixels)
        return x if self.channels_last else x.contiguous()


def _generator(seed: int, epoch: int) -> torch.Generator:
    # Hashed, so that neighbouring seeds and epochs share nothing.
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def _moved(image_set: ImageSet, device: torch.device | str | None) -> ImageSet:
    if device is None:
        return image_set
    try:
        return image_set.to(device)
    # What PyTorch raises depends on the device and on how it was built.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise LocalgradError(
            f"the images cannot be put on device {str(device)!r}: {reason}"
        ) from error
