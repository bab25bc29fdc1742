"""Turn a comparison into a result that stays: one row a rule, with n, mean and spread.

python benchmarks/collect.py runs/x/compare.json benchmarks/results/x.json
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from localgrad import methods
from localgrad.experiment.compare import add_ratios, gather
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.tree import read_options

SHARED = (
    "network",
    "network_options",
    "data",
    "train_images",
    "test_images",
    "batch_size",
    "epochs",
)
ABOUT = ("versions", "hardware", "platform")
LOCAL = re.compile(r" --(out \S+|resume)")  # where a run was kept is nobody's business


def spread(values: list[float]) -> dict[str, float | None]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": std}


def collect(results: list[dict[str, Any]]) -> dict[str, Any]:
    first = results[0]
    for key in SHARED:
        if len({str(result[key]) for result in results}) > 1:
            sys.exit(f"error: the runs differ in {key}: they are no comparison")
    rows: list[dict[str, Any]] = []
    for label in dict.fromkeys(result["label"] for result in results):
        runs = [result for result in results if result["label"] == label]
        losses: dict[str, Any] = {
            key: spread([run[key] for run in runs])
            for key in ("test_loss", "bits_per_byte", "bits_per_char")
            if key in runs[0]
        }
        rows.append(
            {
                "rule": label,
                "method": runs[0]["method"],
                "n": len(runs),
                "seeds": [run["seed"] for run in runs],
                "losses": runs[0]["blocks"],
                "test_accuracy": spread([run["test_accuracy"] for run in runs]),
                "test_accuracies": [run["test_accuracy"] for run in runs],
                **losses,
                "block_accuracy": runs[0]["block_accuracy"],
                "block_losses": runs[0]["curve"][-1]["losses"],
                "train_seconds": spread([run["train_seconds"] for run in runs]),
                "activation_bytes": runs[0]["peak_activation_bytes"],
                "flops_per_image": runs[0]["flops_per_image"],
                "memory_ratio": runs[0]["ratios"]["activation_memory"],
                "flops_ratio": runs[0]["ratios"]["flops"],
            }
        )
    date = max(result["date"] for result in results)
    return {
        **{key: first[key] for key in SHARED},
        "blocks": max((row["losses"] for row in rows if row["method"] == "greedy"), default=None),
        "date": date,
        "command": "; ".join(dict.fromkeys(LOCAL.sub("", r["command"]) for r in results)),
        "commits": sorted({str(result["commit"]) for result in results}),
        **{key: first[key] for key in ABOUT},
        "rows": rows,
    }


def summary(folder: RunFolder) -> dict[str, Any]:
    network = read_options(folder / "config.yaml")["network"]
    options = {key: value for key, value in network.items() if key != "name"}
    return {**gather(folder), "network_options": options}


def finished(out: Path) -> list[dict[str, Any]]:
    """Return the summaries of a comparison's finished runs, rule by rule."""
    found = [summary(RunFolder(path.parent)) for path in out.glob("*/summary.json")]
    order = methods.names()
    results = sorted(found, key=lambda r: (order.index(r["method"]), r["label"], r["seed"]))
    timing: dict[str, float | None] = {}  # there is none without BP
    if (out / "timing.json").exists():
        timing = json.loads((out / "timing.json").read_text(encoding="utf-8"))["ratio"]
    for result in results:
        result["time_ratio"] = timing.get(result["label"])
    add_ratios(results)
    return results


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: collect.py FOLDER RESULT.json")
    document = collect(finished(Path(sys.argv[1])))
    Path(sys.argv[2]).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
