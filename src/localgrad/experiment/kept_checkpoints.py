"""The checkpoints that a run keeps: the newest, those before it, and that of the best epoch.

``checkpoint/last.pt`` is the newest, ``last-1.pt`` the one before it, and so on; ``best.pt`` is
that of the end of the epoch with the highest accuracy, of the validation part where there is one,
else of the test part. At every moment each of these names is a whole file or absent: new ones are
written beside and renamed, and what one step of this leaves behind where it is cut off, the next
one takes up.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from localgrad.errors import LocalgradError
from localgrad.experiment import checkpoint
from localgrad.experiment.checkpoint import Position
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.whole_file import atomically, cannot_write, sync_folder


class KeptCheckpoints:
    """The checkpoints in a run's folder.

    Args:
        folder: the run's.
        keep: how many of the newest are kept.
    """

    def __init__(self, folder: RunFolder, keep: int) -> None:
        self.last, self.keep, self._writes = folder.checkpoint, keep, folder.writes
        self._aside = self.last.with_name("aside.pt")  # the newest one, while another is written
        self.best = self.last.with_name("best.pt")
        self._refused: set[Path] = set()

    def found(self) -> list[Path]:
        """Return the files that are there, the newest first."""
        older = sorted(filter(_age, self.last.parent.glob("last-*.pt")), key=_age)
        files = [p for p in (self.last, self._aside, *older, self.best) if p.exists()]
        if {self.last, self._aside} <= set(files) and self._aside.samefile(self.last):
            files.remove(self._aside)
        return files

    def load(
        self,
        learner: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
        run: str,
    ) -> tuple[Position, list[str]]:
        """Put the state of the newest good checkpoint in place.

        Returns:
            The position, and for each damaged file a line that names it.

        Raises:
            LocalgradError: none can be used.
        """
        told: list[str] = []
        for path in self.found():
            try:
                position = checkpoint.load(path, learner, optimizer, scaler, run)
            except LocalgradError as error:
                told.append(str(error))
                self._refused.add(path)
            else:
                return position, [f"{text}; going on from {path.name}" for text in told]
        anew = f"delete {self.last.parent} to start the run anew"
        raise LocalgradError("; ".join([*told, anew]))

    @contextmanager
    def making_room(self) -> Iterator[None]:
        """Keep the newest checkpoint while another one is put in its place."""
        if not self._writes:
            yield
            return
        try:
            self._take_up()
            good = self.last.exists() and self.last not in self._refused
            if good and self.keep > 1:
                _same_file(self.last, self._aside)
            try:
                yield
                self._refused.discard(self.last)
            finally:
                self._take_up()
        except OSError as error:
            raise cannot_write(self.last, error) from error

    def note_best(self, history: list[dict[str, Any]], position: Position) -> None:
        """Keep the newest checkpoint as the best one too, where it is."""
        at_end = position.epoch == len(history) > 0 and position.batch == 0
        if not (self._writes and at_end and self.last not in self._refused):
            return
        found = [line.get("validation_accuracy", line["test_accuracy"]) for line in history]
        if all(found[-1] > before for before in found[:-1]):
            try:
                _same_file(self.last, self.best)
            except OSError as error:
                raise cannot_write(self.best, error) from error

    def _older(self, age: int) -> Path:
        return self.last.with_name(f"last-{age}.pt")

    def _take_up(self) -> None:
        """Give the checkpoint that was set aside its place among the older ones."""
        if not self.last.parent.exists():
            return
        if self._aside.exists():
            if self.last.exists() and self._aside.samefile(self.last):
                self._aside.unlink()
            elif self._aside in self._refused:
                self._aside.unlink()
                self._refused.discard(self._aside)
            else:
                for age in range(self.keep - 2, 0, -1):
                    if self._older(age).exists() and self._older(age) not in self._refused:
                        os.replace(self._older(age), self._older(age + 1))
                        self._refused.discard(self._older(age + 1))
                os.replace(self._aside, self._older(1))
                self._refused.discard(self._older(1))
        for path in self.last.parent.glob("last-*.pt"):
            if _age(path) >= self.keep:
                path.unlink()
        sync_folder(self.last.parent)


def _age(path: Path) -> int:
    """Return the number in ``last-1.pt``; 0 for a file that is not one of ours."""
    text = path.stem.removeprefix("last-")
    return int(text) if text.isdecimal() else 0


def _same_file(path: Path, other: Path) -> None:
    """Let ``other`` be a name of the file at ``path`` too; a copy where that cannot be."""
    part = other.with_name(f"{other.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(path, part)
        os.replace(part, other)
        part.unlink(missing_ok=True)  # renaming a name of the same file leaves both
    except OSError:
        atomically(other, lambda new: shutil.copyfile(path, new))
