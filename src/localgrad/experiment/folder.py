"""A run's folder: made once, never overwritten, every file whole or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from localgrad.errors import LocalgradError
from localgrad.experiment.config import Config, to_yaml
from localgrad.experiment.locks import HOLDER, locked
from localgrad.experiment.same_run import check_same
from localgrad.experiment.whole_file import atomically, cannot_write

LOCK = ".lock"  # there while a process fills the folder
STUDY = "study.db"  # the trials of a search
_OURS = ("summary.json", "metrics.jsonl", "model.safetensors", "compare.json", "checkpoint/last.pt")


class RunFolder:
    """The files of one run, or of one comparison, under ``path``."""

    writes = True  #: whether this process fills the folder
    searches = False  #: whether it is that of a search

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._alone: ExitStack | None = None  # what keeps others out, while they are to be
        self._locked = False

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

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out of the folder until the block ends.

        One that is not there yet stays so, and is locked once it is made.

        Raises:
            LocalgradError: another process is in it.
        """
        if self._alone is not None or not self.writes:  # within such a block; or not by this one
            yield
            return
        with ExitStack() as self._alone:
            try:
                if self.path.is_dir():
                    self._lock()
                yield
            finally:
                self._alone, self._locked = None, False

    def _lock(self) -> None:
        if self._alone is None or self._locked:
            return
        busy = f"{self.path} is in use by {HOLDER}: wait until it has ended, or give another --out"
        self._alone.enter_context(locked(self / LOCK, seconds=0, busy=busy, stays=False))
        self._locked = True

    def make(self) -> None:
        """Make the folder; within :meth:`alone`, keep others out from now on.

        Raises:
            LocalgradError: it cannot be made, or another process is in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._lock()

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
                if (self / STUDY).exists() and not self.searches:
                    raise LocalgradError(f"{self.path} holds a search: give another --out")
                check_same(self.path, config)
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
        late = self._alone is not None and not self._locked
        self.make()
        if late:  # another process may have begun a run since the folder was looked at
            self.check(config, resume=False)
        try:
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if free < needed_bytes:
            raise LocalgradError(
                f"{self.path}: {free / 2**20:.0f} MiB of disk are free, the run needs about "
                f"{needed_bytes / 2**20:.0f} MiB: make room or give another --out"
            )
        self.write("config.yaml", to_yaml(config))

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


class SearchFolder(RunFolder):
    """The folder of a search, whose trials are runs below it."""

    searches = True


class OthersFolder(RunFolder):
    """The folder of a run in several processes, in one that does not write."""

    writes = False

    def open(self, config: Config, resume: bool, needed_bytes: int = 0) -> None:
        """Leave that to the one that writes."""

    def write(self, name: str, text: str) -> None:
        """Leave that to the one that writes."""


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LocalgradError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise LocalgradError(f"{path} is damaged: {error}") from error
