"""What the rules of a comparison have learned, held beside each other when all are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment.analyse import analyse
from localgrad.experiment.folder import RunFolder

FILE = "analysis.json"


def forget(root: RunFolder) -> None:
    """Drop what was found before runs were trained again."""
    (root / FILE).unlink(missing_ok=True)


def kept(root: RunFolder, labels: Iterable[str]) -> dict[str, Any] | None:
    """Return the analysis of a comparison if it has all of these rules, else None."""
    if not (root / FILE).exists():
        return None
    found: dict[str, Any] = root.read_json(FILE)
    return found if set(labels) <= {run["label"] for run in found["runs"]} else None


def write(
    root: RunFolder,
    runs: Mapping[str, Path],
    inputs: int,
    data: Dataset | TextDataset | None,
    note: Callable[[str], Any],
    tick: Callable[[], Any],
    command: str | None,
) -> None:
    """Analyse one run of each rule, without probes, into ``analysis.json``; once.

    The runs are read back from their checkpoints, so that it makes no difference to them and works
    as well where all had been trained before.

    Args:
        root: folder of the comparison.
        runs: of each rule, the folder of one run.
        inputs: test images for CKA; fewer than 4: nothing is analysed.
        data: what they learned, if it is loaded.
        note: told in a line what is under way, or why there is no analysis.
        tick: called between runs; what it raises ends the analysis.
        command: what was typed.
    """
    if not runs or inputs < 4 or isinstance(data, TextDataset) or kept(root, runs) is not None:
        return
    note(f"similarity of {len(runs)} networks on {inputs} test images")
    try:
        found = analyse(
            list(runs.values()),
            inputs,
            probes=False,
            note=lambda _: tick(),
            command=command,
            data=data,
        )
    except LocalgradError as error:  # the comparison itself is finished
        note(f"no analysis: {error}")
        return
    root.write_json(FILE, found)
