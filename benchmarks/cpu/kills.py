"""Runs in several processes whose ranks are killed at random moments, and go on.

    python benchmarks/cpu/kills.py --kills 20 --json FILE

Each run is started by torchrun with ``--max-restarts 1`` and ``--resume``, and loses one process,
drawn at random, to SIGKILL at a random moment of its training; checkpoints are written all the
time. Measured: the seconds until every process of that attempt has ended, whether the weights at
the end are those of an undisturbed run, bit for bit, and whether a process is left over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from localgrad.experiment import environment

OPTIONS = [
    *("--method.name", "backlink", "--network.name", "resnet20", "--network.width", "4"),
    *("--blocks", "10", "--data.limit", "96", "--data.test_limit", "40", "--batch_size", "32"),
    *("--epochs", "30", "--checkpoint_every", "1", "--device", "cpu", "--threads", "1", "--quiet"),
]


def start(out: Path, processes: int, program: list[str]) -> subprocess.Popen[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    words = ["train", *OPTIONS, "--resume", "--parallel.blocks", str(processes), "--out", str(out)]
    return subprocess.Popen(
        [*launch, "--max-restarts", "1", *program, *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def workers(launcher: int) -> list[int]:
    """Return the processes that a launcher has started, from the kernel's list."""
    path = Path(f"/proc/{launcher}/task/{launcher}/children")
    return [int(word) for word in path.read_text(encoding="utf-8").split()]


def gone(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return state.rpartition(")")[2].split()[0] == "Z"


def disturbed(out: Path, delay: float, rank: int, options: argparse.Namespace) -> dict[str, Any]:
    launcher = start(out, options.processes, options.program)
    while not (out / "checkpoint" / "last.pt").exists():
        time.sleep(0.02)
    time.sleep(delay)
    attempt = workers(launcher.pid)[: options.processes]
    os.kill(attempt[rank], signal.SIGKILL)
    begin = time.perf_counter()
    while not all(map(gone, attempt)):
        time.sleep(0.01)
    took = time.perf_counter() - begin
    text, _ = launcher.communicate()
    told = [line for line in text.splitlines() if line.startswith("error: ")]
    return {"rank": rank, "delay": delay, "ended_seconds": took, "told": told,
            "code": launcher.returncode}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--longest", type=float, default=3.0, help="seconds of a run at the most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--program", nargs="+", default=["-m", "localgrad"])
    parser.add_argument("--json")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        launcher = start(whole, options.processes, options.program)
        text, _ = launcher.communicate()
        if launcher.returncode:
            raise SystemExit(text)
        wanted = (whole / "model.safetensors").read_bytes()
        for number in range(options.kills):
            out = Path(folder) / str(number)
            delay, rank = draw.uniform(0, options.longest), draw.randrange(options.processes)
            row = disturbed(out, delay, rank, options)
            model = out / "model.safetensors"
            row["same"] = model.exists() and model.read_bytes() == wanted
            rows.append(row)
            print(json.dumps(row), flush=True)
    print(
        f"{sum(row['same'] for row in rows)} of {len(rows)} end with the same weights; all "
        f"processes ended within {max(row['ended_seconds'] for row in rows):.2f} s"
    )
    if options.json:
        about = environment.describe(torch.device("cpu"))
        document = {**about, "n": len(rows), "processes": options.processes, "rows": rows}
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if not all(row["same"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
