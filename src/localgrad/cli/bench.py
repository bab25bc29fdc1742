"""``localgrad bench``: rules against BP on one network, on made-up inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from localgrad.cli import show
from localgrad.cli.asked_files import check_plot, check_writable, draw, write_json
from localgrad.errors import LocalgradError
from localgrad.experiment import environment
from localgrad.experiment.bench import Bench, bench, reasons
from localgrad.experiment.bench_case import Row
from localgrad.experiment.config import Config
from localgrad.experiment.host import find_device
from localgrad.experiment.made_up import read_count, read_shape
from localgrad.report.pareto import front

BATCH = "128"


def run(config: Config, flags: dict[str, Any], command: str) -> int:
    """Time and count a step of every rule, print the table, draw the figure."""
    check_writable(flags.get("json"))
    check_plot(flags.get("plot"))
    if not config.methods:
        raise LocalgradError("bench needs rules: --methods greedy,backlink")
    predict, quiet = "predict" in flags, "quiet" in flags
    found = bench(
        config,
        read_count("batch", flags.get("batch", BATCH)),
        [read_count("blocks", k) for k in flags["blocks"].split(",")] if "blocks" in flags else [],
        read_shape(flags["input"]) if "input" in flags else None,
        predict,
        note=lambda text: None if quiet else print(text, flush=True),
    )
    title = f"{found.network}, {found.shape}, batch {found.batch}, {config.precision}"
    print(title + (", predicted" if predict else ""))
    print(show.table(table(found)))
    for sentence in reasons(found.skipped):
        print(f"left out: {sentence}")
    about = environment.describe(find_device(config.device), command)
    write_json(flags.get("json"), {**about, **found.to_dict()})
    draw(flags.get("plot"), lambda path: _draw({title: found.rows}, path))
    return 0


def table(found: Bench) -> list[dict[str, str]]:
    """Return the table's rows; a star stands where nothing beats both memory and cost."""
    timed = found.repeats is not None
    cost = "time_ratio" if timed else "flops_ratio"
    placed = [row for row in found.rows if row[cost] is not None]
    best = [placed[index] for index in front([(r[cost], r["total_bytes"]) for r in placed])]
    rows = []
    for row in found.rows:
        shown = {
            "rule": row["rule"],
            "K": "-" if row["blocks"] is None else str(row["blocks"]),
            "losses": str(row["losses"]),
            "activations": show.mebibytes(row["activation_bytes"]),
            "vs BP": show.ratio(row["memory_ratio"]),
            "in all": show.mebibytes(row["total_bytes"]),
            "in all vs BP": show.ratio(row["total_ratio"]),
            "FLOPs vs BP": show.ratio(row["flops_ratio"]),
        }
        if row.get("allocated_total_bytes") is not None:
            shown["allocated"] = show.mebibytes(row["allocated_total_bytes"])
        if timed:
            shown["time vs BP"] = show.ratio(row["time_ratio"])
            shown["+-"] = "-" if row["time_ratio"] is None else f"{row['time_ratio_std']:.2f}"
            shown[f"{found.inputs}/s"] = (
                f"{row['per_second']:,.{0 if row['per_second'] >= 10 else 2}f}"
            )
        rows.append({**shown, "": "*" if row in best else ""})
    return rows


def _draw(panels: dict[str, list[Row]], path: Path) -> None:
    from localgrad.report.memory_time import write_memory_time

    write_memory_time(panels, path)
