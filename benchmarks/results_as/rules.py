"""Tables of a rule's own page (options, cost, what it achieves), and all rules side by side."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from localgrad import methods
from results_as.accuracy import above, bits
from results_as.step import STEPS, bench_of, times_bp
from results_as.text import RESULTS, Row, markdown, network_of, percent, read

#: The form of each rule that stands for it where all stand side by side: with its own defaults.
DEFAULT = {name: methods.label(cls()) for name, cls in methods.KNOWN.items()}


def page(method: str) -> str:
    """Return the name of a rule's page in docs/rules."""
    return f"{method.replace('_', '-')}.md"


def described(cls: type[Any]) -> dict[str, str]:
    """Return what a rule's docstring says of each of its options."""
    _, _, text = (inspect.getdoc(cls) or "").partition("\nArgs:\n")
    found: dict[str, str] = {}
    for item in re.split(r"\n(?= {4}\S)", text.split("\n\n")[0]):
        names, _, words = item.strip().partition(": ")
        words = " ".join(words.split()).replace("``", "`")
        found |= {name.strip(): words for name in names.split(",") if words}
    return found


def options_table(method: str) -> str:
    """Every option with its default, from the dataclass, and what its docstring says of it."""
    cls = methods.KNOWN[method]
    fields, words = dataclasses.fields(cls), described(cls)
    if {field.name for field in fields} != set(words):
        raise ValueError(f"{cls.__name__}: its docstring describes {set(words)}, not its options")
    if not fields:
        return "None."
    rows = [[f"`{f.name}`", f"`{f.default!r}`", words[f.name]] for f in fields]
    return markdown(["option", "default", "what"], rows)


def cost_table(method: str) -> str:
    """What a step costs against BP's, on every network where it was timed."""
    rows: list[list[str]] = []
    about: list[str] = []
    for case in STEPS:
        found = bench_of(case)
        timed = [] if found is None else [row for row in found["rows"] if row["method"] == method]
        if found is None or not timed:
            continue
        for row in timed:
            where = f"{found['network'].rpartition(':')[2]}, {found['input']}, {found['batch']}"
            numbers = [times_bp(row, f"{key}_ratio") for key in ("memory", "total", "flops")]
            time = f"{times_bp(row, 'time_ratio')} ± {times_bp(row, 'time_ratio_std')}"
            rows.append(
                [where, row["rule"], str(row["blocks"] or "-"), str(row["losses"]), *numbers, time]
            )
        about.append(
            f"{found['hardware']}, torch {found['versions']['torch']}, {found['date'][:10]}"
        )
    if not rows:
        return "Not measured yet: `python benchmarks/cpu/step.py`."
    header = ["network, input, batch", "rule", "K", "losses", "activations ÷ BP", "in all ÷ BP"]
    return (
        f"{markdown([*header, 'FLOPs ÷ BP', 'time ÷ BP'], rows)}\n\n"
        f"K: blocks asked for. In all: with parameters, gradients and the optimizer's state. Time: "
        f"median of steps taken in turn with BP's ± standard deviation. {one_of(about)}. At the "
        "batches that people train, predicted: [memory and speed](../memory-and-speed.md)."
    )


def one_of(texts: list[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def trainings() -> list[tuple[str, Row]]:
    """Return every comparison of trained networks, by the name of its file."""
    found = [(path.stem, read(path.stem)) for path in sorted(RESULTS.glob("*.json"))]
    return [(name, one) for name, one in found if {"train_images", "rows"} <= one.keys()]


def row_of(result: Row, label: str) -> Row | None:
    return next((row for row in result["rows"] if row["rule"] == label), None)


def against(row: Row, other: Row | None) -> str:
    """Return points above another rule, seed by seed; a dash where there is none in common."""
    if other is None or other is row or not set(row["seeds"]) & set(other["seeds"]):
        return "-"
    return above(row, other)


def trained_table(method: str) -> str:
    """What short trainings have found, beside BP and Greedy of the same run."""
    rows: list[list[str]] = []
    texts: list[list[str]] = []
    files: list[str] = []
    for name, result in trainings():
        bp, greedy = (row_of(result, label) for label in ("BP", "Greedy"))
        own = [row for row in result["rows"] if row["method"] == method]
        files += [name] if own else []
        for row in own:
            shared = [
                f"{result['data']}, {network_of(result)}",
                row["rule"],
                str(row["losses"]),
                f"{result['epochs']} x {result['train_images']:,}",
                str(row["n"]),
            ]
            cost = [f"{row['memory_ratio']:.2f}", f"{row['flops_ratio']:.2f}"]
            if "bits_per_byte" in row:
                beside = "-" if bp is None else bits(bp)
                texts.append([*shared, bits(row), beside, *cost])
            else:
                points = [against(row, bp), against(row, greedy)]
                rows.append([*shared, percent(row["test_accuracy"]), *points, *cost])
    header = ["data, network", "rule", "losses", "epochs x inputs", "n"]
    parts = []
    if rows:
        middle = ["test accuracy %", "above BP, points", "above Greedy, points"]
        parts.append(markdown([*header, *middle, "activations ÷ BP", "FLOPs ÷ BP"], rows))
    if texts:
        middle = ["bits per byte", "BP's"]
        parts.append(markdown([*header, *middle, "activations ÷ BP", "FLOPs ÷ BP"], texts))
    if not parts:
        return "Not measured yet: `localgrad compare --config recipes/cifar10-resnet32-k16.yaml`."
    named = ", ".join(f"`{name}.json`" for name in files)
    parts.append(
        f"Short trainings on a part of the data: they compare rules, and are not to be held "
        f"against published figures. From `benchmarks/results`: {named}."
    )
    return "\n\n".join(parts)


def rules_table() -> str:
    """All rules with their defaults: cost of a step and accuracy of one short training."""
    steps, trained = read("step-resnet32-cpu"), read("cifar10-resnet32-k16")
    rows = []
    for method, label in DEFAULT.items():
        cost, result = row_of(steps, label), row_of(trained, label)
        numbers = ["-"] * 4
        if cost is not None:
            keys = ("memory_ratio", "flops_ratio", "time_ratio")
            numbers = [str(cost["losses"]), *(times_bp(cost, key) for key in keys)]
        accuracy = "-" if result is None else percent(result["test_accuracy"])
        rows.append([f"[{label}]({page(method)})", *numbers, accuracy])
    header = ["rule", "losses", "activations ÷ BP", "FLOPs ÷ BP", "time ÷ BP", "accuracy %"]
    return (
        f"{markdown(header, rows)}\n\nEvery rule with its defaults, ResNet-32 cut into 16. A step "
        f"at batch {steps['batch']}, {steps['hardware']}, {steps['date'][:10]}. Accuracy: "
        f"{trained['epochs']} epochs on {trained['train_images']:,} images of {trained['data']}, "
        f"tested on {trained['test_images']:,}."
    )


TABLES: dict[str, Callable[[], str]] = {
    "rules": rules_table,
    **{
        f"rule-{what}-{page(method)[:-3]}": partial(write, method)
        for method in methods.names()
        for what, write in (
            ("options", options_table),
            ("cost", cost_table),
            ("trained", trained_table),
        )
    },
}
