"""Batches from images that are read while training, by worker processes.

An image's random crop is a function of the seed, the epoch and its row, so batches are the same
whatever the number of workers, and an epoch can begin at any batch.
"""

from __future__ import annotations

import random
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from localgrad.data.augment import Normalise, crop_and_flip
from localgrad.data.crop import central_box, random_box, resized, whole
from localgrad.data.decode import (
    CorruptImage,
    OnCorrupt,
    as_tensor,
    check_channels_match,
    corrupt,
    differs,
    read_image,
)
from localgrad.data.order import Order, seed_of
from localgrad.data.rows import Rows
from localgrad.data.specs import Crop, Padding
from localgrad.data.validate import check_normalisation, check_pad, check_whole
from localgrad.errors import LocalgradError


@dataclass(frozen=True, eq=False)
class StreamedSet:
    """Images with their labels, read when they are needed.

    Attributes:
        rows: where they are.
        image_shape: ``(channels, height, width)`` of what is fed.
        crop: ``"resized"``: a random part for training, the middle for testing, resized.
            ``"pad"``: the whole image; pad and crop follow on the batch.
        size: pixels on each side; ``None`` for the images' own, which must be one.
        mixed: whether grey and colour are converted to ``image_shape``'s channels, or refused.
        on_corrupt: ``"skip"`` leaves out and names images that cannot be decoded.
    """

    rows: Rows
    image_shape: tuple[int, int, int]
    crop: Crop = "resized"
    size: int | None = 224
    mixed: bool = True
    on_corrupt: OnCorrupt = "stop"

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        channels, height, width = self.image_shape
        return f"StreamedSet({len(self)} images, fed as {height}x{width}x{channels})"

    @property
    def labels(self) -> Tensor:
        """int64 ``(number,)``."""
        return self.rows.labels

    def pixels(self, row: int, drawn: random.Random | None = None, flip: bool = False) -> Tensor:
        """One image, uint8 ``(height, width, channels)``.

        Args:
            row: which.
            drawn: for a random part; ``None`` for the middle or the whole.
            flip: mirror it with probability one half.

        Raises:
            CorruptImage: it cannot be decoded.
            LocalgradError: its size or channels are not those of the others.
        """
        name = self.rows.name(row)
        image = read_image(self.rows, row)
        channels, height, width = self.image_shape
        if not self.mixed:
            check_channels_match(image, channels, name)
        if self.crop == "resized":
            box = random_box(*image.size, drawn) if drawn else central_box(*image.size)
            pixels = as_tensor(resized(image, box, height, channels, name), channels)
            return pixels.flip(1) if drawn and flip and drawn.random() < 0.5 else pixels
        image = whole(image, self.size, channels, name)
        if image.size != (width, height):
            raise differs(name, image.size, (width, height))
        return as_tensor(image, channels)


@dataclass(frozen=True)
class _Fetched:
    """What a worker sends: a batch without its corrupt images, and what was wrong with those.

    Attributes:
        pixels: uint8 ``(kept, height, width, channels)``.
        kept: int64 ``(kept,)``, places in the batch.
        problems: name, and what is wrong.
        refused: the error that ends the run; an exception would arrive with a traceback in it.
    """

    pixels: Tensor
    kept: Tensor
    problems: dict[str, str]
    refused: str | None

    def pin_memory(self) -> _Fetched:
        return _Fetched(self.pixels.pin_memory(), self.kept, self.problems, self.refused)


class _Fetch(Dataset[_Fetched]):
    """Decodes a batch in a worker process; its index is the batch's rows."""

    def __init__(self, images: StreamedSet, seed: int, epoch: int | None, flip: bool) -> None:
        self._images, self._seed, self._epoch, self._flip = images, seed, epoch, flip

    def __getitem__(self, rows: list[int]) -> _Fetched:
        channels, height, width = self._images.image_shape
        pixels = torch.empty(len(rows), height, width, channels, dtype=torch.uint8)
        kept: list[int] = []
        problems: dict[str, str] = {}
        refused = None
        for place, row in enumerate(rows):
            drawn = None
            if self._epoch is not None:
                drawn = random.Random(seed_of(self._seed, self._epoch, row))
            try:
                pixels[len(kept)] = self._images.pixels(row, drawn, self._flip)
                kept.append(place)
            except CorruptImage as error:
                problems[self._images.rows.name(row)] = str(error)
            except LocalgradError as error:
                refused = str(error)
                break
        return _Fetched(pixels[: len(kept)], torch.tensor(kept).long(), problems, refused)


