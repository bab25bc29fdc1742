"""From rows of encoded images to sets that batches are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from localgrad.data.decode import (
    CorruptImage,
    OnCorrupt,
    channels_of,
    converted,
    corrupt,
    decode,
    read_image,
)
from localgrad.data.image_set import ImageSet
from localgrad.data.rows import Rows
from localgrad.data.specs import Crop
from localgrad.data.statistics import Pair, of_pixels, of_sample
from localgrad.data.stream import StreamedSet
from localgrad.errors import LocalgradError


@dataclass(frozen=True)
class Wanted:
    """How images are to be read.

    Attributes:
        size: pixels on each side; ``None`` for their own.
        channels: 1 or 3; ``None`` for their own.
        crop: as in ``StreamedSet``.
        on_corrupt: ``"stop"`` or ``"skip"``.
        normalisation: mean and standard deviation, where they are published.
    """

    size: int | None
    channels: int | None
    crop: Crop
    on_corrupt: OnCorrupt
    normalisation: Pair | None


@dataclass(frozen=True, eq=False)
class Read:
    """Both splits, and what was found in reading them; as in ``Dataset``."""

    train: ImageSet | StreamedSet
    test: ImageSet | StreamedSet
    normalisation: Pair
    formats: frozenset[str]
    skipped: Mapping[str, str] = field(default_factory=dict)


def into_memory(train_rows: Rows, test_rows: Rows, wanted: Wanted) -> Read:
    """Decode both splits.

    Raises:
        LocalgradError: as :func:`localgrad.data.decode.decode`.
    """
    train = decode(train_rows, wanted.channels, wanted.size, wanted.on_corrupt)
    test = decode(test_rows, wanted.channels, wanted.size, wanted.on_corrupt)
    given = wanted.normalisation
    if given is None or len(given[0]) != train.channels:
        given = of_pixels([train.images.images])
    formats = frozenset(train.formats | test.formats)
    return Read(train.images, test.images, given, formats, train.skipped | test.skipped)


def to_stream(train_rows: Rows, test_rows: Rows, wanted: Wanted) -> Read:
    """Look at the first image of both splits, and leave the others where they are.

    Raises:
        LocalgradError: for a first image that cannot be decoded, unless such are skipped.
    """
    train, encoding = _set(train_rows, wanted, wanted.channels)
    test, other = _set(test_rows, wanted, train.image_shape[0])
    given = wanted.normalisation
    if given is None or len(given[0]) != train.image_shape[0]:
        given = of_sample(train)
    return Read(train, test, given, frozenset({encoding, other}))


def _set(rows: Rows, wanted: Wanted, channels: int | None) -> tuple[StreamedSet, str]:
    """The set, and the encoding of its first image that can be decoded."""
    for row in range(len(rows)):
        name = rows.name(row)
        try:
            image = read_image(rows, row)
            encoding = image.format or "unknown"
            found = channels_of(image, name) if channels is None else channels
            image = converted(image, found, name)
        except CorruptImage as error:
            if wanted.on_corrupt == "stop":
                raise corrupt(name, str(error)) from error
            continue
        width, height = image.size if wanted.size is None else (wanted.size, wanted.size)
        images = StreamedSet(
            rows,
            (found, height, width),
            wanted.crop,
            wanted.size,
            wanted.channels is not None,
            wanted.on_corrupt,
        )
        return images, encoding
    where = rows.name(0) if len(rows) else "a split"
    raise LocalgradError(f"{where}: no image that can be decoded: pass files with images")
