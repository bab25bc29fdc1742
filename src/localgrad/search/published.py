"""Decoupling files: those that ship with the library, by name, and those of users, by path.

The files in ``published/`` hold what papers and their released code say; each names its source.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError

FOLDER = Path(__file__).parent / "published"


def names() -> tuple[str, ...]:
    """Return the names of the shipped decouplings.

    >>> "bwbpf-resnet101-k4" in names()
    True
    """
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def read(what: str | Path) -> Decoupling:
    """Read a decoupling: a file in JSON or YAML, a run's folder, or the name of a shipped one.

    >>> read("bwbpf-resnet101-k4").cuts[0].unit
    '1.2'

    Raises:
        LocalgradError: there is no such file, or it holds no decoupling that fits together; the
            message names the file.
    """
    try:
        from localgrad.experiment.yaml_text import read_yaml
    except ModuleNotFoundError as error:
        raise LocalgradError(
            f"{error.name} is missing, to read decoupling files: pip install 'localgrad[cli]'"
        ) from error
    path = _path(what)
    try:
        return Decoupling.from_dict(read_yaml(path))
    except LocalgradError as error:
        text = str(error)
        raise LocalgradError(text if str(path) in text else f"{path}: {text}") from error


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
