"""Data sets by name, and where their files are looked for."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from localgrad.data.digits import load_digits
from localgrad.data.encoded import EncodedRows, decode
from localgrad.data.hub import download
from localgrad.data.image_set import Dataset, ImageSet
from localgrad.data.parquet import find_splits, read_rows
from localgrad.data.validate import check_labels, check_whole
from localgrad.errors import LocalgradError

FOLDER_VARIABLE = "LOCALGRAD_DATA"


@dataclass(frozen=True)
class Published:
    """A data set of encoded images, as its authors published it; fields as in ``Dataset``."""

    name: str
    hub_name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool
    is_lossless: bool


#: CIFAR-10 (Krizhevsky 2009); crop and flip as in He et al. 2016, section 4.2.
CIFAR10 = Published(
    name="cifar10",
    hub_name="uoft-cs/cifar10",
    classes=(
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    pad=4,
    flip=True,
    is_lossless=True,
)

_PUBLISHED = MappingProxyType({published.name: published for published in (CIFAR10,)})


def names() -> tuple[str, ...]:
    """The names of data sets; ``text`` is read by :func:`localgrad.data.load_text`.

    >>> names()
    ('digits', 'cifar10', 'text')
    """
    return ("digits", *_PUBLISHED, "text")


def load(
    name: str,
    path: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    test_limit: int | None = None,
) -> Dataset:
    """Read a data set into memory.

    Args:
        name: one of :func:`names`.
        path: a folder of parquet files in the Hugging Face layout, or one that holds such a
            folder; a relative path is also looked up in ``LOCALGRAD_DATA``. Without a path, the
            folders named by ``LOCALGRAD_DATA`` are searched, and what is in none of them is
            downloaded. ``digits`` needs neither.
        limit: keep the first so many training images, at most all.
        test_limit: keep the first so many test images.

    Raises:
        LocalgradError: for an unknown name, a limit below 1, a folder or file that is missing,
            unreadable or not in the layout (it names the file and the row), a failed download,
            or a package that is not installed.

    >>> digits = load("digits", limit=100)
    >>> digits.train, digits.test, digits.image_shape
    (ImageSet(100 images of 8x8x1 on cpu), ImageSet(359 images of 8x8x1 on cpu), (1, 8, 8))
    """
    for option, value in (("limit", limit), ("test_limit", test_limit)):
        if value is not None:
            check_whole(option, value, least=1)
    if name == "digits":
        if path is not None:
            raise LocalgradError(
                f"digits comes with scikit-learn and reads no folder; got path {os.fspath(path)}: "
                "leave the path out"
            )
        data = load_digits()
        return replace(data, train=_first(data.train, limit), test=_first(data.test, test_limit))
    if name == "text":
        raise LocalgradError("text is no set of images: read it with load_text(path)")
    published = _PUBLISHED.get(name)
    if published is None:
        near = difflib.get_close_matches(str(name), names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise LocalgradError(f"unknown data set {name!r}: {hint}known are {', '.join(names())}")
    splits = _splits(published, path)
    train, train_format = _decoded(published, splits["train"], limit)
    test, test_format = _decoded(published, splits["test"], test_limit)
    found = "+".join(sorted({*train_format.split("+"), *test_format.split("+")}))
    is_lossy_copy = published.is_lossless and "JPEG" in found
    return Dataset(
        name=name,
        label=f"{name} (JPEG copy)" if is_lossy_copy else name,
        train=train,
        test=test,
        classes=published.classes,
        mean=published.mean,
        std=published.std,
        pad=published.pad,
        flip=published.flip,
        source_format=found,
    )


def _splits(
    published: Published, path: str | os.PathLike[str] | None
) -> dict[str, list[EncodedRows]]:
    if path is not None:
        folder = _existing(Path(path).expanduser())
        files = find_splits(folder, published.name)
        if files is None:
            raise LocalgradError(
                f"{folder}: no train-*.parquet or test-*.parquet in it or in a folder inside it: "
                f"pass the folder of {published.name}'s parquet files"
            )
        return _read(files)
    for folder in _roots():
        if folder.is_dir() and (files := find_splits(folder, published.name)):
            return _read(files)
    return download(published.hub_name)


def _roots() -> list[Path]:
    listed = os.environ.get(FOLDER_VARIABLE, "").split(os.pathsep)
    return [Path(folder).expanduser() for folder in listed if folder]


def _existing(folder: Path) -> Path:
    for candidate in (folder, *(root / folder for root in _roots())):
        if candidate.is_dir():
            return candidate
        if candidate.exists():
            raise LocalgradError(f"{candidate}: a file, where a folder of parquet files must be")
    raise LocalgradError(f"{folder}: no such folder: pass an existing one with parquet files")


def _read(files: dict[str, list[Path]]) -> dict[str, list[EncodedRows]]:
    return {split: [read_rows(file) for file in paths] for split, paths in files.items()}


def _decoded(
    published: Published, files: Sequence[EncodedRows], limit: int | None
) -> tuple[ImageSet, str]:
    kept = []
    left = limit
    for rows in files:
        check_labels(rows.labels, len(published.classes), rows.where)
        kept.append(rows if left is None else rows.first(left))
        if left is not None:
            left -= len(kept[-1].labels)
    images, found = decode(kept, channels=len(published.mean))
    return ImageSet(images, torch.cat([rows.labels for rows in kept])), found


def _first(images: ImageSet, limit: int | None) -> ImageSet:
    return images if limit is None else ImageSet(images.images[:limit], images.labels[:limit])
