"""What late links cost in accuracy: one process with late links where 2, 4, 8 ranks would end.

    python benchmarks/cpu/late_links.py [--cases digits cifar10] [--seeds 3] [--json FILE]

BackLink with its links in time, the same with links one step late at the last block of each of so
many equal parts, and Greedy, which has none. Every seed trains each of them from the same weights
on the same batches, one run after the other. A link that is late waits for no rank; what that gains
in time is simulated by benchmarks/cpu/devices.py and measured by benchmarks/cpu/parallel.py.

``--epochs``, ``--limit`` and ``--width`` make a case smaller or larger; finished runs under
``--out`` are not run again. CIFAR-10 is read from ``--path`` or LOCALGRAD_DATA.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from localgrad.experiment.build import build
from localgrad.experiment.config import build_config
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.loop import train
from localgrad.experiment.tree import override
from localgrad.parallel.share import even

BLOCKS = 8
LOCAL = re.compile(r" --(out|path|json) \S+")  # where something is kept is nobody's business
SHARED = ("network", "network_options", "data", "train_images", "test_images", "batch_size")
ABOUT = ("epochs", "versions", "hardware", "platform")
#: what each case trains; the command line may change it
CASES: dict[str, dict[str, Any]] = {
    "digits": {"data.name": "digits", "epochs": 20, "network.width": 8, "batch_size": 64},
    "cifar10": {
        "data.name": "cifar10",
        "data.limit": 10_000,
        "data.test_limit": 2_000,
        "epochs": 10,
        "network.width": 8,
        "batch_size": 128,
    },
}


def variants(ranks: list[int]) -> dict[str, dict[str, Any]]:
    """Return each way to train: its name in the table, and its options."""
    found: dict[str, dict[str, Any]] = {
        "Greedy": {"method.name": "greedy"},
        "in time": {"method.name": "backlink"},
    }
    for count in ranks:
        late = [end - 1 for end in even(BLOCKS, count)[:-1]]
        found[f"late, {count} ranks"] = {"method.name": "backlink", "parallel.late_links": late}
    return found


def run(options: dict[str, Any], folder: Path, command: str) -> dict[str, Any]:
    """Train once, if that has not been done; return the summary."""
    tree: dict[str, Any] = {"network": {"name": "resnet20"}, "blocks": BLOCKS}
    for key, value in options.items():
        override(tree, key, value)
    config = build_config({**tree, "out": str(folder)})
    return train(build(config), RunFolder(folder), resume=True, command=command)


def row(name: str, options: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    accuracies = [run["test_accuracy"] for run in runs]
    return {
        "links": name,
        "late_links": options.get("parallel.late_links", []),
        "n": len(runs),
        "seeds": [run["seed"] for run in runs],
        "test_accuracy": {
            "mean": statistics.mean(accuracies),
            "std": statistics.stdev(accuracies) if len(runs) > 1 else None,
        },
        "test_accuracies": accuracies,
        "test_losses": [run["test_loss"] for run in runs],
        "block_accuracy": runs[0]["block_accuracy"],
    }


def case(name: str, given: argparse.Namespace, out: Path, command: str) -> dict[str, Any]:
    """Run one case; return its rows and what they have in common."""
    options: dict[str, Any] = {**CASES[name], "threads": given.threads}
    changed = {"epochs": given.epochs, "data.limit": given.limit, "network.width": given.width}
    options |= {key: value for key, value in changed.items() if value is not None}
    if given.path and name != "digits":
        options["data.path"] = given.path
    chosen = variants(given.ranks)
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in chosen}
    for seed in range(given.seeds):
        for variant, own in chosen.items():
            folder = out / f"{name}-{variant.replace(', ', '-').replace(' ', '-')}-{seed}"
            runs[variant].append(run({**options, **own, "seed": seed}, folder, command))
            accuracy = runs[variant][-1]["test_accuracy"]
            print(f"{name}, seed {seed}, {variant}: {100 * accuracy:.2f} %", flush=True)
    one = runs["in time"][0]
    return {
        **{key: one[key] for key in (*SHARED, *ABOUT)},
        "blocks": BLOCKS,
        "date": max(run["date"] for of in runs.values() for run in of),
        "commits": sorted({str(run["commit"]) for of in runs.values() for run in of}),
        "rows": [row(variant, own, runs[variant]) for variant, own in chosen.items()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, 0, 1, ..")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--epochs", type=int, help="default: each case's own")
    parser.add_argument("--limit", type=int, help="train on the first N images")
    parser.add_argument("--width", type=int, help="channels of ResNet-20's first stage")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--path", help="folder of CIFAR-10's parquet files")
    parser.add_argument("--out", type=Path, help="folder of the runs, kept; default: none is kept")
    parser.add_argument("--json", type=Path, help="where the result goes")
    given = parser.parse_args()
    command = f"python benchmarks/cpu/late_links.py {shlex.join(sys.argv[1:])}".strip()
    command = LOCAL.sub("", command)
    with tempfile.TemporaryDirectory() as kept_for_now:
        out = given.out or Path(kept_for_now)
        found = {name: case(name, given, out, command) for name in given.cases}
    document = {"command": command, "cases": found}
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
