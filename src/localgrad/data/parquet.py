"""Image data sets in parquet files, laid out as on the Hugging Face hub.

Files named ``train-*.parquet`` and ``test-*.parquet`` (or ``train.parquet``, or files in a folder
``train``); in each a column ``img`` or ``image`` (a struct with the encoded ``bytes``) and a
column ``label`` (whole numbers). Class names come from the file's own description of its features.

A set in memory is read by pyarrow, whose tables can be had without a copy of the file in a cache
folder; a streamed one through ``datasets``, which writes such a copy once and maps it into memory,
so that single rows can be read in any order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from localgrad.data.extra import extra, no_bars_in_files
from localgrad.data.rows import ArrowSource, Rows, TableSource
from localgrad.data.specs import SPECS, Spec
from localgrad.errors import LocalgradError

_IMAGE_COLUMNS = ("img", "image")
_OTHER_TESTS = ("test", "validation", "valid", "val")
Files = dict[str, list[Path]]


def find_files(folder: Path, spec: Spec) -> Files | None:
    """The parquet files of each split, in ``folder`` or in one folder inside it.

    Looks in the folder inside that has the data set's name, the folders inside that, ``folder``
    itself, the one named as the set's configuration on the hub, then any one folder inside; a
    folder that has the name of another data set is never taken for this one.

    Args:
        folder: an existing folder.
        spec: the data set's.

    Returns:
        ``{"train": [...], "test": [...]}``, sorted by name; ``None`` if there is no such file.

    Raises:
        LocalgradError: if only one split is there, or several folders could be meant.
    """
    tests = test_names(spec)
    own = folder / spec.name
    configured = [parent / spec.config for parent in (own, folder) if spec.config]
    for candidate in (own, *configured[:1], *_folders(own), folder, *configured[1:]):
        if _is_anothers(candidate, spec):
            continue
        if found := _splits_in(candidate, tests):
            return _complete(candidate, found, tests)
    others = [
        (inner, found)
        for inner in _folders(folder)
        if not _is_anothers(inner, spec) and (found := _splits_in(inner, tests))
    ]
    if len(others) > 1:
        seen = ", ".join(inner.name for inner, _ in others)
        raise LocalgradError(
            f"{folder}: several folders hold parquet files ({seen}): pass the one of {spec.name}"
        )
    return _complete(*others[0], tests) if others else None


def _is_anothers(folder: Path, spec: Spec) -> bool:
    """Whether the folder's name is that of another published data set."""
    named = SPECS.get(folder.name)
    return spec.hub_name is not None and named is not None and named.name != spec.name


def test_names(spec: Spec) -> list[str]:
    """The names that the split to test on may have, the set's own first."""
    return list(dict.fromkeys((spec.test_split, *_OTHER_TESTS)))


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _splits_in(folder: Path, tests: Sequence[str]) -> Files:
    found: Files = {}
    for split in ("train", *tests):
        patterns = (f"{split}-*.parquet", f"{split}.parquet", f"{split}/*.parquet")
        files = sorted(file for pattern in patterns for file in folder.glob(pattern))
        if files:
            found.setdefault("train" if split == "train" else "test", files)
    return found


def _complete(folder: Path, found: Files, tests: Sequence[str]) -> Files:
    for split, names in (("train", ["train"]), ("test", tests)):
        if split not in found:
            others = f" ({', '.join(names[1:])} will do too)" if names[1:] else ""
            raise LocalgradError(
                f"{folder}: no {names[0]}-*.parquet beside "
                f"{next(iter(found.values()))[0].name}: add it{others}"
            )
    return found


def read_rows(files: Sequence[Path], spec: Spec) -> tuple[Rows, tuple[str, ...] | None]:
    """The rows of a split's files, in memory, and the names of the classes where a file has them.

    Raises:
        LocalgradError: if a file cannot be read, or lacks a column.
    """
    sources, labels, classes = [], [], None
    for file in files:
        table = _read(file, spec)
        source, found = from_table(table, str(file), spec)
        sources.append(source)
        labels.append(found)
        classes = classes or _class_names(table, spec.label_column)
    return Rows(sources, torch.cat(labels)), classes


