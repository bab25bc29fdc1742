"""Several rules, several seeds, one recipe: the comparison."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localgrad import methods
from localgrad.data import Dataset
from localgrad.errors import LocalgradError
from localgrad.experiment.build import Experiment, build, build_method, load_data
from localgrad.experiment.config import Choice, Config
from localgrad.experiment.cost import time_ratios, time_steps
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.loop import Watcher, train


def slug(text: str) -> str:
    """Return a folder name for a label.

    >>> slug("BackLink L=1 layer")
    'backlink-l1-layer'
    """
    return re.sub(r"[^a-z0-9.]+", "-", text.lower().replace("=", "")).strip("-")


def plan(config: Config) -> list[Config]:
    """Return the configuration of every run: each rule, in order, with each seed.

    Raises:
        LocalgradError: no rule is named, or two have the same label.
    """
    if not config.methods:
        raise LocalgradError("compare needs rules: give methods in the --config file")
    labels = [label_of(choice) for choice in config.methods]
    for label in labels:
        if labels.count(label) > 1:
            raise LocalgradError(f"compare names {label!r} twice under methods")
    return [
        config.model_copy(update={"method": choice, "seed": seed})
        for choice in config.methods
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
) -> list[dict[str, Any]]:
    """Run every rule with every seed, and put each beside BP.

    Step times are taken first, with all rules in turn in one process; then each run is trained in
    a folder of its own under ``out``.

    Args:
        config: with ``methods`` and ``seeds``.
        out: folder of the comparison.
        resume: go on from what ``out`` holds.
        watch: makes the watcher of a run from its label, number and the number of runs.
        stop: asked between batches; once true, the run is saved and Interrupted raised.
        note: told in a line what is under way.

    Returns:
        A summary for each run with ``ratios`` to BP, ``curve`` and ``reach``, as in
        ``compare.json``.
    """
    runs = plan(config)
    root = RunFolder(out)
    root.open(config, resume)
    data = load_data(config)
    timing = _timing(config, runs, data, root, note)
    results = []
    for number, run in enumerate(runs):
        label = label_of(run.method)
        folder = RunFolder(out / f"{slug(label)}-s{run.seed}")
        if not folder.finished or not resume:
            # the data is loaded once and shared; the learner is built anew, from its own seed
            train(
                build(run, data),
                folder,
                watch(label, number + 1, len(runs)),
                resume=resume,
                stop=stop,
                timing=timing[label],
            )
        results.append(gather(folder))
    add_ratios(results)
    root.write_json("compare.json", results)
    return results


def _timing(
    config: Config,
    runs: list[Config],
    data: Dataset,
    root: RunFolder,
    note: Callable[[str], Any],
) -> dict[str, float | None]:
    """Return each rule's step time against BP's, measured once per comparison."""
    if (root / "timing.json").exists():
        kept: dict[str, float | None] = root.read_json("timing.json")["ratio"]
        return kept
    seed = runs[0].seed
    experiments: list[Experiment] = [build(run, data) for run in runs if run.seed == seed]
    labels = [experiment.label for experiment in experiments]
    baseline = labels.index("BP") if "BP" in labels else None
    if baseline is None:
        return dict.fromkeys(labels)
    note(f"timing {len(labels)} rules, {config.repeats} steps each, in turn")
    seconds = time_steps(experiments, config.repeats)
    ratios = time_ratios(seconds, baseline)
    root.write_json(
        "timing.json",
        {
            "ratio": dict(zip(labels, ratios, strict=True)),
            "median_seconds": {
                label: statistics.median(s) for label, s in zip(labels, seconds, strict=True)
            },
            "repeats": config.repeats,
        },
    )
    return dict(zip(labels, ratios, strict=True))


def gather(folder: RunFolder) -> dict[str, Any]:
    """Return a finished run's summary with its curve and reach."""
    summary: dict[str, Any] = folder.read_json("summary.json")
    summary["curve"] = folder.metrics()
    summary["reach"] = folder.read_json("reach.json")
    return summary


def add_ratios(results: list[dict[str, Any]]) -> None:
    """Add ``ratios`` to BP of the same comparison; None where there is no BP or no timing."""
    base = next((r for r in results if r["label"] == "BP"), None)
    for result in results:
        result["ratios"] = {
            "activation_memory": None
            if base is None
            else result["peak_activation_bytes"] / base["peak_activation_bytes"],
            "flops": None if base is None else result["flops_per_image"] / base["flops_per_image"],
            "time": result["time_ratio"],
        }
