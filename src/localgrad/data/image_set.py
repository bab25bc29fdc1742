"""Images and labels held in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of a batch's images."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width

    def first(self, number: int | None) -> ImageSet:
        """The first ``number`` images; all for ``None``."""
        return self if number is None else ImageSet(self.images[:number], self.labels[:number])

    def to(self, device: torch.device | str) -> ImageSet:
        """This set on ``device``; itself if it is there already."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