class StreamedBatches:
    """Normalised, optionally shuffled and augmented batches of a streamed set.

    Args and yields as :class:`~localgrad.data.Batches`, and the same bits where ``crop`` is
    ``"pad"``; further:

        workers: processes that read and decode; 0 reads in this one.
        prefetch: batches that each worker has ready or in work.

    Raises:
        LocalgradError: as ``Batches``; while iterating, for an image that cannot be decoded
            (with ``"stop"``; it is named), a batch in which none can be, or a worker that died.
    """

    def __init__(
        self,
        images: StreamedSet,
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
        augment: bool = False,
        workers: int = 2,
        prefetch: int = 2,
    ) -> None:
        check_whole("workers", workers, 0)
        check_whole("prefetch", prefetch, 1)
        channels, height, width = images.image_shape
        by_row = images.crop == "resized"  # drawn for each image where it is decoded
        self.order = Order(
            len(images),
            batch_size,
            0 if by_row else pad,
            not by_row and flip,
            shuffle,
            seed,
            drop_last,
        )
        check_pad(self.order.pad, height, width)
        check_normalisation(mean, std, channels)
        self.device = torch.device(device or "cpu")
        self.padding: Padding = padding
        self.channels_last = channels_last
        self.workers, self.prefetch = workers, prefetch
        self.skipped: dict[str, str] = {}
        self._images, self._by_row, self._flip = images, by_row and augment, flip
        self._normalise = Normalise(tuple(mean), tuple(std), width, self.device)

    @property
    def number_of_images(self) -> int:
        """Images in the set, corrupt ones included."""
        return len(self._images)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.order)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch ``number``, counted from 0, from batch ``start`` on."""
        self.order.check(number, start)
        return self._epoch(number, start, self.workers)

    def first(self) -> tuple[Tensor, Tensor]:
        """The first batch of epoch 0, read in this process."""
        return next(self._epoch(0, 0, workers=0))

    def evaluation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in stored order and not augmented, whatever the options say."""
        rows = torch.arange(self.number_of_images)
        fetched = self._fetched(None, list(rows.split(self.order.batch_size)), self.workers)
        for part, found in fetched:
            pixels, labels = self._arrived(part, found)
            yield self._as_input(pixels), labels

    def _epoch(self, number: int, start: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        rows, draws = self.order.epoch(number)
        slices = [self.order.part(batch) for batch in range(start, len(self))]
        fetched = self._fetched(number, [rows[part] for part in slices], workers)
        for part, (rows_part, found) in zip(slices, fetched, strict=True):
            pixels, labels = self._arrived(rows_part, found)
            if draws is not None:
                drawn = draws[part][found.kept].to(self.device)
                index = torch.arange(len(pixels), device=self.device)
                pixels = crop_and_flip(pixels, index, drawn, self.order.pad, self.padding)
            yield self._as_input(pixels), labels

    def _fetched(
        self, epoch: int | None, parts: list[Tensor], workers: int
    ) -> Iterator[tuple[Tensor, _Fetched]]:
        epoch = epoch if self._by_row else None
        found = _started(
            _Fetch(self._images, self.order.seed, epoch, self._flip),
            batch_size=None,
            sampler=[part.tolist() for part in parts],
            num_workers=workers,
            prefetch_factor=self.prefetch if workers else None,
            collate_fn=_as_it_is,
            worker_init_fn=_own_signals,
            pin_memory=self.device.type == "cuda",
            # a generator of its own: the loader would draw from the global random state
            generator=torch.Generator(),
        )
        for part in parts:
            try:
                one = next(found)
            except RuntimeError as error:  # such as a worker that was killed for its memory
                reason = str(error).partition("\n")[0]
                raise LocalgradError(
                    f"reading images failed ({reason}): use fewer --data.workers or a smaller "
                    "--batch_size"
                ) from error
            yield part, one

    def _arrived(self, rows: Tensor, found: _Fetched) -> tuple[Tensor, Tensor]:
        """Pixels and labels on the device; what was wrong is raised or noted."""
        if found.refused is not None:
            raise LocalgradError(found.refused)
        if found.problems and self._images.on_corrupt == "stop":
            raise corrupt(*next(iter(found.problems.items())))
        self.skipped |= found.problems
        if not len(found.kept):
            raise LocalgradError(
                f"none of a batch's {len(rows)} images can be decoded, such as "
                f"{next(iter(found.problems))}: repair the data"
            )
        labels = self._images.labels[rows[found.kept]]
        pixels = found.pixels.to(self.device, non_blocking=True)
        return pixels, labels.to(self.device, non_blocking=True)

    def _as_input(self, pixels: Tensor) -> Tensor:
        x = self._normalise(pixels)
        return x if self.channels_last else x.contiguous()


def _started(images: _Fetch, **options: Any) -> Iterator[_Fetched]:
    """A loader's iterator, whose workers run.

    Python warns of every fork beside threads; the workers touch nothing that those hold. PyTorch
    warns of more workers than cores, but reading from a slow disk may well want them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        return iter(DataLoader(images, **options))


def _as_it_is(fetched: Any) -> Any:
    return fetched


def _own_signals(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the one that trains decides what follows, and
    # its handlers, which a forked worker has too, are not for workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
