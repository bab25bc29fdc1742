"""Images and labels held in memory, and a data set of two such sets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from localgrad.data.batches import Batches
from localgrad.data.validate import check_labels
from localgrad.errors import LocalgradError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels.

    Attributes:
        images: uint8 ``(number, height, width, channels)``, values 0 to 255.
        labels: int64 ``(number,)``.

    Raises:
        LocalgradError: for another dtype or shape, no image, or two devices.

    >>> ImageSet(torch.zeros(5, 8, 8, 1, dtype=torch.uint8), torch.arange(5))
    ImageSet(5 images of 8x8x1 on cpu)
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise LocalgradError(
                "images must be a uint8 tensor (number, height, width, channels); "
                f"got {_described(images)}"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise LocalgradError(
                f"labels must be an int64 tensor ({len(images)},), one for each image; "
                f"got {_described(labels)}"
            )
        if 0 in images.shape:
            raise LocalgradError(f"an image set needs an image; got {_described(images)}")
        if images.device != labels.device:
            raise LocalgradError(
                f"images are on {images.device} but labels on {labels.device}: put them together"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.images.shape[1:]))
        return f"ImageSet({len(self)} images of {size} on {self.images.device})"

    def to(self, device: torch.device | str) -> ImageSet:
        """This set on ``device``; itself if it is there already."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, with what its training recipe says about it.

    Attributes:
        name: the name that :func:`localgrad.data.load` takes.
        label: the name to print beside results; says so where the images are a lossy copy.
        train: training images.
        test: test images, of the same size.
        classes: the name of each class; a label is an index into it.
        mean: of each channel over the training images, 0 to 1.
        std: standard deviation of each channel over the training images, in the same units.
        pad: pixels of reflection around an image before a random crop; 0 for no crop.
        flip: whether training images are mirrored left to right at random.
        source_format: the encoding that the images were read from (``"PNG"``, ``"JPEG"``), or
            ``None`` where they were plain numbers.

    Raises:
        LocalgradError: where these do not fit together.
    """

    name: str
    label: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool
    source_format: str | None = None

    def __post_init__(self) -> None:
        shape, other = self.train.images.shape[1:], self.test.images.shape[1:]
        if shape != other:
            raise LocalgradError(
                f"{self.name}: training images are {tuple(shape)} (height, width, channels) but "
                f"test images {tuple(other)}; they must be the same"
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
        height, width, channels = self.train.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> Dataset:
        """This data set on ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def train_batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        channels_last: bool = True,
    ) -> Batches:
        """Shuffled and augmented batches of the training images; see :class:`Batches`."""
        return Batches(
            self.train,
            batch_size,
            mean=self.mean,
            std=self.std,
            pad=self.pad,
            flip=self.flip,
            shuffle=True,
            seed=seed,
            drop_last=drop_last,
            device=device,
            channels_last=channels_last,
        )

    def test_batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        channels_last: bool = True,
    ) -> Batches:
        """Batches of the test images in their own order, as they are; see :class:`Batches`."""
        return Batches(
            self.test,
            batch_size,
            mean=self.mean,
            std=self.std,
            device=device,
            channels_last=channels_last,
        )


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
