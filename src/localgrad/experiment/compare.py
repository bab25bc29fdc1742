"""Several rules, several seeds, one recipe: the comparison."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from localgrad import methods
from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment import learned
from localgrad.experiment.build import Experiment, build
from localgrad.experiment.building.data import load_data
from localgrad.experiment.building.method import build_method
from localgrad.experiment.config import Config
from localgrad.experiment.cost import time_ratios, time_steps
from localgrad.experiment.failures import RunsFailedError, why_failed
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.loop import Interrupted, Watcher, train
from localgrad.experiment.options.kinds import Choice

Timing = dict[str, float | None]  # label -> time of a step against BP's
#: of a summary: what a step costs besides its rule
SETTING = ("network", "network_options", "data", "batch_size")
#: ratio to BP -> of which number of a summary
RATIOS = {
    "activation_memory": "peak_activation_bytes",
    "memory": "peak_memory_bytes",
    "flops": "flops_per_image",
}


def slug(text: str) -> str:
    """Return a folder name for a label.

    >>> slug("BackLink L=1 layer")
    'backlink-l1-layer'
    """
    return re.sub(r"[^a-z0-9.]+", "-", text.lower().replace("=", "")).strip("-")


def plan(config: Config, out: Path) -> list[Config]:
    """Return the configuration of every run: each rule, in order, with each seed.

    Raises:
        LocalgradError: no rule is named, or two have the same label.
    """
    if not config.methods:
        raise LocalgradError(
            "compare needs rules: --methods backprop,backlink or methods in the --config file"
        )
    if config.decoupling is not None:
        raise LocalgradError("compare runs methods: leave out decoupling, which is for train")
    labels = [label_of(choice) for choice in config.methods]
    for label in labels:
        if labels.count(label) > 1:
            raise LocalgradError(f"compare names {label!r} twice under methods")
    return [
        config.model_copy(
            update={
                "method": choice,
                "seed": seed,
                "out": str(out / f"{slug(label)}-s{seed}"),
                "methods": [],
                "seeds": [],
            }
        )
        for label, choice in zip(labels, config.methods, strict=True)
        for seed in config.seeds or [config.seed]
    ]


def label_of(choice: Choice) -> str:
    """Return a rule's display name."""
    return methods.label(build_method(choice))


def compare(
    config: Config,
    out: Path,
    resume: bool = False,
    watch: Callable[[str, int, int], Watcher] = lambda label, run, runs: Watcher(),
    stop: Callable[[], bool] = lambda: False,
    note: Callable[[str], Any] = lambda text: None,
    command: str | None = None,
) -> list[dict[str, Any]]:
    """Run every rule with every seed, and put each beside BP.

    Every rule is built, and step times are taken with all rules in turn in one process, before
    the first run; then each run is trained in a folder of its own under ``out``.

    Args:
        config: with ``methods`` and ``seeds``.
        out: folder of the comparison.
        resume: go on from what ``out`` holds; rules and seeds may be added or left out.
        watch: makes the watcher of a run from its label, number and the number of runs.
        stop: asked between batches; once true, the run is saved and Interrupted raised.
        note: told in a line what is under way.
        command: what was typed; default: this process's command line.

    Returns:
        A summary for each run with ``ratios`` to BP, ``curve`` and ``reach``, as in
        ``compare.json``.

    Raises:
        LocalgradError: a run cannot be built, or another process is in ``out``.
        RunsFailedError: some runs failed; the others are in it, and in ``compare.json``.
        Interrupted: after saving, where ``stop`` asked for it.
    """
    root = RunFolder(out)
    with root.alone():
        return _compared(config, root, resume, watch, stop, note, command)


