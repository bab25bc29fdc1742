"""Data sets by name, read into memory or left to be streamed."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Literal

from localgrad.data import held_out
from localgrad.data.dataset import Dataset
from localgrad.data.decode import OnCorrupt
from localgrad.data.digits import load_digits
from localgrad.data.find import find
from localgrad.data.read import Read, Wanted, into_memory, to_stream
from localgrad.data.rows import Splits
from localgrad.data.specs import SPECS, Crop, Spec
from localgrad.data.validate import check_one_of, check_whole
from localgrad.errors import LocalgradError

Channels = Literal["rgb", "grey"]
_NUMBER = {"rgb": 3, "grey": 1}
_STREAMED_SIZE = 224  # of one's own images, where none is given


def names() -> tuple[str, ...]:
    """The names of data sets; ``text`` is read by :func:`localgrad.data.load_text`.

    >>> names()[:3]
    ('digits', 'cifar10', 'cifar100')
    """
    return ("digits", *SPECS, "text")


def load(
    name: str,
    path: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    test_limit: int | None = None,
    *,
    size: int | None = None,
    channels: Channels | None = None,
    stream: bool | None = None,
    crop: Crop | None = None,
    on_corrupt: OnCorrupt = "stop",
    validation: float | None = None,
) -> Dataset:
    """Find a data set, and read it into memory or leave it to be read while training.

    Args:
        name: one of :func:`names`; ``"folder"`` and ``"parquet"`` are one's own.
        path: a folder of parquet files in the Hugging Face layout or of images (``train/CLASS/``
            and ``test/CLASS/``, or ``CLASS/`` alone), or one that holds such a folder; a
            relative path is also looked up in ``LOCALGRAD_DATA``. Without a path, the folders
            named by ``LOCALGRAD_DATA`` are searched, and what is in none of them is downloaded.
            ``digits`` needs neither.
        limit: keep the first so many training images, at most all.
        test_limit: keep the first so many test images.
        size: pixels on each side to resize to; without it images keep their size, which must be
            one (ImageNet and one's own streamed images: 224).
        channels: make all images colour or grey; without it as published, or as one's own are.
        stream: read images while training; without it as the set needs (ImageNet: yes).
        crop: ``"pad"`` or ``"resized"``; without it as published, one's own as streamed or not.
        on_corrupt: ``"stop"`` at an image that cannot be decoded, or ``"skip"`` and name it.
        validation: test on this part of the training images, 0 to 1, drawn by a fixed seed; the
            test images are not read.

    Raises:
        LocalgradError: for an unknown name, a limit below 1, a folder or file that is missing,
            unreadable or not in the layout (it names the file and the row), images of different
            sizes or channels, a failed download, or a package that is not installed.

    >>> digits = load("digits", limit=100)
    >>> digits.train, digits.test, digits.image_shape
    (ImageSet(100 images of 8x8x1 on cpu), ImageSet(359 images of 8x8x1 on cpu), (1, 8, 8))
    """
    for option, value in (("limit", limit), ("test_limit", test_limit), ("size", size)):
        if value is not None:
            check_whole(option, value, least=1)
    check_one_of("channels", channels, (None, "rgb", "grey"))
    check_one_of("crop", crop, (None, "pad", "resized"))
    check_one_of("on_corrupt", on_corrupt, ("stop", "skip"))
    number = None if channels is None else _NUMBER[channels]
    if name == "digits":
        return _digits(path, limit, test_limit, size, number, stream, crop, validation)
    if name == "text":
        raise LocalgradError("text is no set of images: read it with load_text(path)")
    spec = SPECS.get(name)
    if spec is None:
        near = difflib.get_close_matches(str(name), names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise LocalgradError(f"unknown data set {name!r}: {hint}known are {', '.join(names())}")
    stream = spec.stream if stream is None else stream
    if crop is None:
        crop = "resized" if spec.hub_name is None and stream else spec.crop
    if crop == "resized" and not stream:
        raise LocalgradError(
            f"{name}: random parts, resized, are cut while reading: give --data.stream true, or "
            "--data.crop pad"
        )
    if number is None and spec.channels is not None:
        number = spec.channels
    found = find(spec, path, stream, test=validation is None)
    train, test = found.train.first(limit), found.test
    if validation is not None:
        train, test = held_out.of_rows(train, validation)
    test = test.first(test_limit)
    if crop == "resized":
        size = size or spec.size or _STREAMED_SIZE
    given = None if spec.mean is None or spec.std is None else (spec.mean, spec.std)
    wanted = Wanted(size, number, crop, on_corrupt, given)
    read = to_stream(train, test, wanted) if stream else into_memory(train, test, wanted)
    mean, std = read.normalisation
    return Dataset(
        name=name,
        label=_label(spec, found, read, size, validation),
        train=read.train,
        test=read.test,
        classes=found.classes or (),
        mean=mean,
        std=std,
        pad=min(read.train.image_shape[1:]) // 8 if spec.pad is None else spec.pad,
        padding=spec.padding,
        flip=spec.flip,
        source_format="+".join(sorted(read.formats)),
        skipped=read.skipped,
    )


def _label(
    spec: Spec, found: Splits, read: Read, size: int | None, validation: float | None
) -> str:
    own = f"{spec.name} {Path(found.where).name}"
    label = own if spec.hub_name is None else spec.name
    if size is not None and size != spec.size:
        label += f" {size}x{size}"
    notes = []
    if spec.is_lossless and "JPEG" in read.formats:
        notes.append("JPEG copy")
    if found.held_out:
        notes.append("1 in 5 held out")
    if validation is not None:
        notes.append(f"{validation:.3g} of training held out")
    return f"{label} ({', '.join(notes)})" if notes else label


def _digits(
    path: str | os.PathLike[str] | None,
    limit: int | None,
    test_limit: int | None,
    size: int | None,
    channels: int | None,
    stream: bool | None,
    crop: Crop | None,
    validation: float | None,
) -> Dataset:
    if path is not None:
        raise LocalgradError(
            f"digits comes with scikit-learn and reads no folder; got path {os.fspath(path)}: "
            "leave the path out"
        )
    if stream or crop == "resized":
        raise LocalgradError("digits is held in memory: leave out stream and crop")
    return load_digits(size, channels, limit, test_limit, validation)