def _read(file: Path, spec: Spec) -> Any:
    parquet = extra("pyarrow.parquet", "to read parquet files")
    arrow = extra("pyarrow", "to read parquet files")
    try:
        with parquet.ParquetFile(file) as opened:
            present = set(opened.schema_arrow.names)
            wanted = (*_IMAGE_COLUMNS, spec.label_column)
            return opened.read([column for column in wanted if column in present])
    # ValueError: column names that damage left unreadable.
    except (arrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise LocalgradError(f"{file}: not a readable parquet file ({reason})") from error


def from_table(table: Any, where: str, spec: Spec) -> tuple[TableSource, Tensor]:
    """The images and labels of a ``pyarrow.Table``.

    Args:
        table: with the columns of the layout.
        where: the file, for errors.
        spec: the data set's.

    Raises:
        LocalgradError: if a column is missing or holds something else.
    """
    compute = extra("pyarrow.compute", "to read parquet files")
    column = _image_column(table.column_names, where)
    arrow = extra("pyarrow", "to read parquet files")
    images = table.column(column)
    if not _is_encoded(arrow, images.type):
        raise LocalgradError(
            f"{where}: column {column} holds {images.type}, not a struct with binary bytes: "
            "write the encoded images"
        )
    labels = _labels(table, where, spec.label_column)
    encoded = compute.struct_field(images, "bytes").to_pylist()
    return TableSource(where, encoded), labels


def from_dataset(dataset: Any, where: str, spec: Spec) -> tuple[Rows, tuple[str, ...] | None]:
    """The rows of a ``datasets.Dataset``, left where they are, and the names of the classes.

    Raises:
        LocalgradError: if a column is missing or holds something else.
    """
    datasets = extra("datasets", "to stream images")
    column = _image_column(dataset.column_names, where)
    if spec.label_column not in dataset.column_names:
        raise _missing(where, spec.label_column, "whole numbers")
    feature = dataset.features[spec.label_column]
    labels = _labels(
        dataset.select_columns([spec.label_column]).with_format("arrow")[:],
        where,
        spec.label_column,
    )
    # As stored: the library would decode each image to an object of its own.
    encoded = dataset.cast_column(column, datasets.Image(decode=False))
    names = getattr(feature, "names", None)
    return Rows([ArrowSource(where, encoded, column)], labels), tuple(names) if names else None


def stream_rows(files: Files, spec: Spec) -> dict[str, tuple[Rows, tuple[str, ...] | None]]:
    """The rows of both splits, mapped into memory by ``datasets``.

    Raises:
        LocalgradError: as :func:`read_rows`.
    """
    datasets = extra("datasets", "to stream images")
    paths = {split: [str(file) for file in found] for split, found in files.items()}
    try:
        with no_bars_in_files(datasets):
            splits = datasets.load_dataset("parquet", data_files=paths)
    except Exception as error:  # the library passes on whatever its readers raise
        cause = error.__cause__ or error
        reason = str(cause).strip().partition("\n")[0]
        raise LocalgradError(
            f"{files['train'][0].parent}: cannot be read as parquet files "
            f"({type(cause).__name__}: {reason})"
        ) from error
    where = files["train"][0].parent
    return {split: from_dataset(splits[split], f"{where} ({split})", spec) for split in files}


def _class_names(table: Any, column: str) -> tuple[str, ...] | None:
    """The names that ``datasets`` has written into the file."""
    written = (table.schema.metadata or {}).get(b"huggingface", b"")
    try:
        names = json.loads(written)["info"]["features"][column]["names"]
    except (TypeError, ValueError, KeyError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _image_column(present: Sequence[str], where: str) -> str:
    column = next((name for name in _IMAGE_COLUMNS if name in present), None)
    if column is None:
        raise _missing(where, "img or image", "a struct with the field bytes")
    return column


def _labels(table: Any, where: str, column: str) -> Tensor:
    arrow = extra("pyarrow", "to read parquet files")
    if column not in table.column_names:
        raise _missing(where, column, "whole numbers")
    labels = table.column(column)
    if not arrow.types.is_integer(labels.type) or labels.null_count:
        raise LocalgradError(
            f"{where}: column {column} holds {labels.type} with {labels.null_count} missing; it "
            "must hold whole numbers, one for each row"
        )
    return torch.tensor(labels.to_pylist(), dtype=torch.int64)


def _is_encoded(arrow: ModuleType, kind: Any) -> bool:
    if not arrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    field = kind.field("bytes").type
    return bool(arrow.types.is_binary(field) or arrow.types.is_large_binary(field))


def _missing(where: str, column: str, holding: str) -> LocalgradError:
    return LocalgradError(
        f"{where}: no column {column} ({holding}): write the file in the Hugging Face layout"
    )
