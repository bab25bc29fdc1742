"""The metrics as TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from localgrad.experiment.log import package, scalars
from localgrad.experiment.whole_file import cannot_write


class TensorBoardLog:
    """Event files in a folder of their own.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new_writer = package("torch.utils.tensorboard", "log.tensorboard").SummaryWriter
        self._writer: Any = None

    def begin(self, history: list[dict[str, Any]], about: dict[str, Any]) -> None:
        """Add the epochs of ``history`` that are missing, and take back those after it.

        A process that was killed may have stopped before an epoch was written, and a checkpoint
        further back be the one that is good.
        """
        there = self._there() if self.path.exists() else set()
        purge = len(history) + 1 if there else None
        with self._told():
            self._writer = self._new_writer(str(self.path), purge_step=purge)
        for metrics in history:
            self._add(metrics, there)

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Add an epoch."""
        self._add(metrics, set())

    def close(self) -> None:
        """Write what is left."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._told():
                writer.close()

    def _add(self, metrics: dict[str, Any], there: set[tuple[str, int]]) -> None:
        with self._told():
            for name, value in scalars(metrics).items():
                if (name, metrics["epoch"]) not in there:
                    self._writer.add_scalar(name, value, metrics["epoch"])
            self._writer.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _there(self) -> set[tuple[str, int]]:
        """Return (name, epoch) of everything in the log."""
        room = "tensorboard.backend.event_processing.event_accumulator"
        events = package(room, "log.tensorboard").EventAccumulator(
            str(self.path), size_guidance={"scalars": 0}
        )
        events.Reload()
        return {(name, e.step) for name in events.Tags()["scalars"] for e in events.Scalars(name)}
