"""What the command line prints: progress, tables, help."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from localgrad.cli.arguments import FLAGS
from localgrad.experiment.checkpoint import Position
from localgrad.experiment.config import keys
from localgrad.experiment.loop import Watcher

# a pipe or a log has no width of its own: leave room for the comparison's table
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)


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

    def __init__(self, title: str, progress: Progress | None) -> None:
        self.title, self.progress = title, progress
        self.task = None if progress is None else progress.add_task(title, total=None, info="")

    def batch(self, position: Position, batches: int, losses: list[float] | None) -> None:
        """Move the bar; speed and per-block losses beside it."""
        if self.progress is None or self.task is None:
            return
        speed = position.seen / max(position.epoch_seconds, 1e-9)
        info = f"{speed:,.0f} img/s"
        if losses is not None:
            info += f"  loss by block {shortened(losses)}"
        self.progress.update(
            self.task,
            total=batches,
            completed=position.batch,
            description=f"{self.title} epoch {position.epoch + 1}",
            info=info,
        )

    def epoch(self, metrics: dict[str, Any], epochs: int) -> None:
        """Print a line."""
        target = console if self.progress is None else self.progress.console
        target.print(
            f"{self.title}  epoch {metrics['epoch']}/{epochs}  "
            f"test {100 * metrics['test_accuracy']:.2f} %  "
            f"{metrics['images_per_second']:,.0f} img/s  "
            f"loss by block {shortened(metrics['losses'])}"
        )
        if metrics["epoch"] == epochs and self.progress is not None and self.task is not None:
            self.progress.remove_task(self.task)


def progress_bar(quiet: bool) -> Progress | None:
    """Return a live bar where there is a terminal."""
    if quiet or not sys.stdout.isatty():
        return None
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
        console=console,
        transient=True,
    )


def print_table(title: str, rows: list[dict[str, str]]) -> None:
    """Print rows of equal keys; all but the first column to the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, key in enumerate(rows[0]):
        table.add_column(key, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def print_help(command: str | None, commands: dict[str, str]) -> None:
    """Print what a command does and every option, with its default."""
    console.print("usage: localgrad COMMAND [--config FILE] [--dotted.option VALUE] ...\n")
    for name, text in commands.items():
        if command in (None, name):
            console.print(f"  {name:<10}{text}")
    console.print("\nflags")
    for name, text in FLAGS.items():
        console.print(f"  --{name:<28}{text}", markup=False)
    if command in (None, "list"):
        return
    console.print("\noptions")
    for key, info in keys():
        default = info.get_default(call_default_factory=True)
        if key in ("method", "network"):
            key, default = f"{key}.name", default.name
        text = f"  --{key:<28}{info.description or ''}"
        shown = "" if default is None or default == [] else f" [{default}]"
        console.print(text + shown, markup=False)
    console.print("  --method.OPTION, --network.OPTION   options of the rule and of the network")
