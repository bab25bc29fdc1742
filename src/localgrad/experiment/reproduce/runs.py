"""Runs of a table's rows under a budget of time: each an ordinary run folder that can go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from localgrad.errors import LocalgradError
from localgrad.experiment import environment
from localgrad.experiment.build import build
from localgrad.experiment.compare import gather
from localgrad.experiment.config import Config
from localgrad.experiment.failures import why_failed
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.host import find_device, prepare
from localgrad.experiment.loop import Interrupted, Watcher, train
from localgrad.experiment.reproduce.estimates import Estimate, Estimates, SharedData
from localgrad.experiment.reproduce.scaling import run_config
from localgrad.experiment.reproduce.seconds import estimated, shown
from localgrad.experiment.reproduce.table import Row, Table

RESULT = "reproduce.json"
#: What is read from the summary of a finished run.
NEEDED = (
    *("network", "data", "blocks", "test_accuracy", "block_accuracy", "train_seconds"),
    *("train_images", "peak_memory_bytes", "peak_activation_bytes", "flops_per_image"),
    *("date", "hardware", "platform", "versions", "commit"),
)


@dataclass(frozen=True)
class Job:
    """A row with a seed, and the folder of its run."""

    row: Row
    seed: int
    config: Config
    folder: RunFolder

    @property
    def label(self) -> str:
        """What progress calls it."""
        return f"{self.row.name} seed {self.seed}"


@dataclass
class Report:
    """What was done: finished runs, in order, and what was left out with the reason.

    ``failed`` are the runs, by label, that began and came to no end, with the reason.
    """

    finished: list[Job] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)

    def leave(self, row: Row, reason: str, seed: int | None = None) -> None:
        """Name a row, or a run of it, that is left out."""
        self.left_out.append({"row": row.name, "seed": seed, "reason": reason})


def jobs_of(
    rows: Sequence[Row], seeds: Sequence[int], changes: Sequence[tuple[str, Any]], out: Path
) -> list[Job]:
    """Return every run: the seeds outermost, so that every row has one run before one has two."""
    found = []
    for seed in seeds:
        for row in rows:
            if row.config is not None:
                folder = out / f"{row.name}-s{seed}"
                config = run_config(row, seed, changes, str(folder))
                found.append(Job(row, seed, config, RunFolder(folder)))
    return found


def check_folder(table: Table, jobs: Sequence[Job], out: Path, resume: bool) -> None:
    """Refuse a folder that holds something else, before anything is done.

    Raises:
        LocalgradError: it is a file, holds a run or another table, runs of other settings, or a
            finished run whose files are damaged.
    """
    if out.exists() and not out.is_dir():
        raise LocalgradError(f"{out} is a file: give a folder as --out")
    if (out / "config.yaml").exists():
        raise LocalgradError(f"{out} holds a run or a comparison: give another --out")
    Estimates(out, table.name).check()
    for job in jobs:
        job.folder.check(job.config, resume)
        if job.folder.finished:
            summary = job.folder.read_json("summary.json")
            known = summary if isinstance(summary, dict) else {}
            missing = [key for key in NEEDED if key not in known]
            if missing:
                raise LocalgradError(
                    f"{job.folder / 'summary.json'} is damaged: it has no {missing[0]!r}; delete "
                    "the folder to run it anew"
                )
            gather(job.folder)  # the other files


def reproduce(
    table: Table,
    rows: Sequence[Row],
    jobs: Sequence[Job],
    out: Path,
    budget: float | None = None,
    resume: bool = False,
    watch: Callable[[str, int, int], Watcher] = lambda label, run, runs: Watcher(),
    stop: Callable[[], bool] = lambda: False,
    note: Callable[[str], Any] = lambda text: None,
    command: str | None = None,
    clock: Callable[[], float] = time.monotonic,
    estimate: Estimate = estimated,
) -> Report:
    """Run what fits.

    A row that cannot be run here (no data, no room in memory, a loss that is not finite) is named
    and left out; the others go on. A run that the budget ends is saved and named.

    Args:
        table: whose rows these are.
        rows: that were asked for.
        jobs: their runs, from :func:`jobs_of`.
        out: folder of the table's runs.
        budget: seconds for this call; None for no end.
        resume: go on with unfinished runs; finished ones are kept in any case.
        watch: makes the watcher of a run from its label, number and the number of runs.
        stop: asked between batches; once true, the run is saved and Interrupted raised.
        note: told in a line what is under way.
        command: what was typed.
        clock: seconds, for the budget.
        estimate: seconds of a run.

    Raises:
        LocalgradError: the folder holds something else, or another process is in it; no row can
            be run, or none fits the budget: the shortest is named with its time.
        Interrupted: after saving, where ``stop`` asked for it.
    """
    began = clock()
    check_folder(table, jobs, out, resume)
    report = Report()
    for row in rows:
        if row.lacks is not None:
            report.leave(row, row.lacks)
    if not jobs:
        raise LocalgradError(f"no row can be run: {rows[0].name}: {rows[0].lacks}")
    report.finished = [job for job in jobs if job.folder.finished]
    left = [job for job in jobs if not job.folder.finished]
    if not left:
        return report
    device = find_device(jobs[0].config.device)
    prepare(jobs[0].config.threads, device)
    estimates, data = Estimates(out, table.name), SharedData()
    with estimates.folder.alone():
        estimates.load(environment.hardware(device))
        refused: list[LocalgradError] = []
        waiting = _estimated(left, estimates, data, report, refused, stop, note, estimate)
        end = None if budget is None else began + budget
        for number, job in enumerate(waiting, start=len(jobs) - len(waiting) + 1):
            needs = _needs(job, estimates)
            room = None if end is None else max(end - clock(), 0.0)
            if room is not None and needs > room:
                reason = f"needs about {shown(needs)}, {shown(room)} of the budget is left"
                report.leave(job.row, reason, job.seed)
                continue

            def over() -> bool:
                return stop() or (end is not None and clock() > end)

            start, fresh = clock(), not job.folder.checkpoint.exists()
            watcher = watch(job.label, number, len(jobs))
            try:
                why = why_failed(partial(_train, job, data, watcher, resume, over, command))
            except Interrupted:
                if stop():
                    raise
                epoch = len(job.folder.metrics()) + 1
                reason = (
                    f"the budget ended in epoch {epoch} of {job.config.epochs}: go on by --resume"
                )
                report.leave(job.row, reason, job.seed)
                continue
            if why is not None:
                report.failed[job.label] = why
                report.leave(job.row, f"failed: {why}", job.seed)
                note(f"failed: {job.label}: {why}")
                continue
            report.finished.append(job)
            if fresh:
                estimates.put(job.row.name, job.config, clock() - start)
        report.finished.sort(key=jobs.index)
        if not report.finished and not report.failed:
            _raise_nothing(waiting, estimates, refused, budget, clock() - began)
        return report


def _estimated(
    jobs: Sequence[Job],
    estimates: Estimates,
    data: SharedData,
    report: Report,
    errors: list[LocalgradError],
    stop: Callable[[], bool],
    note: Callable[[str], Any],
    estimate: Estimate,
) -> list[Job]:
    """Estimate every row that no earlier call did; return the runs of those that can be run."""
    refused: set[str] = set()
    for job in jobs:
        name = job.row.name
        if name in refused or estimates.get(name, job.config) is not None:
            continue
        if stop():
            raise Interrupted

        def put(job: Job = job) -> None:
            found = data.of(job.config)
            note(f"estimating {job.row.name}")
            estimates.put(job.row.name, job.config, estimate(job.config, found))

        reason = why_failed(put)
        if reason is not None:
            refused.add(name)
            errors.append(LocalgradError(f"no row can be run: {name}: {reason}"))
            report.leave(job.row, reason)
    waiting = [job for job in jobs if job.row.name not in refused]
    if waiting:
        total = shown(sum(_needs(job, estimates) for job in waiting))
        note(f"{len(waiting)} run{'s' * (len(waiting) > 1)} to do, about {total}")
    return waiting


def _needs(job: Job, estimates: Estimates) -> float:
    """Return the seconds that a run still needs; an earlier call may have done some epochs."""
    whole = estimates.get(job.row.name, job.config)
    assert whole is not None, job.label
    done = len(job.folder.metrics()) if job.folder.checkpoint.exists() else 0
    return whole * max(1 - done / job.config.epochs, 0.0)


def _train(
    job: Job,
    data: SharedData,
    watcher: Watcher,
    resume: bool,
    stop: Callable[[], bool],
    command: str | None,
) -> None:
    experiment = build(job.config, data.of(job.config))
    train(experiment, job.folder, watcher, resume, stop, command=command)


def _raise_nothing(
    jobs: Sequence[Job],
    estimates: Estimates,
    refused: list[LocalgradError],
    budget: float | None,
    spent: float,
) -> None:
    if refused and (budget is None or len(refused) >= len(jobs)):
        raise refused[0]
    if budget is None or any(job.folder.checkpoint.exists() for job in jobs):
        return
    shortest = min(jobs, key=lambda job: _needs(job, estimates))
    of_it = f", of which estimating took {shown(spent)}" if spent >= 1 else ""
    raise LocalgradError(
        f"nothing fits --budget {shown(budget)}{of_it}: the shortest row, {shortest.row.name}, "
        f"needs about {shown(_needs(shortest, estimates))}: allow more, or scale down by --epochs "
        "and --limit"
    )
