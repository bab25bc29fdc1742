"""From IDX files, as MNIST's relatives are published, to parquet in the hub's layout.

    python -m localgrad.data.idx /usr/share/datasets/fashion-mnist OUT

reads ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the two ``t10k-...`` files, each
with or without ``.gz``, and writes ``OUT/train-00000-of-00001.parquet`` and ``OUT/test-...``: a
column ``image`` (PNG) and a column ``label``. The IDX format: http://yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import argparse
import gzip
import io
import math
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from localgrad.data.extra import extra, no_bars_in_files
from localgrad.data.specs import FASHION_MNIST_CLASSES
from localgrad.errors import LocalgradError

_SPLITS = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTE = 0x08


def read_idx(file: Path) -> tuple[tuple[int, ...], bytes]:
    """The shape and the values of an IDX file of unsigned bytes, gzipped or not.

    Raises:
        LocalgradError: the file cannot be read, or is of another format or length.
    """
    try:
        data = file.read_bytes()
        if file.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise LocalgradError(f"{file}: cannot be read ({error})") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTE:
        raise LocalgradError(f"{file}: not an IDX file of unsigned bytes: download it again")
    dimensions = data[3]
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise LocalgradError(f"{file}: ends within its header: download it again")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise LocalgradError(
            f"{file}: {len(data) - start} bytes, where {math.prod(shape)} should follow the "
            f"header's {'x'.join(map(str, shape))}: download it again"
        )
    return shape, data[start:]


def convert(folder: Path, out: Path, classes: Sequence[str] = FASHION_MNIST_CLASSES) -> list[Path]:
    """Write ``train`` and ``test`` parquet files from a folder of IDX files.

    Args:
        folder: holds the four files.
        out: made if missing; existing parquet files are written anew.
        classes: names of the labels 0, 1, ...

    Returns:
        The files written.

    Raises:
        LocalgradError: a file is missing or damaged, images and labels differ in number, a
            label has no name, or ``out`` cannot be written.
    """
    datasets = extra("datasets", "to write parquet files")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(classes))}
    )
    splits = {split: _rows(folder, part, len(classes)) for split, part in _SPLITS.items()}
    written = []
    for split, rows in splits.items():
        target = out / f"{split}-00000-of-00001.parquet"
        try:
            out.mkdir(parents=True, exist_ok=True)
            with no_bars_in_files(datasets):
                datasets.Dataset.from_dict(rows, features=features).to_parquet(str(target))
        except OSError as error:
            raise LocalgradError(f"{target}: cannot be written ({error})") from error
        written.append(target)
    return written


def _rows(folder: Path, part: str, classes: int) -> dict[str, list[Any]]:
    images_file, labels_file = (
        _found(folder, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")
    )
    shape, pixels = read_idx(images_file)
    count, labels = read_idx(labels_file)
    if len(shape) != 3 or count != shape[:1]:
        raise LocalgradError(
            f"{labels_file}: shape {count} does not fit the images' {shape} (number, height, width)"
        )
    if labels and max(labels) >= classes:
        raise LocalgradError(
            f"{labels_file}: has label {max(labels)}, but {classes} class names: pass --classes"
        )
    number, height, width = shape
    area = height * width
    encoded = [_png(pixels[i * area : (i + 1) * area], (width, height)) for i in range(number)]
    return {"image": [{"bytes": png, "path": None} for png in encoded], "label": list(labels)}


def _found(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise LocalgradError(
        f"{folder}: no {name} or {name}.gz: pass the folder of the IDX files "
        "(Debian's package dataset-fashion-mnist puts them in /usr/share/datasets/fashion-mnist)"
    )


def _png(pixels: bytes, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    extra("PIL.Image", "to encode images").frombytes("L", size, pixels).save(buffer, "PNG")
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m localgrad.data.idx", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="of IDX files")
    parser.add_argument("out", type=Path, help="folder of the parquet files")
    parser.add_argument("--classes", help="names of the labels, with commas between")
    options = parser.parse_args(arguments)
    classes = options.classes.split(",") if options.classes else FASHION_MNIST_CLASSES
    try:
        for file in convert(options.folder, options.out, classes):
            print(file)
    except LocalgradError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
