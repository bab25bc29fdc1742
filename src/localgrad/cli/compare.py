"""``localgrad compare``: several rules and seeds under one recipe."""

from __future__ import annotations

import shlex
import statistics
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from localgrad.cli import show
from localgrad.cli.asked_files import check_writable, write_json
from localgrad.cli.interrupt import stop_at_signal
from localgrad.cli.page import write_compare_page, write_run_page
from localgrad.experiment.compare import compare, plan
from localgrad.experiment.config import Config
from localgrad.experiment.failures import FAILED, RunsFailedError
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.loop import Interrupted, Watcher


def run(config: Config, flags: dict[str, Any], command: str) -> int:
    """Run every rule with every seed, print the table, write the page."""
    check_writable(flags.get("json"))
    out = Path(config.out or "runs/compare")
    resume, quiet = "resume" in flags, "quiet" in flags
    progress = show.progress_bar(quiet)

    def watch(label: str, number: int, runs: int) -> Watcher:
        return (
            Watcher()
            if quiet
            else show.Bar(f"[{number}/{runs}] {label}", progress, config.data.inputs)
        )

    def note(text: str) -> None:
        if not quiet:
            print(text, flush=True)

    with stop_at_signal() as stop, progress or nullcontext():
        failed = None
        try:
            results = compare(config, out, resume, watch, stop, note, command)
        except RunsFailedError as error:
            results, failed = error.results, str(error)
        except Interrupted:
            where = shlex.quote(str(out))
            print(f"stopped; go on with: localgrad compare --out {where} --resume", file=sys.stderr)
            return 130
    if failed is not None:
        print(f"error: {failed}", file=sys.stderr)
    if not results:
        return FAILED
    title = title_of(results)
    print(title)
    print(show.table(rows(results)))
    folders = [RunFolder(str(run_config.out)) for run_config in plan(config, out)]
    finished = [folder for folder in folders if folder.finished]
    for folder, result in zip(finished, results, strict=True):
        write_run_page(folder, result)
    page = write_compare_page(RunFolder(out), results, title, command)
    print(f"wrote {out}: compare.json, {page}")
    write_json(flags.get("json"), results)
    return 0 if failed is None else FAILED


def title_of(results: list[dict[str, Any]]) -> str:
    """Return what was compared, in a line; several networks, data or lengths are not named."""

    def one(key: str, text: str = "{:,}") -> str | None:
        found = {result.get(key) for result in results}
        value = found.pop()
        return None if found or value is None else text.format(value)

    inputs = one("inputs", "{}") or "images"
    epochs = {result["epochs"] for result in results}
    facts = [
        one("train_images", "{:,} " + inputs),
        show.plural(epochs.pop(), "epoch") if len(epochs) == 1 else None,
        one("batch_size", "batch {}"),
    ]
    network, data = one("network", "{}") or "several networks", one("data", "{}") or "several data"
    said = ", ".join(fact for fact in facts if fact is not None)
    return f"{network} on {data}{': ' if said else ''}{said}"


def rows(results: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the table's rows: a rule each, over its seeds."""
    found = []
    for label in dict.fromkeys(result["label"] for result in results):
        runs = [result for result in results if result["label"] == label]
        accuracies = [100 * run["test_accuracy"] for run in runs]
        accuracy = f"{statistics.mean(accuracies):.2f}"
        if len(accuracies) > 1:
            accuracy += f" ± {statistics.stdev(accuracies):.2f}"
        ratios = runs[0]["ratios"]
        bits = {
            key.replace("_", " "): f"{statistics.mean(run[key] for run in runs):.3f}"
            for key in ("bits_per_byte", "bits_per_char")
            if key in runs[0]
        }
        found.append(
            {
                "rule": label,
                "losses": str(runs[0]["blocks"]),
                "test accuracy, %": accuracy,
                **bits,
                "activations": show.mebibytes(runs[0]["peak_activation_bytes"]),
                "vs BP": show.ratio(ratios["activation_memory"]),
                "FLOPs vs BP": show.ratio(ratios["flops"]),
                "time vs BP": show.ratio(ratios["time"]),
            }
        )
    return found
