"""``localgrad reproduce``: the rows of a published table, ours beside the published figures."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from localgrad.cli import show
from localgrad.cli.arguments import Arguments
from localgrad.cli.asked_files import check_writable, write_json
from localgrad.cli.interrupt import stop_at_signal
from localgrad.cli.page import write_run_page
from localgrad.cli.show_reproduce import found_text, rows_text, tables_text
from localgrad.errors import LocalgradError
from localgrad.experiment import environment
from localgrad.experiment.compare import slug
from localgrad.experiment.failures import FAILED, failed_line
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.host import find_device, prepare
from localgrad.experiment.loop import Interrupted, Watcher
from localgrad.experiment.made_up import read_count
from localgrad.experiment.reproduce import store, table
from localgrad.experiment.reproduce.outcome import document, settings_of
from localgrad.experiment.reproduce.runs import RESULT, Job, jobs_of, reproduce
from localgrad.experiment.reproduce.scaling import check_changes
from localgrad.experiment.reproduce.seconds import read_duration


def run(arguments: Arguments, command: str) -> int:
    """Run what fits of a table, print it, keep it."""
    flags = arguments.flags
    check_writable(flags.get("json"))
    if "list" in flags:
        return _list(_one(arguments.operands), flags)
    chosen = table.read(str(_one(arguments.operands)))
    rows = chosen.chosen(_names(flags["rows"]) if "rows" in flags else None)
    changes = [(key, value) for key, value in arguments.options if key != "out"]
    if "limit" in flags:
        changes.append(("data.limit", read_count("limit", flags["limit"])))
    check_changes(changes, rows)
    budget = read_duration(flags["budget"]) if "budget" in flags else None
    seeds = range(read_count("seeds", flags.get("seeds", "1")))
    given = dict(arguments.options).get("out")
    out = Path(given or Path("runs") / "reproduce" / slug(chosen.name))
    jobs = jobs_of(rows, seeds, changes, out)
    kept = _store(flags, chosen, jobs, settings_of(changes))
    quiet, resume = "quiet" in flags, "resume" in flags
    progress = show.progress_bar(quiet)

    def watch(label: str, number: int, runs: int) -> Watcher:
        return Watcher() if quiet else show.Bar(f"[{number}/{runs}] {label}", progress)

    def note(text: str) -> None:
        if not quiet:
            print(text, flush=True)

    with stop_at_signal() as stop, progress or nullcontext():
        try:
            report = reproduce(chosen, rows, jobs, out, budget, resume, watch, stop, note, command)
        except Interrupted:
            again = shlex.join(_to_resume(command, given, out))
            print(f"stopped; go on with: {again}", file=sys.stderr)
            return 130
    code = 0
    if report.failed:
        code = FAILED
        print(f"error: {failed_line(report.failed, len(jobs))}", file=sys.stderr)
    if not report.finished:
        for line in report.left_out:
            print(f"left out: {line['row']}: {line['reason']}")
        if not report.failed:
            print("no run is finished yet", file=sys.stderr)
        return code
    asked = {job.row.name for job in jobs}
    others = [row for row in chosen.rows if row.name not in asked]
    beside = [job for job in jobs_of(others, seeds, changes, out) if job.folder.finished]
    found = document(chosen, report, changes, command, beside)
    RunFolder(out).write_json(RESULT, found)
    for job in report.finished:
        if not (job.folder / "report.html").exists():
            write_run_page(job.folder, job.folder.read_json("summary.json"))
    print(found_text(chosen, found))
    print(f"wrote {out}: {RESULT}, a folder for each run")
    if kept is not None:
        store.merge(kept, chosen, found)
        print(f"wrote {kept}")
    write_json(flags.get("json"), found)
    return code


def _list(name: str | None, flags: dict[str, Any]) -> int:
    """Print the tables, or the rows of one."""
    tables = [table.read(name)] if name is not None else [table.read(n) for n in table.names()]
    print(tables_text(tables) if name is None else rows_text(tables[0]))
    write_json(flags.get("json"), [one.model_dump(mode="json") for one in tables])
    return 0


def _one(operands: list[str]) -> str | None:
    if len(operands) > 1:
        raise LocalgradError(f"reproduce takes one table, got {' and '.join(operands)}")
    return operands[0] if operands else None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _store(
    flags: dict[str, Any], chosen: table.Table, jobs: list[Job], settings: dict[str, Any]
) -> Path | None:
    """Return where the results are to be kept; refuse, before any work, what is not possible."""
    label = flags.get("label")
    if "store" not in flags:
        if label is not None:
            raise LocalgradError("--label names a machine in the store: give --store too")
        return None
    if label is None:
        device = find_device(jobs[0].config.device if jobs else "auto")
        prepare(jobs[0].config.threads if jobs else None, device)
        label = store.default_label(environment.hardware(device))
    if slug(label) != label:
        raise LocalgradError(f"--label {label}: give lower-case letters, digits, '.' and '-'")
    path = store.path_of(Path(flags["store"]), chosen.name, label)
    store.check(path, chosen.name, settings)
    return path


def _to_resume(command: str, given: Any, out: Path) -> list[str]:
    words = [word for word in shlex.split(command) if word != "--resume"]
    return [*words, *([] if given else ["--out", str(out)]), "--resume"]
