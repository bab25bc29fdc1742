"""``localgrad search``: decouplings of a network that are accurate for what they take."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from localgrad import Decoupling
from localgrad.cli import show
from localgrad.cli.asked_files import check_writable, write_json
from localgrad.cli.interrupt import stop_at_signal
from localgrad.cli.page import write_page
from localgrad.experiment.config import Config
from localgrad.experiment.loop import Interrupted

if TYPE_CHECKING:
    from localgrad.search.search import Watch

PICTURES = ("front.svg", "front.png")


def run(config: Config, flags: dict[str, Any], command: str) -> int:
    """Search, print the front, write the folder."""
    from localgrad.search.search import search

    check_writable(flags.get("json"))
    out = Path(config.out or f"runs/search-{config.network.name.replace(':', '-')}")
    quiet = "quiet" in flags
    with stop_at_signal() as stop, _watching(quiet) as watch:
        try:
            found = search(config, out, "resume" in flags, watch, stop, command)
        except Interrupted:
            where = shlex.quote(str(out))
            print(f"stopped; go on with: localgrad search --out {where} --resume", file=sys.stderr)
            return 130
    best = [found["trials"][index] for index in found["front"]]
    files = write_front(out, best, f"search on {found['network']['name']}, {found['data']}")
    print(_title(found))
    print(show.table([row(each, found["cost"]) for each in best]))
    print(_spent(found))
    wrote = [
        write_page(out / name, lambda report, name=name: _draw(found, out / name))  # type: ignore[misc]
        for name in PICTURES
    ]
    print(f"wrote {out}: search.json, {', '.join(files)}, {', '.join(wrote)}")
    write_json(flags.get("json"), found)
    return 0


def _draw(found: dict[str, Any], path: Path) -> None:
    from localgrad.report.search_front import write_search_front

    write_search_front(found, path)


def write_front(out: Path, best: list[dict[str, Any]], source: str) -> list[str]:
    """Write each decoupling of the front as a file, the cheapest first; return their names.

    Args:
        out: folder of the search.
        best: rows of the front.
        source: what the files say of where they come from.
    """
    folder = out / "front"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.yaml"):
        old.unlink()
    names = []
    for number, each in enumerate(best):
        names.append(f"front/{number:02d}.yaml")
        decoupling = Decoupling.from_dict(each["decoupling"])
        replace(decoupling, source=source).save(out / names[-1])
    return names


def row(each: dict[str, Any], cost: str) -> dict[str, str]:
    """Return a trial as a row of the table."""
    heads = each["heads"]
    alike = len(set(heads)) == 1 and len(heads) > 1
    shown = {
        "trial": str(each["trial"]),
        "accuracy, %": f"{100 * each['accuracy']:.2f}",
        "memory": show.mebibytes(each["memory_bytes"]),
        "FLOPs a step": f"{each['flops'] / 1e9:,.2f} G",
    }
    if cost == "time":
        shown["step"] = f"{1e3 * each['step_seconds']:.1f} ms"
    return {
        **shown,
        "K": str(each["blocks"]),
        "cut after": ", ".join(each["cuts"]) or "-",
        "heads": f"{heads[0]}, each" if alike else ", ".join(heads) or "-",
        "links": " ".join(map(str, each["links"])) or "-",
        "": each["name"] or "",
    }


def _title(found: dict[str, Any]) -> str:
    counts = found["counts"]
    parts = [f"{number} {state}" for state, number in counts.items() if number]
    parts += [f"{number} left out as {why}" for why, number in found["left_out"].items()]
    return (
        f"{found['network']['name']} on {found['data']}: {found['training']:,} to train on, "
        f"{found['validation']:,} to validate; trials: {', '.join(parts)}"
    )


def _spent(found: dict[str, Any]) -> str:
    full = found["full_training"]
    text = f"{found['seconds']:,.0f} s of training and validation in all"
    if full["seconds"]:
        times = found["seconds"] / full["seconds"]
        length = f"{show.plural(full['epochs'], 'epoch')} on all {full['images']:,} inputs"
        text += (
            f": {times:.2f} times one training of the most accurate one for {length} "
            f"({full['seconds']:,.0f} s)"
        )
    return text


@contextmanager
def _watching(quiet: bool) -> Iterator[Watch | None]:
    """Yield what shows the search: a live table on a terminal, else a line a trial."""
    from localgrad.search.record import Record
    from localgrad.search.results import front, rows
    from localgrad.search.search import Watch
    from localgrad.search.task import Task
    from localgrad.search.worker import Subject

    if quiet:
        yield None
        return
    live = None
    if sys.stdout.isatty():
        live = Live(console=Console(highlight=False), transient=True, auto_refresh=False)

    class Shown(Watch):
        """Prints."""

        def __init__(self) -> None:
            self.told: set[int] = set()
            self.trials = 0
            self.table, self.under_way = "", ""

        def started(self, subject: Subject) -> None:
            """Say what is searched."""
            search = subject.config.search
            self.trials = search.trials
            budget = f", budget {search.budget}" if search.budget else ""
            self.note(
                f"{subject.config.network.name}: {len(subject.chain)} units, "
                f"{len(subject.space):,} decouplings{budget}; {search.trials} trials of "
                f"{search.epochs} epoch{'' if search.epochs == 1 else 's'} on "
                f"{len(subject.data.train):,} inputs"
            )

        def epoch(self, task: Task, epoch: int, accuracy: float) -> None:
            """Show the trial under way."""
            self.under_way = f"trial {task.index}: epoch {epoch}, {100 * accuracy:.2f} %"
            self._show()

        def changed(self, record: Record) -> None:
            """Say how a trial ended, and show the front."""
            found = rows(record)
            for each in found:
                if each["state"] in ("running", "waiting") or each["trial"] in self.told:
                    continue
                self.told.add(each["trial"])
                if live is None:
                    print(_line(each, self.trials), flush=True)
            best = front(found)
            lines = [row(each, record.config.search.cost) for each in best]
            self.table = show.table(lines) if lines else ""
            self._show()

        def note(self, text: str) -> None:
            """Print a line."""
            if live is None:
                print(text, flush=True)
            else:
                live.console.print(text, markup=False)

        def _show(self) -> None:
            if live is not None:
                title = f"{len(self.told)} of {self.trials} trials; the front so far"
                text = Text(f"{title}\n{self.table}\n{self.under_way}", no_wrap=True)
                live.update(text, refresh=True)

    with live or nullcontext():
        yield Shown()


def _line(each: dict[str, Any], trials: int) -> str:
    accuracy = "" if each["accuracy"] is None else f"{100 * each['accuracy']:5.2f} %  "
    name = f"  ({each['name']})" if each["name"] else ""
    reason = f"  {each['reason']}" if each["reason"] else ""
    return (
        f"trial {each['trial']:>{len(str(trials - 1))}}  {each['state']:<8}  {accuracy}"
        f"epochs {each['epochs']}  {show.mebibytes(each['memory_bytes'])}  K={each['blocks']}"
        f"{name}{reason}"
    )
