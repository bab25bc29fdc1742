"""Rows of encoded images with their labels, wherever they lie: in memory, in files, in a table."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Source(Protocol):
    """Encoded images that can be read in any order, from several processes."""

    @property
    def where(self) -> str:
        """File, folder or repository, for errors."""

    def __len__(self) -> int: ...

    def read(self, row: int) -> bytes | None:
        """The encoded image; ``None`` where the row has none. May raise ``OSError``."""

    def name(self, row: int) -> str:
        """The image's name, for errors."""


@dataclass(frozen=True, eq=False)
class TableSource:
    """Images of one file, held in memory."""

    where: str
    images: Sequence[bytes | None]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, row: int) -> bytes | None:
        """The encoded image."""
        return self.images[row]

    def name(self, row: int) -> str:
        """File and row."""
        return f"{self.where}: row {row}"


@dataclass(frozen=True, eq=False)
class ArrowSource:
    """Images of a ``datasets.Dataset``, which maps its file into memory."""

    where: str
    dataset: Any
    column: str

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, row: int) -> bytes | None:
        """The encoded image."""
        found: bytes | None = self.dataset[row][self.column]["bytes"]
        return found

    def name(self, row: int) -> str:
        """Data set and row."""
        return f"{self.where}: row {row}"


class FileSource:
    """Images that are files.

    The paths lie in one block of bytes: a list of a million strings would be copied into every
    worker process, page by page, as their reference counts change.
    """

    def __init__(self, root: str, paths: Sequence[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self.where = root
        self._block = b"".join(encoded)
        self._ends = torch.tensor([0, *itertools.accumulate(map(len, encoded))])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def read(self, row: int) -> bytes | None:
        """The file's bytes."""
        with open(self.name(row), "rb") as file:
            return file.read()

    def name(self, row: int) -> str:
        """The file's path."""
        start, end = self._ends[row : row + 2].tolist()
        return os.path.join(self.where, os.fsdecode(self._block[start:end]))


class Rows:
    """The rows of one or more sources, one after the other.

    Args:
        sources: where the images are.
        labels: int64 ``(rows,)``; fewer than the sources have leaves out the rest.
    """

    def __init__(self, sources: Sequence[Source], labels: Tensor) -> None:
        self.sources, self.labels = tuple(sources), labels
        self._ends = list(itertools.accumulate(len(source) for source in self.sources))

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, row: int) -> bytes | None:
        """The encoded image of a row; ``None`` where it has none."""
        source, inner = self._place(row)
        return source.read(inner)

    def name(self, row: int) -> str:
        """The name of a row's image, for errors."""
        source, inner = self._place(row)
        return source.name(inner)

    def first(self, number: int | None) -> Rows:
        """The first ``number`` rows; all for ``None``."""
        return self if number is None else Rows(self.sources, self.labels[:number])

    def _place(self, row: int) -> tuple[Source, int]:
        part = bisect.bisect_right(self._ends, row)
        return self.sources[part], row - (self._ends[part - 1] if part else 0)


@dataclass(frozen=True, eq=False)
class Splits:
    """What was found of a data set.

    Attributes:
        where: folder or repository, for errors.
        train: training rows.
        test: test rows.
        classes: their names, where the data says.
        held_out: whether the test rows were taken from the training rows.
    """

    where: str
    train: Rows
    test: Rows
    classes: tuple[str, ...] | None
    held_out: bool = False