def _compared(
    config: Config,
    root: RunFolder,
    resume: bool,
    watch: Callable[[str, int, int], Watcher],
    stop: Callable[[], bool],
    note: Callable[[str], Any],
    command: str | None,
) -> list[dict[str, Any]]:
    runs = plan(config, root.path)
    root.check(config, resume)
    folders = [RunFolder(str(run.out)) for run in runs]
    for folder, run in zip(folders, runs, strict=True):
        folder.check(run, resume)
    timing = _kept_timing(root, runs)
    data = None
    if timing is None or not all(folder.finished for folder in folders):
        data = load_data(config)
        experiments = [_build(run, data) for run in runs if run.seed == runs[0].seed]
        root.open(config, resume)
        learned.forget(root)
        if timing is None:
            timing = _measured_timing(experiments, config.repeats, root, note, stop)
        del experiments
    results, failed = [], {}
    for number, (folder, run) in enumerate(zip(folders, runs, strict=True), start=1):
        label = label_of(run.method)
        if not folder.finished:
            given = (watch(label, number, len(runs)), resume, stop, timing[label], command)
            why = why_failed(partial(_train, run, data, folder, *given))
            if why is not None:
                failed[f"{label}, seed {run.seed}"] = why
                note(f"failed: {label}, seed {run.seed}: {why}")
                continue
        results.append({**gather(folder), "time_ratio": timing[label]})
    add_ratios(results)
    if results:
        root.write_json("compare.json", results)
        first = {
            label_of(run.method): folder.path
            for run, folder in zip(runs, folders, strict=True)
            if run.seed == runs[0].seed and folder.finished
        }
        learned.write(root, first, config.analyse, data, note, lambda: _tick(stop), command)
    if failed:
        raise RunsFailedError(failed, len(runs), results)
    return results


def _tick(stop: Callable[[], bool]) -> None:
    if stop():
        raise Interrupted


def _train(run: Config, data: Dataset | TextDataset | None, folder: RunFolder, *given: Any) -> None:
    # the data is loaded once and shared; the learner is built anew, from its own seed
    train(build(run, data), folder, *given)


def _build(run: Config, data: Dataset | TextDataset | None) -> Experiment:
    try:
        return build(run, data)
    except LocalgradError as error:
        raise LocalgradError(f"{label_of(run.method)}: {error}") from error


def _kept_timing(root: RunFolder, runs: list[Config]) -> Timing | None:
    """Return what an earlier start measured, None where it must be measured."""
    labels = {label_of(run.method) for run in runs}
    if "BP" not in labels:
        return dict.fromkeys(labels)
    if not (root / "timing.json").exists():
        return None
    kept: Timing = root.read_json("timing.json")["ratio"]
    return kept if labels <= set(kept) else None


def _measured_timing(
    experiments: list[Experiment],
    repeats: int,
    root: RunFolder,
    note: Callable[[str], Any],
    stop: Callable[[], bool],
) -> Timing:
    """Return each rule's step time against BP's, measured once per comparison."""
    labels = [experiment.label for experiment in experiments]
    note(f"timing {len(labels)} rules, {repeats} steps each, in turn")
    seconds = time_steps(experiments, repeats, lambda: _tick(stop))
    ratio: Timing = dict(zip(labels, time_ratios(seconds, labels.index("BP")), strict=True))
    medians = [statistics.median(taken) for taken in seconds]
    root.write_json(
        "timing.json",
        {
            "ratio": ratio,
            "median_seconds": dict(zip(labels, medians, strict=True)),
            "repeats": repeats,
        },
    )
    return ratio


def gather(folder: RunFolder) -> dict[str, Any]:
    """Return a finished run's summary with its curve and reach."""
    summary: dict[str, Any] = folder.read_json("summary.json")
    summary["curve"] = folder.metrics()
    summary["reach"] = folder.read_json("reach.json")
    return summary


def add_ratios(results: list[dict[str, Any]]) -> None:
    """Add ``ratios`` to BP of the same network, inputs and batch; None without BP or timing."""

    def setting(result: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(str(result.get(key)) for key in SETTING)

    bases = {setting(r): r for r in reversed(results) if r["label"] == "BP"}
    for result in results:
        base = bases.get(setting(result))
        result["ratios"] = {
            **{
                name: None if base is None else result[key] / base[key]
                for name, key in RATIOS.items()
            },
            "time": result["time_ratio"],
        }
