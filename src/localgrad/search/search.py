"""A search from beginning to end: checks, processes, the folder."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from localgrad.errors import LocalgradError
from localgrad.experiment import environment
from localgrad.experiment.config import Config
from localgrad.experiment.folder import STUDY, SearchFolder
from localgrad.experiment.host import find_device
from localgrad.experiment.locks import locked
from localgrad.experiment.loop import Interrupted
from localgrad.experiment.options.kinds import Choice
from localgrad.search.baselines import Baseline
from localgrad.search.record import Record
from localgrad.search.results import document
from localgrad.search.task import Task
from localgrad.search.trial import run_trial
from localgrad.search.worker import WORKERS, Run, Subject, work, worker_process
from localgrad.sizes import shown

GRACE = 60  # seconds that workers of an earlier search, whose parent is gone, have to end
RESTARTS = 3  # of workers that are killed, for each process
_LOOK = 0.5  # seconds between looks at the record


class Watch:
    """Told what happens; the command line shows it."""

    def started(self, subject: Subject) -> None:
        """The search begins."""

    def epoch(self, task: Task, epoch: int, accuracy: float) -> None:
        """A trial in this process has trained an epoch."""

    def changed(self, record: Record) -> None:
        """A trial has ended."""

    def note(self, text: str) -> None:
        """Something to say in a line."""


def search(
    config: Config,
    out: Path,
    resume: bool = False,
    watch: Watch | None = None,
    stop: Callable[[], bool] = lambda: False,
    command: str | None = None,
    run: Run = run_trial,
) -> dict[str, Any]:
    """Search for decouplings, and fill the folder.

    Args:
        config: with a ``search`` section.
        out: folder of the search: ``study.db``, ``search.json``, ``front``, ``trials``.
        resume: go on with what ``out`` holds.
        watch: told of progress.
        stop: asked between batches; once true, trials are saved and Interrupted raised.
        command: what was typed; default: this process's command line.
        run: trains a trial, in a search of one process.

    Returns:
        What ``search.json`` holds.

    Raises:
        LocalgradError: something cannot be built; the space is empty; nothing in it is within the
            budget (the nearest is named); the folder holds another search, or one that is running;
            no trial came to its end.
        Interrupted: after saving.
    """
    folder = SearchFolder(out)
    with folder.alone():
        return _searched(settled(config), folder, resume, watch or Watch(), stop, command, run)


def _searched(
    config: Config,
    folder: SearchFolder,
    resume: bool,
    watch: Watch,
    stop: Callable[[], bool],
    command: str | None,
    run: Run,
) -> dict[str, Any]:
    out = folder.path
    folder.check(config, resume)
    if not resume and (folder / STUDY).exists():
        raise LocalgradError(f"{out} holds a search already: go on by --resume")
    subject = Subject(config)
    begin = subject.baselines()
    _check_fits(subject, begin)
    folder.open(config, resume)
    with ExitStack() as held:
        late = f"a worker of an earlier search in {out} is still running: end it first"
        with locked(out / WORKERS, seconds=GRACE, busy=late):
            record = Record(out, config)
            held.callback(record.close)
            facts = subject.facts()
            record.begin(facts, begin)
            record.put_back()
        watch.started(subject)
        try:
            if config.search.processes == 1:
                work(record, subject, stop, watch.epoch, lambda: watch.changed(record), run)
            else:
                _processes(config, out, record, watch, stop)
        except Interrupted:
            record.put_back()
            raise
        about = environment.describe(find_device(config.device), command)
        found = document(record, facts, about)
    folder.write_json("search.json", found)
    if not found["front"]:
        reasons = [row["reason"] for row in found["trials"] if row["reason"]]
        raise LocalgradError(
            f"none of {len(found['trials'])} trials came to its end"
            + (f": {reasons[0]}" if reasons else "")
        )
    return found


def settled(config: Config) -> Config:
    """Return the configuration without what a search chooses itself."""
    return config.model_copy(
        update={
            "method": Choice(name="backprop"),
            "methods": [],
            "decoupling": None,
            "seeds": [],
            "blocks": None,
            "cuts": None,
            "balance": None,
        }
    )


def _check_fits(subject: Subject, begin: list[Baseline]) -> None:
    """Refuse a budget that nothing meets, before anything is trained.

    The leanest decouplings are memory-balanced ones with one head; each head and number of blocks
    is looked at until one fits.
    """
    budget = subject.config.search.budget_bytes
    if budget is None:
        return
    space, nearest, least = subject.space, None, None
    cuts = [[block.stop for block in each.decoupling.blocks[:-1]] for each in begin]
    for ends in sorted(cuts, key=len, reverse=True) or [list(space.ends[: space.fewest - 1])]:
        for head in space.heads:
            decoupling = space.uniform(ends, head, min(space.links))
            try:
                taken = subject.costs.of(decoupling).memory
            except LocalgradError:
                continue
            if taken <= budget:
                return
            if least is None or taken < least:
                nearest, least = decoupling, taken
    assert nearest is not None
    assert least is not None
    heads = {block.head.name for block in nearest.blocks if block.head}
    raise LocalgradError(
        f"nothing in the search space fits {shown(budget)}: the nearest, {len(nearest.blocks)} "
        f"blocks cut after {', '.join(nearest.units[b.stop - 1] for b in nearest.blocks[:-1])} "
        f"with {', '.join(sorted(heads))}, takes {shown(least)}: raise search.budget or lower "
        "--batch_size"
    )


def _processes(
    config: Config, out: Path, record: Record, watch: Watch, stop: Callable[[], bool]
) -> None:
    """Run workers until all have ended; one that is killed is replaced, its trial put back."""
    context = multiprocessing.get_context("spawn")
    tree = config.model_dump()

    def start() -> BaseProcess:
        process = context.Process(target=worker_process, args=(tree, str(out)), daemon=False)
        process.start()
        return process

    running = [start() for _ in range(config.search.processes)]
    restarts, asked, seen = RESTARTS * len(running), False, -1
    try:
        while running:
            time.sleep(_LOOK)
            if stop() and not asked:
                asked = True
                for process in running:
                    process.terminate()
            ended = sum(trial.state.is_finished() for trial in record.counted().values())
            if ended != seen:
                seen = ended
                watch.changed(record)
            for process in [process for process in running if not process.is_alive()]:
                running.remove(process)
                process.join()
                if process.exitcode == 0 or asked:
                    continue
                lost = record.put_back(process.pid)
                watch.note(f"a worker ended with code {process.exitcode}; {lost} trial put back")
                if process.exitcode is not None and process.exitcode > 0:
                    raise LocalgradError("a worker process failed: its error stands above")
                if restarts:
                    restarts -= 1
                    running.append(start())
    finally:
        for process in running:
            process.kill()
            process.join()
    if asked:
        raise Interrupted
