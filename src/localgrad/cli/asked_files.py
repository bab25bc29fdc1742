"""Files that the user asked for beside the run folder: ``--json`` and ``--plot``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localgrad.errors import LocalgradError
from localgrad.experiment.whole_file import atomically, cannot_write

PICTURES = (".svg", ".png")


def check_writable(path: str | None) -> None:
    """Refuse, before any work is done, a path that could not be written after it."""
    if path is None:
        return
    file, folder = Path(path), Path(path).parent
    if file.is_dir():
        raise LocalgradError(f"cannot write {path}: it is a folder")
    if not folder.is_dir():
        raise LocalgradError(f"cannot write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise LocalgradError(f"cannot write {path}: no permission in {folder}")


def write_json(path: str | None, value: Any) -> None:
    """Write ``value``, where a path is given."""
    if path is not None:
        text = json.dumps(value, indent=1) + "\n"
        atomically(Path(path), lambda part: part.write_text(text, encoding="utf-8"))


def check_plot(path: str | None) -> None:
    """Refuse, before any work is done, a figure that could not be drawn after it."""
    check_writable(path)
    if path is None:
        return
    if Path(path).suffix not in PICTURES:
        raise LocalgradError(f"--plot {path}: the name must end in {' or '.join(PICTURES)}")
    import matplotlib  # noqa: F401  # its absence is told before any work is done


def draw(path: str | None, write: Callable[[Path], None]) -> None:
    """Draw a figure and say so, where a path is given."""
    if path is None:
        return
    try:
        write(Path(path))
    except OSError as error:
        raise cannot_write(Path(path), error) from error
    print(f"wrote {path}")
