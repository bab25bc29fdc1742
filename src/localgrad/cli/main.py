"""The commands."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from localgrad.errors import LocalgradError

COMMANDS = {
    "train": "train one rule; fills a run folder",
    "compare": "train several rules under one recipe; prints a table, writes compare.html",
    "audit": "measure which units each loss of a rule trains, and print the matrix",
    "list": "show the rules, networks and data sets",
}
MISTAKE, INTERRUPTED = 2, 130


def main(words: list[str] | None = None) -> int:
    """Run a command; return the exit code.

    0: done. 2: a mistake in what was asked, one line on stderr. 130: stopped by Ctrl-C, with the
    state saved.
    """
    words = sys.argv[1:] if words is None else words
    try:
        return _run(words)
    except LocalgradError as error:
        if "--debug" in words:
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return MISTAKE
    except ModuleNotFoundError as error:
        if "--debug" in words or (error.name or "").startswith("localgrad"):
            raise
        print(
            f"error: the command line needs {error.name}: pip install 'localgrad[all]'",
            file=sys.stderr,
        )
        return MISTAKE
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED


def _run(words: list[str]) -> int:
    from localgrad.cli import show
    from localgrad.cli.arguments import parse
    from localgrad.experiment.config import build_config, to_yaml

    arguments = parse(words, list(COMMANDS))
    if arguments.command is None or arguments.flags.get("help"):
        show.print_help(arguments.command, COMMANDS)
        return 0 if words else MISTAKE
    tree = arguments.tree()
    flags = arguments.flags
    if arguments.command in ("train", "compare") and flags.get("resume") and not tree.get("methods"):
        tree = _from_folder(tree)
    config = build_config(tree)
    if flags.get("print_config"):
        print(to_yaml(config), end="")
        return 0
    commands: dict[str, Callable[[Any, dict[str, Any]], int]] = {
        "train": _train,
        "compare": _compare,
        "audit": _audit,
        "list": _list,
    }
    return commands[arguments.command](config, flags)


def _from_folder(tree: dict[str, Any]) -> dict[str, Any]:
    """With nothing but --out and --resume, take the configuration from the folder."""
    from localgrad.experiment.config import read_yaml

    kept = Path(str(tree.get("out"))) / "config.yaml"
    return read_yaml(kept) if set(tree) == {"out"} and kept.exists() else tree


def _train(config: Any, flags: dict[str, Any]) -> int:
    from localgrad.cli import show
    from localgrad.experiment.build import build
    from localgrad.experiment.compare import slug
    from localgrad.experiment.folder import RunFolder
    from localgrad.experiment.loop import Interrupted, train

    experiment = build(config)
    name = f"{slug(experiment.label)}-{config.network.name}-{config.data.name}-s{config.seed}"
    folder = RunFolder(config.out or Path("runs") / slug(name))
    quiet = bool(flags.get("quiet"))
    progress = show.progress_bar(quiet)
    with _stop_at_signal() as stopped, progress or nullcontext():
        watcher = None if quiet else show.Bar(experiment.label, progress)
        try:
            summary = train(experiment, folder, watcher, bool(flags.get("resume")), stopped)
        except Interrupted:
            print(f"stopped; go on with: localgrad train --out {folder.path} --resume", file=sys.stderr)
            return INTERRUPTED
    _write_report(folder, summary)
    rows = [
        {"": "test accuracy", "value": f"{100 * summary['test_accuracy']:.2f} %"},
        {"": "losses", "value": str(summary["blocks"])},
        {"": "peak activation memory", "value": _mebibytes(summary["peak_activation_bytes"])},
        {"": "peak memory", "value": _mebibytes(summary["peak_memory_bytes"])},
        {"": "FLOPs an image", "value": f"{summary['flops_per_image'] / 1e6:,.1f} M"},
        {"": "training", "value": f"{summary['train_seconds']:,.1f} s"},
        {"": "speed", "value": f"{summary['images_per_second']:,.0f} images/s"},
    ]
    show.print_table(f"{summary['label']} on {summary['network']}, {summary['data']}", rows)
    print(f"wrote {folder.path}")
    _write_json(flags, summary)
    return 0


def _write_report(folder: Any, summary: dict[str, Any]) -> None:
    try:
        from localgrad.report import write_run

        write_run(summary, folder.metrics(), folder.read_json("reach.json"), folder / "report.html")
    except ModuleNotFoundError as error:
        print(f"no report.html without {error.name}: pip install 'localgrad[report]'", file=sys.stderr)


def _compare(config: Any, flags: dict[str, Any]) -> int:
    from localgrad.cli import show
    from localgrad.experiment.compare import compare
    from localgrad.experiment.environment import command
    from localgrad.experiment.loop import Interrupted

    out = Path(config.out or "runs/compare")
    quiet = bool(flags.get("quiet"))
    progress = show.progress_bar(quiet)

    def watch(label: str, run: int, runs: int) -> Any:
        return show.Watcher() if quiet else show.Bar(f"[{run}/{runs}] {label}", progress)

    def note(text: str) -> None:
        if not quiet:
            show.console.print(text)

    with _stop_at_signal() as stopped, progress or nullcontext():
        try:
            results = compare(config, out, bool(flags.get("resume")), watch, stopped, note)
        except Interrupted:
            print(f"stopped; go on with: localgrad compare --out {out} --resume", file=sys.stderr)
            return INTERRUPTED
    first = results[0]
    title = (
        f"{first['network']} on {first['data']}, {first['train_images']:,} images, "
        f"{config.epochs} epochs, batch {config.batch_size}"
    )
    show.print_table(title, _rows(results))
    try:
        from localgrad.report import write_compare

        write_compare(results, out / "compare.html", title=title, command=command())
        print(f"wrote {out / 'compare.html'} and {out / 'compare.json'}")
    except ModuleNotFoundError as error:
        print(f"no compare.html without {error.name}: pip install 'localgrad[report]'", file=sys.stderr)
    _write_json(flags, results)
    return 0


def _rows(results: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the table's rows: a rule each, over its seeds."""
    import statistics

    rows = []
    for label in dict.fromkeys(result["label"] for result in results):
        runs = [result for result in results if result["label"] == label]
        accuracies = [100 * run["test_accuracy"] for run in runs]
        accuracy = f"{statistics.mean(accuracies):.2f} %"
        if len(accuracies) > 1:
            accuracy += f" ± {statistics.stdev(accuracies):.2f}"
        ratios = runs[0]["ratios"]
        rows.append(
            {
                "rule": label,
                "test accuracy": accuracy,
                "activations": _mebibytes(runs[0]["peak_activation_bytes"]),
                "vs BP": _ratio(ratios["activation_memory"]),
                "FLOPs vs BP": _ratio(ratios["flops"]),
                "time vs BP": _ratio(ratios["time"]),
                "losses": str(runs[0]["blocks"]),
            }
        )
    return rows


