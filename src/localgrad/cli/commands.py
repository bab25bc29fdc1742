"""The commands and their flags, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command: what it does, and an example that runs as it stands."""

    text: str
    example: str


COMMANDS = {
    "train": Command(
        "train one rule; fills a run folder",
        "localgrad train --method.name backlink --blocks 4 --epochs 5 --out runs/backlink",
    ),
    "compare": Command(
        "train several rules under one recipe; prints a table, writes compare.html",
        "localgrad compare --methods backprop,greedy,backlink --blocks 4 --out runs/three",
    ),
    "audit": Command(
        "measure which units each loss of a rule trains, and print the matrix",
        "localgrad audit --method.name backlink --network.name resnet20 --blocks 5",
    ),
    "list": Command("show the rules, networks and data sets", "localgrad list --json all.json"),
}


@dataclass(frozen=True)
class Flag:
    """An option of the command line itself, and the commands that take it."""

    text: str
    commands: tuple[str, ...] = tuple(COMMANDS)
    has_file: bool = False


_CONFIGURED = ("train", "compare", "audit")
_RUNS = ("train", "compare")

FLAGS = {
    "config": Flag("options from a YAML file; the command line wins", _CONFIGURED, has_file=True),
    "print_config": Flag("show the whole tree of options and stop", _CONFIGURED),
    "resume": Flag("go on where --out stopped; start it if there is nothing yet", _RUNS),
    "json": Flag("also write what is printed as JSON", has_file=True),
    "plot": Flag("also draw the matrix as SVG", ("audit",), has_file=True),
    "quiet": Flag("no progress", _RUNS),
    "debug": Flag("show the traceback of an error"),
    "help": Flag("show this and stop"),
}
