"""A run's folder: made once, never overwritten, every file whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from localgrad.errors import LocalgradError
from localgrad.experiment.config import Config, to_yaml
from localgrad.experiment.yaml_text import loads, read_yaml

# what may differ between a run and its resumption: it changes no number already reached
FREE = (
    *("out", "device", "threads", "checkpoint_every", "methods", "seeds", "repeats"),
    *("checkpoint.keep", "log.tensorboard", "log.trackio", "log.wandb", "log.agreement"),
    *("data.path", "data.workers", "data.prefetch", "analyse"),
    *("parallel.blocks", "parallel.data", "parallel.timeout", "parallel.memory"),
    *("search.trials", "search.processes"),
)
_OURS = ("summary.json", "metrics.jsonl", "model.safetensors", "compare.json", "checkpoint/last.pt")


class RunFolder:
    """The files of one run, or of one comparison, under ``path``."""

    writes = True  #: whether this process fills the folder

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self / "checkpoint" / "last.pt"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self / "summary.json").exists()

    def check(self, config: Config, resume: bool) -> None:
        """Find out whether a run of ``config`` may go here; change nothing.

        Raises:
            LocalgradError: the path is a file, or the folder holds a run and ``resume`` is not
                set, or a run of another configuration, or results of something else.
        """
        try:
            if self.path.exists() and not self.path.is_dir():
                raise LocalgradError(f"{self.path} is a file: give a folder as --out")
            if (self / "config.yaml").exists():
                if not resume:
                    raise LocalgradError(
                        f"{self.path} holds a run already: go on with it by --resume, or give "
                        "another --out"
                    )
                self._check_same(config)
            else:
                found = [name for name in _OURS if (self / name).exists()]
                if found:
                    raise LocalgradError(
                        f"{self.path} holds {found[0]} but no config.yaml: give another --out"
                    )
        except OSError as error:
            raise LocalgradError(f"cannot read {self.path}: {error.strerror}") from error

    def open(self, config: Config, resume: bool, needed_bytes: int = 0) -> None:
        """Make the folder, or go on in it.

        Raises:
            LocalgradError: as :meth:`check`, or the folder cannot be written, or the disk has
                too little room.
        """
        self.check(config, resume)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if free < needed_bytes:
            raise LocalgradError(
                f"{self.path}: {free / 2**20:.0f} MiB of disk are free, the run needs about "
                f"{needed_bytes / 2**20:.0f} MiB: make room or give another --out"
            )
        self.write("config.yaml", to_yaml(config))

    def _check_same(self, config: Config) -> None:
        old, new = _flat(read_yaml(self / "config.yaml")), _flat(loads(to_yaml(config)))
        compares = bool(old.get("methods")) and not (self / "decoupling.yaml").exists()
        if compares != bool(new["methods"]):
            kind = "comparison" if compares else "single run"
            raise LocalgradError(f"{self.path} holds a {kind}: give another --out")
        compared = [key for key in {**old, **new} if key not in FREE]
        if compares:  # its rules and seeds are in methods and seeds
            compared = [key for key in compared if key != "seed" and not key.startswith("method.")]
        if new["data.name"] == "text":  # there the path is the data
            compared.append("data.path")
        none = object()
        default = _flat(loads(to_yaml(Config())))  # of options younger than the run
        changed = [
            key
            for key in compared
            if old.get(key, default.get(key, none)) != new.get(key, default.get(key, none))
        ]
        if changed:
            detail = ", ".join(
                f"{key} was {old.get(key, 'not set')}, now {new.get(key, 'not set')}"
                for key in changed
            )
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
        return _parsed(self / name, json.loads)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the epochs logged so far."""
        if not (self / "metrics.jsonl").exists():
            return []
        found: list[dict[str, Any]] = _parsed(
            self / "metrics.jsonl",
            lambda text: [json.loads(line) for line in text.splitlines() if line.strip()],
        )
        return found

    def write_metrics(self, epochs: Iterable[dict[str, Any]]) -> None:
        """Write the epochs logged so far."""
        self.write("metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in epochs))


class OthersFolder(RunFolder):
    """The folder of a run in several processes, in one that does not write."""

    writes = False

    def open(self, config: Config, resume: bool, needed_bytes: int = 0) -> None:
        """Leave that to the one that writes."""

    def write(self, name: str, text: str) -> None:
        """Leave that to the one that writes."""


def identity(config: Config) -> str:
    """Return a digest of the options that decide a run's numbers."""
    tree = _flat(loads(to_yaml(config)))
    numbers = {key: value for key, value in tree.items() if key not in FREE}
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
        found |= inner or {f"{prefix}{key}": value}
    return found


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LocalgradError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise LocalgradError(f"{path} is damaged: {error}") from error


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
