"""A run's folder: made once, never overwritten, every file whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from localgrad.errors import LocalgradError
from localgrad.experiment.config import Config, read_yaml, to_yaml

# what may differ between a run and its resumption: it changes no number already reached
_FREE = {"out", "device", "threads", "methods", "seeds", "repeats"}


class RunFolder:
    """The files of one run under ``path``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoint" / "last.pt"

    def open(self, config: Config, resume: bool, needed_bytes: int = 0) -> None:
        """Make the folder, or go on in it.

        Raises:
            LocalgradError: it holds a run already and ``resume`` is not set, holds a run of
                another configuration, cannot be written, or the disk has too little room.
        """
        known = self / "config.yaml"
        try:
            if known.exists():
                if not resume:
                    raise LocalgradError(
                        f"{self.path} holds a run already: go on with it by --resume, or give "
                        "another --out"
                    )
                self._check_same(config)
            (self / "checkpoint").mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path).free
            if free < needed_bytes:
                raise LocalgradError(
                    f"{self.path}: {free / 2**20:.0f} MiB of disk are free, the run needs about "
                    f"{needed_bytes / 2**20:.0f} MiB: make room or give another --out"
                )
            if not known.exists():
                self.write("config.yaml", to_yaml(config))
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _check_same(self, config: Config) -> None:
        old, new = read_yaml(self / "config.yaml"), yaml.safe_load(to_yaml(config))
        changed = [key for key in new if key not in _FREE and old.get(key) != new[key]]
        if changed:
            detail = ", ".join(f"{key}: {old.get(key)} -> {new[key]}" for key in changed)
            raise LocalgradError(
                f"{self.path} holds a run of another configuration ({detail}): give another --out"
            )

    def write(self, name: str, text: str) -> None:
        """Write a text file so that a reader finds the old one or the new one, never a half."""
        atomically(self / name, lambda part: part.write_text(text, encoding="utf-8"))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        self.write(name, json.dumps(value, indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """Read a JSON file."""
        return json.loads((self / name).read_text(encoding="utf-8"))

    def metrics(self) -> list[dict[str, Any]]:
        """Return the epochs logged so far."""
        path = self / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]

    def write_metrics(self, epochs: Iterable[dict[str, Any]]) -> None:
        """Write the epochs logged so far."""
        self.write("metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in epochs))

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self / "summary.json").exists()


def atomically(path: Path, write: Any) -> None:
    """Call ``write`` with a temporary path beside ``path``, then put it in its place.

    Raises:
        LocalgradError: nothing could be written; the old file is untouched.
    """
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> LocalgradError:
    """Return the one-line error for a path that cannot be written."""
    return LocalgradError(f"cannot write {path}: {error.strerror or error}")
