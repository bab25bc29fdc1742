"""What each row is expected to take, kept beside the runs; and the data that the rows share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment.building.data import load_data
from localgrad.experiment.config import Config
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.same_run import FREE
from localgrad.experiment.tree import flat

Estimate = Callable[[Config, Dataset | TextDataset], float]
FILE = "estimates.json"


class Estimates:
    """Seconds of a whole run of each row, in a file that a later call reads.

    An estimate counts for its machine and its options alone.
    """

    def __init__(self, out: Path, table: str) -> None:
        self.folder, self.table = RunFolder(out), table
        self.hardware = ""
        self.rows: dict[str, dict[str, Any]] = {}

    def check(self) -> None:
        """Refuse a file that is damaged or of another table."""
        self._read()

    def load(self, hardware: str) -> None:
        """Take over what an earlier call on the same machine found."""
        self.hardware = hardware
        kept = self._read()
        if kept is not None and kept["hardware"] == hardware:
            self.rows = kept["rows"]

    def get(self, row: str, config: Config) -> float | None:
        """Return the seconds of a run, None where nothing is known."""
        found = self.rows.get(row)
        if found is None or found["options"] != _digest(config):
            return None
        return float(found["seconds"])

    def put(self, row: str, config: Config, seconds: float) -> None:
        """Keep what a run will take, or took."""
        self.rows[row] = {"seconds": seconds, "options": _digest(config)}
        whole = {"table": self.table, "hardware": self.hardware, "rows": self.rows}
        self.folder.make()
        self.folder.write_json(FILE, whole)

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / FILE
        if not path.exists():
            return None
        kept = self.folder.read_json(FILE)
        shape = {"table": str, "hardware": str, "rows": dict}
        if not isinstance(kept, dict) or not all(
            isinstance(kept.get(key), kind) for key, kind in shape.items()
        ):
            raise LocalgradError(f"{path} is damaged: delete it")
        if any(not {"seconds", "options"} <= set(row) for row in kept["rows"].values()):
            raise LocalgradError(f"{path} is damaged: delete it")
        if kept["table"] != self.table:
            raise LocalgradError(
                f"{path.parent} holds runs of table {kept['table']}, not {self.table}: give "
                "another --out"
            )
        return kept


def _digest(config: Config) -> str:
    """Return what tells options apart that bear on a run's time."""
    same = ("seed", "out", "checkpoint_every")
    kept = {
        key: value
        for key, value in flat(config.model_dump()).items()
        if key not in same and (key not in FREE or key in ("device", "threads"))
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


class SharedData:
    """The data set in use: rows of one table share it, so one is kept."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.found: Dataset | TextDataset | LocalgradError | None = None

    def of(self, config: Config) -> Dataset | TextDataset:
        """Return the data of a configuration; read, or found missing, once."""
        key = config.data.model_dump_json()
        if self.found is None or key != self.key:
            self.found, self.key = None, key  # room for the next one
            try:
                self.found = load_data(config)
            except LocalgradError as error:
                self.found = error
        if isinstance(self.found, LocalgradError):
            raise self.found
        return self.found
