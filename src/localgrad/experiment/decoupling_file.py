"""Decoupling files: those that ship with the library, by name, and those of users, by path.

The files in ``decouplings/`` hold what papers and their released code say; each names its source.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from localgrad.data import Dataset, TextDataset
from localgrad.decoupling import Block, Decoupling, Part
from localgrad.errors import LocalgradError
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.yaml_text import read_yaml

FOLDER = Path(__file__).parent / "decouplings"


def names() -> tuple[str, ...]:
    """Return the names of the shipped decouplings.

    >>> "bwbpf-resnet101-k4" in names()
    True
    """
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def read(what: str | Path) -> Decoupling:
    """Read a decoupling: a file in JSON or YAML, a run's folder, or the name of a shipped one.

    >>> [str(place) for place in read("bwbpf-resnet101-k4").cuts[:2]]
    ['1.2 (0.12; stage 1, 4 of 4)', '2.3 (0.24; stage 2, 4 of 4)']

    Raises:
        LocalgradError: there is no such file, or it holds no decoupling that fits together; the
            message names the file.
    """
    path = _path(what)
    try:
        return Decoupling.from_dict(_content(path))
    except LocalgradError as error:
        text = str(error)
        raise LocalgradError(text if str(path) in text else f"{path}: {text}") from error


def _content(path: Path) -> dict[str, Any]:
    """Return what a file holds; JSON, which is YAML too, is read far faster so."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        data = None
    return data if isinstance(data, dict) else read_yaml(path)


def _path(what: str | Path) -> Path:
    path = Path(what)
    if path.is_dir():
        return path / "decoupling.yaml"
    if path.exists():
        return path
    if str(what) in names():
        return FOLDER / f"{what}.yaml"
    near = difflib.get_close_matches(str(what), names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ": `localgrad list` shows the shipped ones"
    raise LocalgradError(f"no decoupling file {str(what)!r}, and none ships by that name{hint}")


def of_run(what: str, folder: RunFolder) -> Decoupling:
    """Return the decoupling of a run: that of its folder, where the run has begun, else the file's.

    Raises:
        LocalgradError: as :func:`read`, or the file's blocks are no longer those of the run.
    """
    kept = folder / "decoupling.yaml"
    if not kept.exists():
        return read(what)
    begun = read(kept)
    if (Path(what).exists() or what in names()) and _made_of(read(what)) != _made_of(begun):
        raise LocalgradError(
            f"{what} has changed since the run in {folder.path} began: give another --out"
        )
    return begun


def _made_of(decoupling: Decoupling) -> Any:
    blocks = [(b.start, b.stop, b.head, b.loss.name, b.link, b.open) for b in decoupling.blocks]
    return decoupling.units, blocks


def label(what: str) -> str:
    """Return a short display name of a file.

    >>> label("runs/search/found.yaml")
    'found'
    """
    path = Path(what)
    return path.stem if path.suffix in (".yaml", ".yml", ".json") else path.name


def for_data(decoupling: Decoupling, data: Dataset | TextDataset) -> Decoupling:
    """Return the decoupling for another data set.

    InfoPro's losses know how images were normalised, which is a fact about the data and not a
    choice of the decoupling.
    """
    if not isinstance(data, Dataset):
        return decoupling
    facts = {"mean": list(data.mean), "std": list(data.std)}

    def known(block: Block) -> Block:
        if block.loss.name != "infopro":
            return block
        return replace(block, loss=Part(block.loss.name, {**block.loss.options, **facts}))

    known_to_rule = {key: facts[key] for key in decoupling.options if key in facts}
    return replace(
        decoupling,
        blocks=tuple(known(block) for block in decoupling.blocks),
        options={**decoupling.options, **known_to_rule},
    )
