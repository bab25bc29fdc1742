"""A validation part taken from the training data, for choices that must not see the test data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from localgrad.data.image_set import ImageSet
from localgrad.data.rows import Rows
from localgrad.data.text import TextDataset
from localgrad.data.windows import Windows
from localgrad.errors import LocalgradError

_SEED = 20231  # one draw for all: results of different seeds are of the same images


def draw(count: int, share: float) -> tuple[Tensor, Tensor]:
    """Return the rows to train on and the rows to hold out, each in stored order.

    Args:
        count: number of training rows.
        share: part to hold out, between 0 and 1.

    Raises:
        LocalgradError: nothing would be left on one side.

    >>> [len(rows) for rows in draw(50, 0.1)]
    [45, 5]
    """
    number = round(count * share)
    if not 0 < number < count:
        raise LocalgradError(
            f"a validation part of {share:g} of {count} training rows leaves "
            f"{'none to train on' if number else 'none to test on'}: change it, or take more rows"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))
    return order[number:].sort().values, order[:number].sort().values


@dataclass(frozen=True, eq=False)
class PickedSource:
    """Some rows of other rows, in any order."""

    rows: Rows
    picked: Tensor

    @property
    def where(self) -> str:
        """File, folder or repository, for errors."""
        return self.rows.sources[0].where

    def __len__(self) -> int:
        return len(self.picked)

    def read(self, row: int) -> bytes | None:
        """The encoded image; ``None`` where the row has none."""
        return self.rows.read(int(self.picked[row]))

    def name(self, row: int) -> str:
        """The image's name, for errors."""
        return self.rows.name(int(self.picked[row]))


def of_rows(rows: Rows, share: float) -> tuple[Rows, Rows]:
    """Return the rows to train on, and those held out."""
    train, rest = (
        Rows([PickedSource(rows, picked)], rows.labels[picked]) for picked in draw(len(rows), share)
    )
    return train, rest


def of_images(images: ImageSet, share: float) -> tuple[ImageSet, ImageSet]:
    """Return the images to train on, and those held out."""
    train, rest = (
        ImageSet(images.images[picked], images.labels[picked])
        for picked in draw(len(images), share)
    )
    return train, rest


def of_text(text: TextDataset, share: float) -> TextDataset:
    """Return the text with the end of its training part in its test part's place.

    Not a random part: neighbouring text would leak into it.
    """
    context = text.context
    windows = len(text.train)
    held_out = round(windows * share)
    count = windows - held_out
    tokens = text.train.tokens
    # a shifted epoch reads up to one window more than it has
    cut = (count + 1) * context
    rest = tokens[cut : cut + held_out * context + 1]
    if count < 1 or len(rest) <= context:
        raise LocalgradError(
            f"a validation part of {share:g} of {windows} windows leaves none on one side: change "
            "it, or take a longer text"
        )
    return replace(
        text,
        label=f"{text.label}, {share:.3g} of training held out",
        train=Windows(tokens[:cut], context, count),
        test=Windows(rest, context, (len(rest) - 1) // context),
    )
