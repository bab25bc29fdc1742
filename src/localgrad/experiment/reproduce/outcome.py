"""Ours beside published: one document of plain values for a table."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from typing import Any

from localgrad.experiment.compare import gather, label_of
from localgrad.experiment.reproduce.order import orders
from localgrad.experiment.reproduce.runs import Job, Report
from localgrad.experiment.reproduce.scaling import cost_marks, scaled
from localgrad.experiment.reproduce.table import Published, Row, Table
from localgrad.experiment.same_run import FREE

FORMAT = 1
Result = dict[str, Any]
Runs = dict[str, list[tuple[Job, Result]]]  # row to its finished runs with their summaries
# where things were kept is nobody's business
_LOCAL = re.compile(r" --(?:(?:out|data\.path|store|json)[= ]\S+|resume)")
_OF_COST = ("memory", "memory below", "time above", "time below")


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and standard deviation; None for that of one value."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std}


def settings_of(changes: Sequence[tuple[str, Any]]) -> Result:
    """Return the changes that bear on numbers; where files are and what computes does not."""
    return {key: value for key, value in sorted(changes) if key not in FREE}


def document(
    table: Table,
    report: Report,
    changes: Sequence[tuple[str, Any]],
    command: str,
    beside: Sequence[Job] = (),
) -> Result:
    """Return what is known of a table after runs: settings, machine, rows, order, what is missing.

    Every row has ``n``, the accuracies by seed, hours of training, and ``figures``: each published
    value beside ours (None where the row that it is against has no run), with ``scaled``: what is
    smaller than published and bears on that figure.

    Args:
        table: the published one.
        report: of the runs.
        changes: that were made to the recipes.
        command: what was typed.
        beside: finished runs of other rows, which differences may be against.
    """
    found: Runs = {}
    for job in report.finished:
        found.setdefault(job.row.name, []).append((job, gather(job.folder)))
    others: Runs = {}
    for job in beside:
        if job.row.name not in found:
            others.setdefault(job.row.name, []).append((job, gather(job.folder)))
    rows = [_row(table, row, found, others) for row in table.rows if row.name in found]
    summaries = [summary for runs in found.values() for _, summary in runs]
    newest = max(summaries, key=lambda summary: str(summary["date"]))
    return {
        "format": FORMAT,
        "table": table.name,
        "title": table.title,
        "settings": settings_of(changes),
        "command": _LOCAL.sub("", command),
        "commits": sorted({str(summary["commit"]) for summary in summaries}),
        **{key: newest[key] for key in ("date", "hardware", "platform", "versions")},
        "hours": sum(row["hours"] for row in rows),
        "rows": rows,
        "left_out": report.left_out,
        "order": orders(rows),
    }


def published_accuracy(row: Row) -> float | None:
    """Return the published test accuracy in percent, None where the paper has none."""
    for figure in row.published:
        if figure.what == "test accuracy":
            return figure.value
        if figure.what == "test error":
            return round(100 - figure.value, 6)
    return None


def _row(table: Table, row: Row, own: Runs, others: Runs) -> Result:
    runs, found = own[row.name], {**others, **own}
    job, first = runs[0]
    assert row.config is not None, row.name
    marks = scaled(table, row, job.config, first)
    return {
        "row": row.name,
        "rule": label_of(row.config.method),
        "network": first["network"],
        "data": first["data"],
        "losses": first["blocks"],
        "n": len(runs),
        "seeds": [one.seed for one, _ in runs],
        "published_accuracy": published_accuracy(row),
        "test_accuracy": spread([summary["test_accuracy"] for _, summary in runs]),
        "test_accuracies": [summary["test_accuracy"] for _, summary in runs],
        "block_accuracy": first["block_accuracy"],
        "peak_memory_bytes": first["peak_memory_bytes"],
        "peak_activation_bytes": first["peak_activation_bytes"],
        "flops_per_image": first["flops_per_image"],
        "hours": sum(summary["train_seconds"] for _, summary in runs) / 3600,
        "scaled": marks,
        "assumed": row.assumed,
        "figures": [_figure(figure, row, job, marks, found) for figure in row.published],
    }


def _figure(
    figure: Published,
    row: Row,
    job: Job,
    marks: list[str],
    found: Runs,
) -> Result:
    values = _values(figure, row.name, found)
    costs = figure.what in _OF_COST
    return {
        **figure.model_dump(),
        "unit": figure.unit,
        "ours": None if not values else {**spread(values), "n": len(values), "values": values},
        "scaled": cost_marks(row, job.config, marks) if costs else marks,
    }


def _values(figure: Published, name: str, found: Runs) -> list[float]:
    """Return ours, one a seed; a difference has those seeds that both rows have."""
    own = {job.seed: summary for job, summary in found[name]}
    if not figure.is_difference:
        return [_value(figure.what, summary) for summary in own.values()]
    other = {job.seed: summary for job, summary in found.get(str(figure.than), [])}
    both = [(own[seed], other[seed]) for seed in own if seed in other]
    if figure.what == "accuracy above":
        return [100 * (a["test_accuracy"] - b["test_accuracy"]) for a, b in both]
    if figure.what == "memory below":
        return [100 * (1 - a["peak_memory_bytes"] / b["peak_memory_bytes"]) for a, b in both]
    factors = [a["train_seconds"] / b["train_seconds"] for a, b in both]
    sign = 1 if figure.what == "time above" else -1
    return [sign * 100 * (factor - 1) for factor in factors]


def _value(what: str, summary: Result) -> float:
    if what == "memory":
        return float(summary["peak_memory_bytes"]) / 1e9
    accuracy = 100 * float(summary["test_accuracy"])
    return 100 - accuracy if what == "test error" else accuracy
