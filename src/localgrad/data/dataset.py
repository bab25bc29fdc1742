"""A data set: training and test images with what is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from localgrad.data.batches import Batches
from localgrad.data.image_set import ImageSet
from localgrad.data.specs import Padding
from localgrad.data.stream import StreamedBatches, StreamedSet
from localgrad.data.validate import check_labels
from localgrad.errors import LocalgradError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images, in memory or streamed, with what their recipe says.

    Attributes:
        name: the name that :func:`localgrad.data.load` takes.
        label: the name to print beside results; says so where the images are a lossy copy, were
            resized, or the test images are held-out training images.
        train: training images.
        test: test images, of the same size.
        classes: the name of each class; a label is an index into it.
        mean: of each channel over the training images, 0 to 1.
        std: standard deviation of each channel over the training images, in the same units.
        pad: pixels around an image before a random crop; 0 for no crop. Of no effect on streamed
            images that are cropped by resizing.
        flip: whether training images are mirrored left to right at random.
        padding: what the pad holds: ``"reflect"`` or ``"zero"``.
        source_format: the encoding that the images were read from (``"PNG"``, ``"JPEG"``), or
            ``None`` where they were plain numbers.
        skipped: corrupt images that were left out, by name, with what was wrong.

    Raises:
        LocalgradError: where these do not fit together.
    """

    name: str
    label: str
    train: ImageSet | StreamedSet
    test: ImageSet | StreamedSet
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool
    padding: Padding = "reflect"
    source_format: str | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape, other = self.train.image_shape, self.test.image_shape
        if shape != other:
            raise LocalgradError(
                f"{self.name}: training images are {shape} (channels, height, width) but test "
                f"images {other}; make them the same by --data.size and --data.channels"
            )
        for split, labels in (("train", self.train.labels), ("test", self.test.labels)):
            check_labels(labels, len(self.classes), f"{self.name} {split}")

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of a batch's images."""
        return self.train.image_shape

    def facts(self) -> dict[str, Any]:
        """What was read or measured, to keep beside a result: plain values."""
        return {
            "shape": list(self.image_shape),
            "classes": self.num_classes,
            "format": self.source_format,
            "mean": list(self.mean),
            "std": list(self.std),
            "streamed": isinstance(self.train, StreamedSet),
            "augmentation": self._augmentation(),
        }

    def _augmentation(self) -> str:
        cropped = f"pad {self.pad} ({self.padding}), crop" if self.pad else ""
        if isinstance(self.train, StreamedSet) and self.train.crop == "resized":
            cropped = "random part, resized"
        return ", ".join(part for part in (cropped, "flip" if self.flip else "") if part) or "none"

    def train_batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        channels_last: bool = True,
        augment: bool = True,
        workers: int = 2,
        prefetch: int = 2,
    ) -> Batches | StreamedBatches:
        """Shuffled batches of the training images; see :class:`Batches`.

        Args:
            batch_size: images a batch.
            seed: of order and augmentation.
            drop_last: leave out a last batch of fewer images.
            device: where the batches are wanted.
            channels_last: memory layout of the batches.
            augment: crop and mirror at random.
            workers: processes that read streamed images.
            prefetch: batches that each of them has ready.
        """
        shared: dict[str, Any] = {
            "mean": self.mean,
            "std": self.std,
            "pad": self.pad if augment else 0,
            "padding": self.padding,
            "flip": self.flip and augment,
            "shuffle": True,
            "seed": seed,
            "drop_last": drop_last,
            "device": device,
            "channels_last": channels_last,
        }
        if isinstance(self.train, ImageSet):
            return Batches(self.train, batch_size, **shared)
        return StreamedBatches(
            self.train, batch_size, augment=augment, workers=workers, prefetch=prefetch, **shared
        )

    def test_batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        channels_last: bool = True,
        workers: int = 2,
        prefetch: int = 2,
    ) -> Batches | StreamedBatches:
        """Batches of the test images in their own order, not augmented; see :class:`Batches`."""
        shared: dict[str, Any] = {
            "mean": self.mean,
            "std": self.std,
            "device": device,
            "channels_last": channels_last,
        }
        if isinstance(self.test, ImageSet):
            return Batches(self.test, batch_size, **shared)
        return StreamedBatches(self.test, batch_size, workers=workers, prefetch=prefetch, **shared)
