"""Corrupt images that a run left out: counted, and named in ``skipped.json``."""

from __future__ import annotations

from localgrad.experiment.build import Experiment
from localgrad.experiment.folder import RunFolder

NAME = "skipped.json"


def note_skipped(experiment: Experiment, folder: RunFolder) -> int:
    """Add what was left out so far to the folder's file, image to reason.

    Returns:
        How many images were left out since the run began; with none, no file is written.
    """
    found: dict[str, str] = folder.read_json(NAME) if (folder / NAME).exists() else {}
    before = len(found)
    found |= experiment.data.skipped
    found |= experiment.train.skipped
    found |= experiment.test.skipped
    if len(found) > before:
        folder.write_json(NAME, dict(sorted(found.items())))
    return len(found)