def _audit(config: Any, flags: dict[str, Any]) -> int:
    from localgrad import audit
    from localgrad.experiment.build import build

    experiment = build(config)
    learner = experiment.learner
    x, y = next(experiment.train.epoch(0))
    x, y = x[:4], y[:4]
    reach = audit(lambda: learner.step(x, y), learner)
    print(learner.decoupling)
    print(f"\nmeasured reach of {experiment.label} (# trained, . not, ! against the declaration)")
    print(reach)
    for violation in reach.violations:
        print(violation)
    _write_json(flags, reach.to_dict())
    if "plot" in flags:
        with _writing(flags["plot"]):
            reach.plot(flags["plot"])
    return 1 if reach.violations else 0


def _list(config: Any, flags: dict[str, Any]) -> int:
    import dataclasses

    from localgrad import data, methods, networks
    from localgrad.cli import show

    rules = []
    for name, cls in methods.KNOWN.items():
        options = ", ".join(f"{f.name}={f.default}" for f in dataclasses.fields(cls))
        text = (cls.__doc__ or "").splitlines()[0]
        rules.append({"rule": name, "what it is": text, "options": options})
    if "json" not in flags:
        for row in rules:
            show.console.print(f"{row['rule']:<18}{row['what it is']}", markup=False)
            if row["options"]:
                show.console.print(f"{'':<18}{row['options']}", style="dim", markup=False)
        show.console.print(f"\nnetworks  {', '.join(networks.names())}, or package.module:callable")
        show.console.print(f"data      {', '.join(data.names())}")
    found = {"methods": rules, "networks": networks.names(), "data": data.names()}
    _write_json(flags, found)
    return 0


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


@contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalgradError(f"cannot write {path}: {error.strerror}") from error


def _write_json(flags: dict[str, Any], value: Any) -> None:
    if "json" in flags:
        with _writing(flags["json"]):
            Path(flags["json"]).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _stop_at_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a wish to stop; the second one stops at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("stopping after this batch; again to stop at once", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
