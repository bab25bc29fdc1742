"""scikit-learn's handwritten digits: a small data set that needs no file and no network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from localgrad.data.dataset import Dataset
from localgrad.data.decode import as_tensor, fitted
from localgrad.data.extra import extra
from localgrad.data.held_out import of_images
from localgrad.data.image_set import ImageSet


def load_digits(
    size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
    test_limit: int | None = None,
    validation: float | None = None,
) -> Dataset:
    """1797 grey images of 8x8 pixels, split in two by a fixed draw.

    The test of the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin and Kaynak,
    1998), as scikit-learn ships it; values 0 to 16 are spread over 0 to 255. One image in five
    of each class is held out for testing. Both splits are in a fixed random order.

    Args:
        size: pixels on each side to resize to; ``None`` keeps the 8.
        channels: 3 repeats the grey in red, green and blue.
        limit: keep the first so many training images; mean and spread stay those of all.
        test_limit: keep the first so many test images.
        validation: test on this part of the training images, in place of the test images.
    """
    numpy = extra("numpy", "to load digits")
    table = torch.from_numpy(_table(numpy))  # 64 pixels and the label, row by row
    labels = table[:, 64].long()
    images = table[:, :64].view(-1, 8, 8)
    images = (images * (255 / 16)).round().to(torch.uint8)[:, :, :, None]

    # RandomState's stream is frozen by numpy, so that the split is the same everywhere.
    stream = numpy.random.RandomState(0)
    drawn = torch.from_numpy(stream.permutation(len(labels)))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        rows = drawn[labels[drawn] == digit]
        held_out[rows[: round(len(rows) / 5)]] = True

    # A second draw: in the first one's order, the rows that remain of a class come late.
    order = torch.from_numpy(stream.permutation(len(labels)))
    train_rows, test_rows = order[~held_out[order]], order[held_out[order]]
    train = ImageSet(images[train_rows], labels[train_rows])
    test = ImageSet(images[test_rows], labels[test_rows])
    label = "digits"
    if validation is not None:
        train, test = of_images(train.first(limit), validation)
    if size not in (None, 8):
        train, test, label = _resized(train, size), _resized(test, size), f"digits {size}x{size}"
    if validation is not None:
        label += f" ({validation:.3g} of training held out)"
    scaled = train.images.double() / 255
    mean, std = scaled.mean().item(), scaled.std(correction=0).item()
    if channels == 3:
        train, test = _coloured(train), _coloured(test)
    return Dataset(
        name="digits",
        label=label,
        train=train.first(limit),
        test=test.first(test_limit),
        classes=tuple(str(digit) for digit in range(10)),
        mean=(mean,) * (channels or 1),
        std=(std,) * (channels or 1),
        pad=1,
        flip=False,
    )


def _table(numpy: ModuleType) -> Any:
    """Read scikit-learn's file without importing scikit-learn, which takes seconds."""
    found = find_spec("sklearn")
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.exists():
            return numpy.loadtxt(path, delimiter=",")
    source = extra("sklearn.datasets", "to load digits").load_digits()
    return numpy.column_stack([source.data, source.target]).astype(float)


def _resized(digits: ImageSet, size: int) -> ImageSet:
    pillow = extra("PIL.Image", "to resize images")
    images = [
        as_tensor(fitted(pillow.fromarray(image[:, :, 0].numpy()), size), 1)
        for image in digits.images
    ]
    return ImageSet(torch.stack(images), digits.labels)


def _coloured(digits: ImageSet) -> ImageSet:
    return ImageSet(digits.images.expand(-1, -1, -1, 3).contiguous(), digits.labels)
