"""What benchmarks/cpu/transfer.py found: rows, their document, their text."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from localgrad.experiment import environment
from localgrad.experiment.config import Config
from localgrad.experiment.folder import RunFolder
from transfer_ways import Target, Way, best_of

Row = dict[str, Any]
Job = tuple[Config, Path, str, int]  # with the way's name and the seed


def spread(values: list[float]) -> Row:
    """Return mean and standard deviation."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": std}


def rows_of(jobs: list[Job], target: Target, rows: list[Way]) -> list[Row]:
    """Return a row for each way; random ones are joined, since it is their spread that counts."""
    summaries = {
        (name, seed): RunFolder(folder).read_json("summary.json") for _, folder, name, seed in jobs
    }
    names = ["random" if way.name.startswith("random ") else way.name for way in rows]
    first = rows[1].name
    found = []
    for name in dict.fromkeys(names):
        same = [way.name for way, other in zip(rows, names, strict=True) if other == name]
        runs = {key: run for key, run in summaries.items() if key[0] in same}
        accuracies = [run["test_accuracy"] for run in runs.values()]
        above = [
            summaries[first, seed]["test_accuracy"] - run["test_accuracy"]
            for (_, seed), run in runs.items()
        ]
        one = next(iter(runs.values()))
        found.append(
            {
                "network": target.config.network.name,
                "data": one["data"],
                "way": name,
                "n": len(runs),
                "decouplings": len(same),
                "test_accuracy": spread(accuracies),
                "test_accuracies": accuracies,
                "found_minus_this": spread(above),
                "memory_bytes": spread([run["peak_memory_bytes"] for run in runs.values()])["mean"],
                "flops_per_image": spread([run["flops_per_image"] for run in runs.values()])[
                    "mean"
                ],
                "used": [
                    way.decoupling.to_dict()
                    for way in rows
                    if way.name in same and way.decoupling is not None
                ],
            }
        )
    return found


def described(
    options: argparse.Namespace, searches: dict[str, Row], rows: list[Row], rank: Row
) -> Row:
    """Return the document: machine, options, searches, rows, rank correlation."""
    kept = (
        "data",
        "training",
        "validation",
        "epochs",
        "counts",
        "left_out",
        "seconds",
        "trained_epochs",
    )
    return {
        **environment.describe(torch.device(options.device)),
        "options": {
            key: value for key, value in vars(options).items() if key not in ("out", "json", "data")
        },
        "searches": {
            name: {
                **{key: one[key] for key in (*kept, "full_training", "budget")},
                "best": best_of(one).to_dict(),
            }
            for name, one in searches.items()
        },
        "rows": rows,
        "rank": rank,
    }


def shown(row: Row) -> dict[str, str]:
    """Return a row as text."""
    accuracy, above = row["test_accuracy"], row["found_minus_this"]
    return {
        "network": row["network"],
        "way": row["way"],
        "n": str(row["n"]),
        "test accuracy, %": f"{100 * accuracy['mean']:.2f} ± {100 * (accuracy['std'] or 0):.2f}",
        "found above it": f"{100 * above['mean']:+.2f} ± {100 * (above['std'] or 0):.2f}",
        "MiB": f"{row['memory_bytes'] / 2**20:.1f}",
        "MFLOPs an image": f"{row['flops_per_image'] / 1e6:.0f}",
    }
