"""Image data sets in parquet files, laid out as on the Hugging Face hub.

Files named ``train-*.parquet`` and ``test-*.parquet``; in each a column ``img`` or ``image`` (a
struct with the encoded ``bytes``) and a column ``label`` (whole numbers).
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from localgrad.data.encoded import EncodedRows
from localgrad.data.extra import extra
from localgrad.errors import LocalgradError

_SPLITS = ("train", "test")
_IMAGE_COLUMNS = ("img", "image")


def find_splits(folder: Path, name: str) -> dict[str, list[Path]] | None:
    """The parquet files of each split, in ``folder`` or in one folder inside it.

    Looks in ``folder/name``, the folders inside that, then ``folder`` itself, then any one folder
    inside it.

    Args:
        folder: an existing folder.
        name: the data set's.

    Returns:
        ``{"train": [...], "test": [...]}``, sorted by name; ``None`` if there is no such file.

    Raises:
        LocalgradError: if only one split is there, or several folders could be meant.
    """
    own = folder / name
    for candidate in (own, *_folders(own), folder):
        if found := _splits_in(candidate):
            return _complete(candidate, found)
    others = [(inner, found) for inner in _folders(folder) if (found := _splits_in(inner))]
    if len(others) > 1:
        seen = ", ".join(inner.name for inner, _ in others)
        raise LocalgradError(
            f"{folder}: several folders hold parquet files ({seen}): pass the one of {name}"
        )
    return _complete(*others[0]) if others else None


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _splits_in(folder: Path) -> dict[str, list[Path]]:
    files = {split: sorted(folder.glob(f"{split}-*.parquet")) for split in _SPLITS}
    return {split: paths for split, paths in files.items() if paths}


def _complete(folder: Path, found: dict[str, list[Path]]) -> dict[str, list[Path]]:
    for split in _SPLITS:
        if split not in found:
            raise LocalgradError(
                f"{folder}: no {split}-*.parquet beside {next(iter(found.values()))[0].name}: "
                "add it"
            )
    return found


def read_rows(file: Path) -> EncodedRows:
    """The images and labels of one file.

    Raises:
        LocalgradError: if the file cannot be read, or lacks a column.
    """
    parquet = extra("pyarrow.parquet", "to read parquet files")
    arrow = extra("pyarrow", "to read parquet files")
    try:
        with parquet.ParquetFile(file) as opened:
            present = set(opened.schema_arrow.names)
            table = opened.read([c for c in (*_IMAGE_COLUMNS, "label") if c in present])
    # ValueError: column names that damage left unreadable.
    except (arrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise LocalgradError(f"{file}: not a readable parquet file ({reason})") from error
    return rows_of(table, str(file))


def rows_of(table: Any, where: str) -> EncodedRows:
    """The images and labels of a ``pyarrow.Table``.

    Args:
        table: with the columns of the layout.
        where: the file, for errors.

    Raises:
        LocalgradError: if a column is missing or holds something else.
    """
    arrow = extra("pyarrow", "to read parquet files")
    compute = extra("pyarrow.compute", "to read parquet files")
    column = next((name for name in _IMAGE_COLUMNS if name in table.column_names), None)
    if column is None:
        raise _missing(where, "img or image", "a struct with the field bytes")
    images = table.column(column)
    if not _is_encoded(arrow, images.type):
        raise LocalgradError(
            f"{where}: column {column} holds {images.type}, not a struct with binary bytes: "
            "write the encoded images"
        )
    if "label" not in table.column_names:
        raise _missing(where, "label", "whole numbers")
    labels = table.column("label")
    if not arrow.types.is_integer(labels.type) or labels.null_count:
        raise LocalgradError(
            f"{where}: column label holds {labels.type} with {labels.null_count} missing; it "
            "must hold whole numbers, one for each row"
        )
    encoded = compute.struct_field(images, "bytes").to_pylist()
    return EncodedRows(where, encoded, torch.tensor(labels.to_pylist(), dtype=torch.int64))


def _is_encoded(arrow: ModuleType, kind: Any) -> bool:
    if not arrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    field = kind.field("bytes").type
    return bool(arrow.types.is_binary(field) or arrow.types.is_large_binary(field))


def _missing(where: str, column: str, holding: str) -> LocalgradError:
    return LocalgradError(
        f"{where}: no column {column} ({holding}): write the file in the Hugging Face layout"
    )
