"""scikit-learn's handwritten digits: a small data set that needs no file and no network."""

from __future__ import annotations

import torch

from localgrad.data.extra import extra
from localgrad.data.image_set import Dataset, ImageSet


def load_digits() -> Dataset:
    """1797 grey images of 8x8 pixels, split in two by a fixed draw.

    The test of the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin and Kaynak,
    1998), as scikit-learn ships it; values 0 to 16 are spread over 0 to 255. One image in five
    of each class is held out for testing. Both splits are in a fixed random order.
    """
    numpy = extra("numpy", "to load digits")
    source = extra("sklearn.datasets", "to load digits").load_digits()
    labels = torch.from_numpy(source.target).long()
    images = torch.from_numpy(source.images)
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
    scaled = train.images.double() / 255
    return Dataset(
        name="digits",
        label="digits",
        train=train,
        test=ImageSet(images[test_rows], labels[test_rows]),
        classes=tuple(str(digit) for digit in range(10)),
        mean=(scaled.mean().item(),),
        std=(scaled.std(correction=0).item(),),
        pad=1,
        flip=False,
    )
