"""Where a data set's files are: a path, ``LOCALGRAD_DATA``, or the hub."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from localgrad.data.folder import find_images
from localgrad.data.hub import download
from localgrad.data.parquet import (
    Files,
    find_files,
    from_dataset,
    from_table,
    read_rows,
    stream_rows,
    test_names,
)
from localgrad.data.rows import Rows, Splits
from localgrad.data.specs import Spec
from localgrad.data.validate import check_labels
from localgrad.errors import LocalgradError

FOLDER_VARIABLE = "LOCALGRAD_DATA"
_NONE = Rows([], torch.empty(0, dtype=torch.int64))


def find(
    spec: Spec, path: str | os.PathLike[str] | None, stream: bool, test: bool = True
) -> Splits:
    """The rows of a data set.

    Args:
        spec: which.
        path: a folder of parquet files or of images, or one that holds such a folder; a
            relative path is also looked up in ``LOCALGRAD_DATA``. Without a path, the folders
            named by ``LOCALGRAD_DATA`` are searched, then the hub is asked.
        stream: leave the images where they are.
        test: read the test rows too; without it there are none.

    Raises:
        LocalgradError: nothing is found, or what is found is not in a known layout.
    """
    if path is not None:
        return _in_order(spec, _given(spec, _existing(Path(path).expanduser()), stream, test))
    if spec.hub_name is None:
        raise LocalgradError(f"{spec.name} needs --data.path: the folder of your {_kinds(spec)}")
    for folder in _roots():
        if not folder.is_dir():
            continue
        if files := find_files(folder, spec):
            return _in_order(spec, _parquet(files, spec, stream, test))
        if found := find_images(folder / spec.name, test_names(spec)):
            return _in_order(spec, found if test else replace(found, test=_NONE))
    return _in_order(spec, _downloaded(spec, stream, test))


def _given(spec: Spec, folder: Path, stream: bool, test: bool) -> Splits:
    if spec.name != "folder" and (files := find_files(folder, spec)):
        return _parquet(files, spec, stream, test)
    if spec.name != "parquet":
        for candidate in (folder, folder / spec.name):
            if found := find_images(candidate, test_names(spec)):
                return found if test else replace(found, test=_NONE)
    wanted = {
        "folder": "no folders of images in it, neither train/CLASS/... nor CLASS/...",
        "parquet": "no train-*.parquet or test-*.parquet in it or in a folder inside it",
    }
    problem = wanted.get(
        spec.name,
        "no train-*.parquet or test-*.parquet in it or in a folder inside it, and no folders of "
        "images",
    )
    raise LocalgradError(f"{folder}: {problem}: pass the folder of {_whose(spec)} {_kinds(spec)}")


def _whose(spec: Spec) -> str:
    return "your" if spec.hub_name is None else f"{spec.name}'s"


def _kinds(spec: Spec) -> str:
    return {"folder": "images", "parquet": "parquet files"}.get(
        spec.name, "parquet files or images"
    )


def _parquet(files: Files, spec: Spec, stream: bool, test: bool) -> Splits:
    where = str(files["train"][0].parent)
    files = files if test else {"train": files["train"]}
    if stream:
        found = stream_rows(files, spec)
    else:
        found = {split: read_rows(paths, spec) for split, paths in files.items()}
    (train, classes), (rows, others) = found["train"], found.get("test", (_NONE, None))
    return Splits(where, train, rows, classes or others)


def _downloaded(spec: Spec, stream: bool, test: bool) -> Splits:
    found = {}
    for split, dataset in download(spec).items():
        if split == "test" and not test:
            continue
        where = f"{spec.hub_name} ({split})"
        rows, classes = from_dataset(dataset, where, spec)
        if not stream:
            source, labels = from_table(dataset.with_format("arrow")[:], where, spec)
            rows = Rows([source], labels)
        found[split] = (rows, classes)
    (train, classes), (rows, others) = found["train"], found.get("test", (_NONE, None))
    return Splits(str(spec.hub_name), train, rows, classes or others)


def _in_order(spec: Spec, found: Splits) -> Splits:
    """With names for all classes, in the published order where there is one; checked."""
    classes = found.classes or spec.classes
    if classes is None:
        top = max(int(rows.labels.max()) if len(rows) else 0 for rows in (found.train, found.test))
        classes = tuple(str(label) for label in range(top + 1))
    if spec.classes and len(classes) != len(spec.classes):
        raise LocalgradError(
            f"{found.where}: has {len(classes)} classes, but {spec.name} {len(spec.classes)}: pass "
            f"the folder of {spec.name}, or choose --data.name folder or parquet"
        )
    train, test = found.train, found.test
    if spec.classes and classes != spec.classes and set(classes) == set(spec.classes):
        to = torch.tensor([spec.classes.index(name) for name in classes])
        train, test = (Rows(rows.sources, to[rows.labels]) for rows in (train, test))
        classes = spec.classes
    for rows in (train, test):
        _check_rows(rows, len(classes))
    if spec.hub_name is None:
        _check_all_there(found, classes)
    return Splits(found.where, train, test, classes, found.held_out)


def _check_rows(rows: Rows, number: int) -> None:
    start = 0
    for source in rows.sources:
        labels = rows.labels[start : start + len(source)]
        check_labels(labels, number, source.where)
        start += len(source)


def _check_all_there(found: Splits, classes: tuple[str, ...]) -> None:
    """One's own data must have two classes or more, each with images to train on."""
    if len(classes) < 2:
        raise LocalgradError(
            f"{found.where}: one class, {classes[0]}: a classifier needs two or more"
        )
    counts = torch.bincount(found.train.labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
    if empty:
        raise LocalgradError(
            f"{found.where}: no training image of class {empty[0]}: add some, or number the "
            "labels 0, 1, ... without gaps"
        )


def _roots() -> list[Path]:
    listed = os.environ.get(FOLDER_VARIABLE, "").split(os.pathsep)
    return [Path(folder).expanduser() for folder in listed if folder]


def _existing(folder: Path) -> Path:
    for candidate in (folder, *(root / folder for root in _roots())):
        if candidate.is_dir():
            return candidate
        if candidate.exists():
            raise LocalgradError(
                f"{candidate}: a file, where a folder of parquet files or images must be"
            )
    raise LocalgradError(
        f"{folder}: no such folder: pass an existing one with parquet files or images"
    )
