"""Files that are whole or absent, wherever a process ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localgrad.errors import LocalgradError


def atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write`` with a temporary path beside ``path``, then put it in its place.

    Raises:
        LocalgradError: nothing could be written; the old file is untouched.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    # torch.save reports a full disk as a RuntimeError
    except (OSError, RuntimeError) as error:
        _remove(part)
        raise cannot_write(path, error) from error
    except BaseException:
        _remove(part)
        raise


def sync_folder(path: Path) -> None:
    """Let the names in a folder outlast a power cut, where the system can."""
    if os.name != "posix":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError:
        return  # where nothing can be written, nothing can be removed


def cannot_write(path: Path, error: Exception) -> LocalgradError:
    """Return the one-line error for a path that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return LocalgradError(f"cannot write {path}: {reason}")
