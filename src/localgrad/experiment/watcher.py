"""What a run tells those who watch it, and what they may wish of it."""

from __future__ import annotations

import sys
from typing import Any

from localgrad import CompileReport
from localgrad.experiment.checkpoint import Position


class Interrupted(Exception):  # noqa: N818 - a wish, not an error
    """The run was asked to stop; its state is saved."""


class Watcher:
    """Told what happens; the command line shows it."""

    def refused(self, text: str) -> None:
        """A checkpoint is damaged, and the one before it is used."""
        print(f"warning: {text}", file=sys.stderr)

    def compiled(self, report: CompileReport) -> None:
        """Whether steps run compiled from now on."""

    def batch(self, position: Position, batches: int, losses: list[float] | None) -> None:
        """A batch is done; ``losses`` is of each block, where it was looked at."""

    def epoch(self, metrics: dict[str, Any], epochs: int) -> None:
        """An epoch is done."""
