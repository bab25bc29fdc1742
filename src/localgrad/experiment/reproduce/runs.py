"""Runs of a table's rows under a budget of time: each an ordinary run folder that can go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment import environment
from localgrad.experiment.build import build, find_device, load_data
from localgrad.experiment.config import Config
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.host import prepare
from localgrad.experiment.loop import Interrupted, Watcher, train
from localgrad.experiment.reproduce.scaling import run_config
from localgrad.experiment.reproduce.seconds import estimated, shown
from localgrad.experiment.reproduce.table import Row, Table

Estimate = Callable[[Config, Dataset | TextDataset], float]
RESULT, TIMES = "reproduce.json", "estimates.json"


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
    """What was done: finished runs, in order, and what was left out with the reason."""

    finished: list[Job] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    estimates: dict[str, float] = field(default_factory=dict)
    hardware: str = ""

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
        LocalgradError: it is a file, holds a run or another table, or runs of other settings.
    """
    root = RunFolder(out)
    if out.exists() and not out.is_dir():
        raise LocalgradError(f"{out} is a file: give a folder as --out")
    if (root / "config.yaml").exists():
        raise LocalgradError(f"{out} holds a run or a comparison: give another --out")
    if (root / TIMES).exists():
        kept = root.read_json(TIMES)
        if not isinstance(kept, dict) or not isinstance(kept.get("seconds"), dict):
            raise LocalgradError(f"{root / TIMES} is damaged: delete it")
        if kept.get("table") != table.name:
            raise LocalgradError(
                f"{out} holds runs of table {kept.get('table')}, not {table.name}: give another "
                "--out"
            )
    for job in jobs:
        job.folder.check(job.config, resume)


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
        LocalgradError: the folder holds something else, no row can be run, or none fits the
            budget: the shortest is named with its time.
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
    device = find_device(jobs[0].config.device)
    prepare(jobs[0].config.threads, device)
    report.hardware = environment.hardware(device)
    kept = _Data()
    _estimate_all(table, jobs, out, report, kept, stop, note, estimate)
    refused = {entry["row"] for entry in report.left_out}
    failed: list[LocalgradError] = []
    runnable = [job for job in jobs if job.row.name not in refused]
    end = None if budget is None else began + budget
    if not runnable:
        lacking = {row.name for row in rows if row.lacks is not None}
        first = next(entry for entry in report.left_out if entry["row"] not in lacking)
        raise LocalgradError(f"no row can be run: {first['row']}: {first['reason']}")
    for number, job in enumerate(runnable, start=1):
        if job.folder.finished:
            report.finished.append(job)
            continue
        needs = report.estimates[job.row.name] * (1 - _done(job))
        left = None if end is None else max(end - clock(), 0.0)
        if left is not None and needs > left:
            reason = f"needs about {shown(needs)}, {shown(left)} of the budget is left"
            report.leave(job.row, reason, job.seed)
            continue

        def over() -> bool:
            return stop() or (end is not None and clock() > end)

        start, fresh = clock(), not job.folder.checkpoint.exists()
        try:
            watcher = watch(job.label, number, len(runnable))
            _train(job, kept, watcher, resume, over, command)
        except Interrupted:
            if stop():
                raise
            epoch = len(job.folder.metrics()) + 1
            reason = f"the budget ended in epoch {epoch} of {job.config.epochs}: go on by --resume"
            report.leave(job.row, reason, job.seed)
        except LocalgradError as error:
            failed.append(LocalgradError(f"{job.label}: {error}"))
            report.leave(job.row, f"failed: {error}", job.seed)
        else:
            report.finished.append(job)
            if fresh:
                report.estimates[job.row.name] = clock() - start
                _keep(table, out, report)
    if not report.finished:
        _raise_nothing(report, runnable, failed, budget)
    return report


def _estimate_all(
    table: Table,
    jobs: Sequence[Job],
    out: Path,
    report: Report,
    data: _Data,
    stop: Callable[[], bool],
    note: Callable[[str], Any],
    estimate: Estimate,
) -> None:
    waiting = {job.row.name: job for job in reversed(jobs) if not job.folder.finished}
    if not waiting:
        return
    root = RunFolder(out)
    if (root / TIMES).exists():
        kept = root.read_json(TIMES)
        if kept["hardware"] == report.hardware:
            report.estimates.update(kept["seconds"])
    for job in jobs:
        name = job.row.name
        if waiting.get(name) is not job or name in report.estimates:
            continue
        if stop():
            raise Interrupted
        try:
            note(f"estimating {name}")
            report.estimates[name] = estimate(job.config, data.of(job.config))
        except LocalgradError as error:
            report.leave(job.row, str(error))
        except (MemoryError, torch.OutOfMemoryError):
            report.leave(job.row, "out of memory")
    if report.estimates:
        _keep(table, out, report)
    refused = {entry["row"] for entry in report.left_out}
    todo = [job for job in jobs if not job.folder.finished and job.row.name not in refused]
    total = sum(report.estimates[job.row.name] * (1 - _done(job)) for job in todo)
    if todo:
        note(f"{len(todo)} run{'s' * (len(todo) > 1)} to do, about {shown(total)}")


def _keep(table: Table, out: Path, report: Report) -> None:
    kept = {"table": table.name, "hardware": report.hardware, "seconds": report.estimates}
    RunFolder(out).write_json(TIMES, kept)


def _train(
    job: Job,
    data: _Data,
    watcher: Watcher,
    resume: bool,
    stop: Callable[[], bool],
    command: str | None,
) -> None:
    try:
        experiment = build(job.config, data.of(job.config))
        train(experiment, job.folder, watcher, resume, stop, command=command)
    except (MemoryError, torch.OutOfMemoryError):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise LocalgradError("out of memory: lower --batch_size") from None


def _done(job: Job) -> float:
    """Return the part of a run's epochs that an earlier call has done, 0..1."""
    if not job.folder.checkpoint.exists():
        return 0.0
    return min(len(job.folder.metrics()) / job.config.epochs, 1.0)


def _raise_nothing(
    report: Report, jobs: Sequence[Job], failed: list[LocalgradError], budget: float | None
) -> None:
    if failed:
        raise failed[0]
    started = [job for job in jobs if job.folder.checkpoint.exists()]
    if budget is not None and not started:
        needs = {job.row.name: report.estimates[job.row.name] for job in jobs}
        shortest = min(needs, key=lambda name: needs[name])
        raise LocalgradError(
            f"nothing fits --budget {shown(budget)}: the shortest row, {shortest}, needs about "
            f"{shown(needs[shortest])}: allow more, or scale down by --epochs and --limit"
        )


class _Data:
    """The data set in use: rows of one table share it, so one is kept."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.found: Dataset | TextDataset | LocalgradError | None = None

    def of(self, config: Config) -> Dataset | TextDataset:
        """Return the data of a configuration; read, or found missing, once."""
        key = config.data.model_dump_json()
        if self.found is None or key != self.key:
            self.found, self.key = None, key  # room for the next one
            try:
                self.found = load_data(config)
            except LocalgradError as error:
                self.found = error
        if isinstance(self.found, LocalgradError):
            raise self.found
        return self.found
