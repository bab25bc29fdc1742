"""Runs in several processes of which one is killed or stopped, and which go on.

    python benchmarks/cpu/kills.py --kills 20 --json benchmarks/results/kills.json
    python benchmarks/cpu/kills.py --kills 20 --processes 4 --data 2 --json FILE

Each run is started by torchrun with ``--max-restarts 1`` and ``--resume``, and loses one process.
Half of the kills (SIGKILL) come at a random moment of the training; half at a random moment of the
writing of a checkpoint, whose temporary file is there: of these every other one is of rank 0, which
writes. ``--stops`` more runs have a process stopped (SIGSTOP), which hangs from then on.

Measured: the seconds until every process of that attempt has ended; how many lines ``error: ..``
that attempt has printed, and whether one names the process; whether the weights at the end are
those of an undisturbed run, bit for bit; and how many processes are left over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from localgrad.experiment import environment

OPTIONS = [
    *("--method.name", "backlink", "--network.name", "resnet20", "--network.width", "4"),
    *("--blocks", "10", "--data.limit", "96", "--data.test_limit", "40", "--batch_size", "32"),
    *("--epochs", "20", "--checkpoint_every", "1", "--device", "cpu", "--threads", "1", "--quiet"),
]
WRITE = 0.01  # seconds that a checkpoint is written for at the most, after it was begun


@dataclass(frozen=True)
class Blow:
    """What happens to a run.

    Args:
        rank: the process.
        kind: ``"training"``, ``"checkpoint"`` or ``"stop"``.
        seconds: after the first checkpoint; within a checkpoint, also after its file was seen.
    """

    rank: int
    kind: str
    seconds: float


def drawn(options: argparse.Namespace) -> list[Blow]:
    """Draw what happens to each run."""
    draw = random.Random(options.seed)
    found = []
    for number in range(options.kills):
        inside = number % 2
        rank = 0 if number % 4 == 1 else draw.randrange(options.processes)
        kind = "checkpoint" if inside else "training"
        found.append(Blow(rank, kind, draw.uniform(0, options.longest)))
    for _ in range(options.stops):
        rank = draw.randrange(options.processes)
        found.append(Blow(rank, "stop", draw.uniform(0, options.longest)))
    return found


class Run:
    """torchrun with its processes, which are found by a mark in their environment."""

    def __init__(self, out: Path, options: argparse.Namespace) -> None:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launch += ["--nproc-per-node", str(options.processes), "--max-restarts", "1"]
        grid = ["--parallel.blocks", str(options.processes // options.data)]
        grid += ["--parallel.data", str(options.data)]
        words = ["train", *OPTIONS, "--resume", *grid, "--out", str(out)]
        self.out, self._marks = out, f"LOCALGRAD_KILLS={out}"
        self._log = open(f"{out}.log", "w+", encoding="utf-8")  # noqa: SIM115 - closed at the end
        self.launcher = subprocess.Popen(
            [*launch, *options.program, *words],
            stdout=self._log, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "LOCALGRAD_KILLS": str(out)},
        )  # fmt: skip

    def text(self) -> str:
        """Return what was printed so far."""
        return Path(self._log.name).read_text(encoding="utf-8")

    def workers(self) -> list[int]:
        """Return the processes that the launcher has started, from the kernel's list."""
        launcher = self.launcher.pid
        path = Path(f"/proc/{launcher}/task/{launcher}/children")
        return [int(word) for word in path.read_text(encoding="utf-8").split()]

    def wait(self) -> int:
        """Wait for the end; return the exit code."""
        return self.launcher.wait()

    def left(self) -> list[int]:
        """Return the processes of this run that are there still, by a mark in their environment."""
        mark, found = self._marks.encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and not gone(int(entry.name)):
                try:
                    held = (entry / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                found += [int(entry.name)] if mark in held else []
        return found


def gone(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return state.rpartition(")")[2].split()[0] == "Z"


def hit(run: Run, blow: Blow, options: argparse.Namespace, draw: random.Random) -> list[int]:
    """Wait for the moment and send the signal; return the processes of that attempt."""
    folder = run.out / "checkpoint"
    while not (folder / "last.pt").exists():
        if run.launcher.poll() is not None:
            raise SystemExit(f"a run ended before it was hit:\n{run.text()}")
        time.sleep(0.02)
    attempt = run.workers()[: options.processes]
    time.sleep(blow.seconds)
    if blow.kind == "checkpoint":
        while not (folder / "last.pt.part").exists():
            if run.launcher.poll() is not None:
                raise SystemExit(f"a run ended before it was hit:\n{run.text()}")
        time.sleep(draw.uniform(0, WRITE))
    os.kill(attempt[blow.rank], signal.SIGSTOP if blow.kind == "stop" else signal.SIGKILL)
    return attempt


def disturbed(out: Path, blow: Blow, options: argparse.Namespace, wanted: bytes) -> dict[str, Any]:
    run = Run(out, options)
    attempt = hit(run, blow, options, random.Random(f"{options.seed} {out.name}"))
    half = (out / "checkpoint" / "last.pt.part").exists()
    begin = time.perf_counter()
    while not all(map(gone, attempt)):
        time.sleep(0.01)
    took = time.perf_counter() - begin
    first = [line for line in run.text().splitlines() if line.startswith("error: ")]
    code = run.wait()
    told = [line for line in run.text().splitlines() if line.startswith("error: ")]
    model = out / "model.safetensors"
    return {
        "rank": blow.rank,
        "kind": blow.kind,
        "delay": blow.seconds,
        "half_written": half,
        "ended_seconds": took,
        "messages": len(told),
        "message": next(iter(first or told), None),
        "named": any(f"rank {blow.rank} was lost after step " in line for line in told),
        "code": code,
        "same": model.exists() and model.read_bytes() == wanted,
        "left": len(run.left()),
    }


def good(row: dict[str, Any]) -> bool:
    """Whether a run did all that it should."""
    ended = row["ended_seconds"] < 30 and row["messages"] == 1 and row["named"]
    return bool(ended and row["same"] and row["code"] == 0 and not row["left"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--data", type=int, default=1, help="replicas of each part, of the processes"
    )
    parser.add_argument("--longest", type=float, default=2.0, help="seconds of a run at the most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--program", type=shlex.split, default=["-m", "localgrad"],
        help="what torchrun starts: a script, or -m and a module",
    )  # fmt: skip
    parser.add_argument("--json", help="a setting's rows take the place of its old ones there")
    options = parser.parse_args()
    rows = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        whole = Run(Path(folder) / "whole", options)
        if whole.wait():
            raise SystemExit(whole.text())
        wanted = (whole.out / "model.safetensors").read_bytes()
        for number, blow in enumerate(drawn(options)):
            rows.append(disturbed(Path(folder) / str(number), blow, options, wanted))
            print(json.dumps(rows[-1]), flush=True)
    print(f"{sum(map(good, rows))} of {len(rows)} well, in {time.perf_counter() - start:.0f} s")
    if options.json:
        keep(Path(options.json), rows, options)
    if not all(map(good, rows)):
        raise SystemExit(1)


def keep(path: Path, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write the rows beside those of other grids."""
    grid = {"blocks": options.processes // options.data, "data": options.data}
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"grids": []}
    others = [old for old in found["grids"] if old["grid"] != grid]
    about = environment.describe(torch.device("cpu"))
    grids = [*others, {"grid": grid, "n": len(rows), **about, "rows": rows}]
    grids.sort(key=lambda g: (g["grid"]["blocks"] * g["grid"]["data"], g["grid"]["data"]))
    path.write_text(json.dumps({"grids": grids}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
