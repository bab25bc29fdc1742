"""Searches that are killed at random moments, with all their processes, and go on.

    python benchmarks/cpu/search_kills.py --kills 10 --json FILE

A search on the digits, first in one process, then in two, is killed by SIGKILL, its workers with
it, at a moment drawn at random after the first trial has begun to train, and started again by
``--resume``; so often until it comes to its end in between. Measured: how many trials were running
at the kills, how many were put back and so went on from their last checkpoint, whether any trial is
missing or there twice at the end, and, in one process, whether the trials and their accuracies are
those of an undisturbed search, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch

from localgrad.experiment import environment

SEARCH = [
    *("--network.name", "resnet20", "--network.width", "8", "--network.in_channels", "1"),
    *("--data.name", "digits", "--data.limit", "1000", "--batch_size", "32", "--device", "cpu"),
    *("--threads", "1", "--quiet", "--search.blocks", "2,4", "--search.links", "0,1"),
    *("--search.heads", "pool_linear,conv_mlp", "--search.epochs", "4", "--search.reduction", "2"),
]
CLOCK = ("seconds", "images_per_second", "tries", "process")


def started(out: Path, processes: int, trials: int) -> subprocess.Popen[bytes]:
    """Start the search, or go on with it, in a process group of its own."""
    words = ["search", *SEARCH, "--search.trials", str(trials), "--search.processes"]
    line = [sys.executable, "-m", "localgrad", *words, str(processes), "--out", str(out)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*line, "--resume"], start_new_session=True, stdout=quiet, stderr=quiet)


def outcome(out: Path) -> list[dict[str, Any]]:
    """Return the trials without what a clock measured."""
    found = json.loads((out / "search.json").read_text(encoding="utf-8"))
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in found["trials"]]


def running(out: Path) -> int:
    """Return how many trials are being trained, by processes that live."""
    query = "select a.value_json from trials t join trial_user_attributes a "
    query += "on a.trial_id = t.trial_id where t.state = 'RUNNING' and a.key = 'process'"
    found: list[tuple[str]] = []
    path = f"file:{out / 'study.db'}?mode=ro"
    # at first there is no file, or no table in it
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path, uri=True)) as study:
        found = study.execute(query).fetchall()
    return sum(Path("/proc", process).exists() for (process,) in found)


def killed(out: Path, processes: int, trials: int, kills: int, draw: random.Random) -> Any:
    """Kill a search up to so often, let it end, and say what became of it."""
    lost: list[int] = []
    process = started(out, processes, trials)
    for _ in range(kills):
        while process.poll() is None and not running(out):
            time.sleep(0.05)
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0, 10))
        if process.poll() is not None:
            break
        lost.append(running(out))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process = started(out, processes, trials)
    code = process.wait()
    found = json.loads((out / "search.json").read_text(encoding="utf-8"))
    numbers = [row["trial"] for row in found["trials"]]
    return {
        "processes": processes, "trials": trials, "kills": len(lost), "running": lost,
        "code": code, "put_back": found["put_back"], "counts": found["counts"],
        "complete": sorted(numbers) == list(range(trials)),
    }  # fmt: skip


def main() -> None:
    """Kill, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="in each number of processes")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    about = environment.describe(torch.device("cpu"))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        started(whole, 1, options.trials).wait()
        wanted = outcome(whole)
        for processes in (1, 2):
            draw, left, number = random.Random(options.seed + processes), options.kills, 0
            while left > 0:
                out = Path(name) / f"{processes}-{number}"
                row = killed(out, processes, options.trials, left, draw)
                row["same"] = outcome(out) == wanted if processes == 1 else None
                rows.append(row)
                print(json.dumps(row), flush=True)
                left, number = left - row["kills"], number + 1
    good = [row["code"] == 0 and row["complete"] and row["same"] is not False for row in rows]
    kills = sum(row["kills"] for row in rows)
    back, lost = (sum(row["put_back"] for row in rows), sum(sum(row["running"]) for row in rows))
    print(
        f"{kills} kills in {len(rows)} searches, {lost} trials running then, {back} put back; "
        f"{sum(good)} of {len(rows)} searches ended whole"
    )
    if options.json:
        document = {**about, "n": kills, "searches": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if not all(good):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
