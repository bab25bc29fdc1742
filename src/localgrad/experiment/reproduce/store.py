"""Results of several machines: a folder with ``paper/table/LABEL.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from localgrad.errors import LocalgradError
from localgrad.experiment.compare import slug
from localgrad.experiment.reproduce.order import orders
from localgrad.experiment.reproduce.outcome import FORMAT
from localgrad.experiment.reproduce.table import Table
from localgrad.experiment.whole_file import atomically

Result = dict[str, Any]
_KEYS = ("table", "settings", "rows", "left_out", "order", "hardware", "date", "command")
_ROW_KEYS = (
    *("row", "rule", "network", "data", "n", "test_accuracies", "published_accuracy"),
    *("scaled", "figures", "hours"),
)


def default_label(hardware: str) -> str:
    """Return the label of a machine.

    >>> default_label("AMD EPYC 7B13, 1 thread of 2 cores")
    'amd-epyc-7b13'
    """
    return slug(hardware.split(",")[0]) or "machine"


def path_of(store: Path, table: str, label: str) -> Path:
    """Return where a machine's results of a table are."""
    return store.joinpath(*table.split("/"), f"{label}.json")


def read(path: Path, table: str | None = None) -> Result:
    """Read a result.

    Args:
        path: of the file.
        table: that it must be of; None for any.

    Raises:
        LocalgradError: it is missing, damaged, of another version or of another table.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LocalgradError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise LocalgradError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise LocalgradError(f"{path} is no result of reproduce in format {FORMAT}: take it away")
    rows = found.get("rows")
    missing = [key for key in _KEYS if key not in found]
    if not missing and isinstance(rows, list):
        missing = [key for row in rows for key in _ROW_KEYS if key not in row]
    elif not missing:
        missing = ["rows"]
    if missing:
        raise LocalgradError(f"{path} is damaged: it has no {missing[0]!r}")
    if table is not None and found["table"] != table:
        raise LocalgradError(
            f"{path} holds table {found['table']}, not {table}: take it away, or give another "
            "--store or --label"
        )
    return found


def check(path: Path, table: str, settings: Result) -> Result | None:
    """Return what stands at ``path``, None for nothing; refuse what cannot be merged.

    Raises:
        LocalgradError: as :func:`read`, or its runs were scaled otherwise, or nothing can be
            written there.
    """
    near = next(parent for parent in path.parents if parent.exists())
    if not near.is_dir():
        raise LocalgradError(f"cannot write {path}: {near} is a file")
    if not os.access(near, os.W_OK):
        raise LocalgradError(f"cannot write {path}: no permission in {near}")
    if not path.exists():
        return None
    found = read(path, table)
    if found["settings"] != settings:
        raise LocalgradError(
            f"{path} holds runs with other settings ({_said(found['settings'])}, now "
            f"{_said(settings)}): give another --label"
        )
    return found


def merge(path: Path, table: Table, document: Result) -> Result:
    """Write a result into the store: its rows take the place of those there, others stay.

    Returns:
        What stands there now; rows in the table's order, the order of rules over all of them.
    """
    old = check(path, table.name, document["settings"])
    new = {row["row"]: row for row in document["rows"]}
    kept = {} if old is None else {row["row"]: row for row in old["rows"]}
    for name, row in kept.items():  # fewer seeds do not push out more
        if name not in new or row["n"] > new[name]["n"]:
            new[name] = row
    rows = [new[row.name] for row in table.rows if row.name in new]
    left_out = [
        entry
        for entry in document["left_out"]
        if entry["seed"] is not None or entry["row"] not in new
    ]
    merged = {
        **document,
        "hours": sum(row["hours"] for row in rows),
        "rows": rows,
        "left_out": left_out,
        "order": orders(rows),
    }
    text = json.dumps(merged, indent=1) + "\n"
    atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
    return merged


def results(store: Path, table: str) -> dict[str, Result]:
    """Return every machine's results of a table, by label."""
    folder = store.joinpath(*table.split("/"))
    return {path.stem: read(path, table) for path in sorted(folder.glob("*.json"))}


def _said(settings: Result) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "the full recipe"
