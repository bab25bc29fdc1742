"""What the command line prints: progress and tables."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from localgrad import CompileReport
from localgrad.experiment.checkpoint import Position
from localgrad.experiment.loop import Watcher


def shortened(values: list[float], most: int = 4) -> str:
    """Return losses in a row, the middle left out where there are many.

    >>> shortened([1.5, 2.25, 3.0])
    '1.50 2.25 3.00'
    """
    texts = [f"{value:.2f}" for value in values]
    if len(texts) > most:
        texts = [*texts[: most // 2], "..", *texts[-(most // 2) :]]
    return " ".join(texts)


class Bar(Watcher):
    """A progress bar on a terminal, a line an epoch anywhere."""

    def __init__(self, title: str, progress: Progress | None, inputs: str = "images") -> None:
        self.title, self.progress, self.inputs = title, progress, inputs
        self.task = None if progress is None else progress.add_task(title, total=None, info="")

    def compiled(self, report: CompileReport) -> None:
        """Print a line."""
        line = f"{self.title}  compile: {report}"
        if self.progress is None:
            print(line, flush=True)
        else:
            self.progress.console.print(line, markup=False)

    def batch(self, position: Position, batches: int, losses: list[float] | None) -> None:
        """Move the bar; speed and per-block losses beside it."""
        if self.progress is None or self.task is None:
            return
        speed = position.seen / max(position.epoch_seconds, 1e-9)
        info = f"{speed:,.0f} {self.inputs}/s"
        if losses is not None:
            info += f"  loss by block {shortened(losses)}"
        self.progress.update(
            self.task,
            total=batches,
            completed=position.batch,
            description=f"{self.title}  epoch {position.epoch + 1}",
            info=info,
        )

    def epoch(self, metrics: dict[str, Any], epochs: int) -> None:
        """Print a line."""
        number = f"{metrics['epoch']:>{len(str(epochs))}}/{epochs}"
        line = (
            f"{self.title}  epoch {number}  "
            f"test {100 * metrics['test_accuracy']:5.2f} %  "
            f"{metrics['images_per_second']:,.0f} {self.inputs}/s  "
            f"loss by block {shortened(metrics['losses'])}"
        )
        if self.progress is None or self.task is None:
            print(line, flush=True)
            return
        self.progress.console.print(line, markup=False)
        if metrics["epoch"] == epochs:
            self.progress.remove_task(self.task)


def progress_bar(quiet: bool) -> Progress | None:
    """Return a live bar where there is a terminal."""
    if quiet or not sys.stdout.isatty():
        return None
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}", markup=False),
        console=Console(highlight=False, soft_wrap=True),
        transient=True,
    )


def table(rows: list[dict[str, str]]) -> str:
    """Return rows of equal keys below a header; all but the first column to the right.

    >>> print(table([{"rule": "BP", "accuracy": "9 %"}, {"rule": "Greedy", "accuracy": "10 %"}]))
    rule    accuracy
    BP           9 %
    Greedy      10 %
    """
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    return aligned(lines)


def aligned(lines: list[list[str]]) -> str:
    """Return lines of cells as text; all but the first column to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def mebibytes(count: float) -> str:
    """Return bytes in MiB.

    >>> mebibytes(3 * 2**19)
    '1.5 MiB'
    """
    return f"{count / 2**20:,.1f} MiB"


def ratio(value: float | None) -> str:
    """Return a ratio, or a dash where there is none.

    >>> ratio(0.5), ratio(None)
    ('0.50x', '-')
    """
    return "-" if value is None else f"{value:.2f}x"


def plural(count: int, what: str) -> str:
    """Return a number of things.

    >>> plural(1, "epoch"), plural(3, "epoch")
    ('1 epoch', '3 epochs')
    """
    return f"{count} {what}{'' if count == 1 else 's'}"
