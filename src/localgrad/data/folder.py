"""Image folders: one folder a class, under ``train/`` and ``test/`` or by themselves.

``datasets``' own reader ("imagefolder") takes 43 s of processor time to find 60,000 files, anew on
every run, against 0.6 s here; it leaves out files that are no images without a word, and classes
without images too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from localgrad.data.rows import FileSource, Rows, Splits
from localgrad.errors import LocalgradError

TEST_NAMES = ("test", "validation", "val", "valid")
_ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".tif", ".tiff"),
)
_HELD_OUT = 5  # one in so many


def find_images(folder: Path, test_names: Sequence[str] = TEST_NAMES) -> Splits | None:
    """The images in ``folder``; ``None`` where it does not look like an image folder.

    Below a class's folder any depth will do; names that begin with a dot are passed over. Rows
    are ordered by a hash of the file's path inside its split, so that the first N are a fair
    sample. Without ``train/``, the first fifth of each class in that order is held out to test.

    Args:
        folder: holds ``train`` and one of ``test_names``, or the classes' folders.
        test_names: names for the folder of test images, the first one found is taken.

    Raises:
        LocalgradError: a split is missing, a class has no image, there are fewer than two
            classes, a file is no image by its name, or an image is in no class's folder.
    """
    inside = _folders(folder)
    tests = [name for name in test_names if name in inside]
    if "train" in inside:
        if not _folders(folder / "train"):
            return None
        if not tests:
            raise LocalgradError(
                f"{folder}: train but none of {', '.join(test_names)} beside it: add test images, "
                f"or pass {folder / 'train'}, of which one in {_HELD_OUT} is held out to test"
            )
        found = _files(folder / "train")
        held = _files(folder / tests[0], known=list(found))
        train, test, classes = folder / "train", folder / tests[0], tuple(found)
        return Splits(
            str(folder),
            _rows(train, found, classes),
            _rows(test, held, classes),
            classes,
        )
    if tests and _folders(folder / tests[0]):
        raise LocalgradError(f"{folder}: {tests[0]} but no train beside it: add it")
    if not any(_has_image(folder / name) for name in inside):
        return None
    found = _files(folder)
    classes = tuple(found)
    few = [name for name in classes if len(found[name]) < 2]
    if few:
        raise LocalgradError(
            f"{folder}: class {few[0]} has one image: it needs two, one of them to test"
        )
    cut = {name: max(1, round(len(files) / _HELD_OUT)) for name, files in found.items()}
    train_files = {name: files[cut[name] :] for name, files in found.items()}
    test_files = {name: files[: cut[name]] for name, files in found.items()}
    return Splits(
        str(folder),
        _rows(folder, train_files, classes),
        _rows(folder, test_files, classes),
        classes,
        held_out=True,
    )


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _has_image(folder: Path) -> bool:
    return any(
        name.lower().endswith(_ENDINGS)
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names
    )


def _files(split: Path, known: list[str] | None = None) -> dict[str, list[str]]:
    """The files of each class, as paths inside ``split``, in the order of their hashes."""
    classes = _folders(split)
    with os.scandir(split) as entries:
        loose = sorted(e.name for e in entries if e.name.lower().endswith(_ENDINGS))
    if loose:
        raise LocalgradError(
            f"{split / loose[0]}: an image in no class's folder: move it into the one of its class"
        )
    if known is not None:
        strange = [name for name in classes if name not in known]
        if strange:
            raise LocalgradError(
                f"{split}: class {strange[0]} has no training images: add them, or remove it"
            )
    elif len(classes) < 2:
        raise LocalgradError(
            f"{split}: one class, {', '.join(classes)}: a classifier needs two or more, each in a "
            "folder of its own"
        )
    found = {}
    for name in classes:
        found[name] = sorted(_inside(split, name), key=_hash)
        if not found[name]:
            raise LocalgradError(
                f"{split / name}: class {name} has no image: add some, or remove the folder"
            )
    return found


def _inside(split: Path, name: str) -> list[str]:
    files = []
    for folder, folders, names in os.walk(split / name, followlinks=True):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        for file in names:
            if file.startswith("."):
                continue
            path = os.path.join(folder, file)
            if not file.lower().endswith(_ENDINGS):
                raise LocalgradError(
                    f"{path}: not an image by its name ({', '.join(_ENDINGS[:4])}, ...): move it "
                    "out of the class's folder"
                )
            files.append(os.path.relpath(path, split))
    return files


def _hash(path: str) -> bytes:
    # Not the system's separator: the order is the same everywhere.
    return hashlib.sha256(os.fsencode(path.replace(os.sep, "/"))).digest()


def _rows(split: Path, found: dict[str, list[str]], classes: Sequence[str]) -> Rows:
    number = {name: label for label, name in enumerate(classes)}
    pairs = [(file, number[name]) for name, files in found.items() for file in files]
    pairs.sort(key=lambda pair: _hash(pair[0]))
    labels = torch.tensor([label for _, label in pairs], dtype=torch.int64)
    return Rows([FileSource(str(split), [file for file, _ in pairs])], labels)
