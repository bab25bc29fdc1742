"""Runs that are stopped at random moments and go on, and damaged checkpoints.

    python benchmarks/cpu/interruptions.py --kills 30 --json FILE

Three rules train on the digits, each with its own optimizer or precision, on a network with batch
norm and dropout, and write a checkpoint after every step. Each run is stopped once, at a moment
drawn at random between its first checkpoint and its end (some before): by SIGKILL, by SIGTERM, by
Ctrl-C (once, and twice in a row), or by files that may not grow any more, as on a full disk. Then
it goes on by ``--resume``. Measured: whether weights, heads, optimizer, scaler, random state,
position and metrics end as those of an undisturbed run, bit for bit. Then the newest checkpoint of
a stopped run is damaged in ten ways. Measured: whether it is named in one line, not used, and the
run ends with the same bits.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from localgrad.cli import main as localgrad
from localgrad.experiment import environment
from localgrad.experiment.seal import seal

SHARED = [
    *("--network.name", "interruptions:network", "--data.limit", "160", "--data.test_limit", "100"),
    *("--batch_size", "32", "--epochs", "6", "--checkpoint_every", "1", "--device", "cpu"),
    *("--threads", "1", "--quiet"),
]
RULES = {
    "backlink, SGD": ["--method.name", "backlink", "--schedule.warmup_epochs", "1"],
    "auglocal, AdamW": [
        *("--method.name", "auglocal", "--method.depth", "1"),
        *("--optimizer.name", "adamw", "--optimizer.lr", "0.003"),
    ],
    "greedy, fp16": ["--method.name", "greedy", "--precision", "fp16"],
}
STOPS = (
    *("kill", "kill", "kill", "kill", "terminate", "kill", "ctrl-c", "kill at the start"),
    *("full disk", "twice"),
)
CLOCK = {"seconds", "epoch_seconds", "images_per_second"}


def network() -> nn.Module:
    """Return a small network that draws random numbers in training."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in [(1, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1)]:
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


# --- a run in a process of its own


def forked(words: list[str], errors: Path, disk_ends: float | None = None) -> int:
    """Start a run; this process has loaded everything, so that it begins at once.

    Args:
        words: of the command line.
        errors: file for what the run says on stderr.
        disk_ends: seconds after the first checkpoint from which no file can grow beyond 2 kB.
    """
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        if disk_ends is not None:
            threading.Thread(target=_end_disk, args=(words, disk_ends), daemon=True).start()
        code = localgrad(words)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _end_disk(words: list[str], delay: float) -> None:
    wait_for_checkpoint(words)
    time.sleep(delay)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))


def wait_for_checkpoint(words: list[str]) -> None:
    """Wait until a run has written its first checkpoint."""
    path = Path(words[words.index("--out") + 1]) / "checkpoint" / "last.pt"
    end = time.monotonic() + 300
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.001)


def ended(process: int) -> int:
    """Wait for a process; return its exit code, a signal's below 0."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def stopped(words: list[str], errors: Path, how: str, delay: float) -> int:
    """Run, and stop it after so many seconds; return the exit code, a signal's below 0."""
    process = forked(words, errors, delay if how == "full disk" else None)
    if how != "full disk":
        if how != "kill at the start":
            wait_for_checkpoint(words)
        time.sleep(delay)
        numbers = {"terminate": signal.SIGTERM, "ctrl-c": signal.SIGINT, "twice": signal.SIGINT}
        number = numbers.get(how, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
            if how == "twice":
                time.sleep(0.01)
                os.kill(process, number)
    return ended(process)


def digest(folder: Path) -> str:
    """Return a digest of everything that a run ends with, but for what a clock measured."""
    found = hashlib.sha256((folder / "model.safetensors").read_bytes())

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(f"{value.dtype} {tuple(value.shape)}".encode())
            found.update(value.contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                if key not in CLOCK:
                    found.update(str(key).encode())
                    add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            found.update(repr(value).encode())

    state = torch.load(folder / "checkpoint" / "last.pt", weights_only=True)
    state["learner"] = {k: v.reshape(-1) for k, v in state["learner"].items()}
    state["optimizer"]["state"] = {
        number: {k: v.reshape(-1) for k, v in moments.items()}
        for number, moments in state["optimizer"]["state"].items()
    }
    add(state)
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        add(json.loads(line))
    return found.hexdigest()


# --- damage


def _changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Save other content with a digest that fits."""
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    seal(path)


def _flipped(path: Path, where: Callable[[bytes], int]) -> None:
    raw = bytearray(path.read_bytes())
    raw[where(bytes(raw))] ^= 1
    path.write_bytes(raw)


def _wider(state: dict[str, Any]) -> None:
    state["learner"] = {k: torch.cat([v, v]) if v.ndim else v for k, v in state["learner"].items()}


def _legacy(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save(state, path, _use_new_zipfile_serialization=False)


def _other_digest(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-64] + hashlib.sha256(b"another").hexdigest().encode())


#: Kind of damage -> what does it, given the file and the checkpoint of another run.
DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "truncated": lambda path, other: os.truncate(path, path.stat().st_size // 2),
    "zero length": lambda path, other: os.truncate(path, 0),
    "a bit of the data": lambda path, other: _flipped(path, lambda raw: len(raw) // 2),
    "a bit of the header": lambda path, other: _flipped(path, lambda raw: 5),
    "of another run": lambda path, other: shutil.copyfile(other, path),
    "missing keys": lambda path, other: _changed(path, lambda state: state.pop("optimizer")),
    "other shapes": lambda path, other: _changed(path, _wider),
    "not an archive": lambda path, other: path.write_bytes(b"hello\n" * 1000),
    "older format": lambda path, other: _legacy(path),
    "wrong digest": lambda path, other: _other_digest(path),
}


# --- the two measurements


def interrupted(root: Path, kills: int, draw: random.Random) -> list[dict[str, Any]]:
    rows = []
    references = {}
    for name, words in RULES.items():
        out, errors = root / name, root / "errors.txt"
        whole = ["train", *SHARED, *words, "--out", str(out)]
        process, begin = forked(whole, errors), time.perf_counter()
        wait_for_checkpoint(whole)
        first = time.perf_counter()
        if ended(process):
            raise SystemExit(errors.read_text(encoding="utf-8"))
        references[name] = digest(out), first - begin, time.perf_counter() - first
    for number in range(kills):
        name = list(RULES)[number % len(RULES)]
        wanted, start, seconds = references[name]
        how, code, again = STOPS[number // len(RULES) % len(STOPS)], 0, 0
        while code == 0:  # it came to its end before
            out, errors = root / f"run {number} {again}", root / f"errors {number}.txt"
            words = ["train", *SHARED, *RULES[name], "--out", str(out), "--resume"]
            delay = draw.uniform(0, start if how == "kill at the start" else seconds)
            code, again = stopped(words, errors, how, delay), again + 1
        files = {path.name for path in (out / "checkpoint").glob("*")}
        resumed = ended(forked(words, errors))
        row = {
            "rule": name, "stopped_by": how, "after_seconds": delay, "code": code,
            "had_checkpoint": "last.pt" in files,
            "in_a_write": any(f.endswith(".part") or f == "aside.pt" for f in files),
            "resumed_code": resumed,
            "same": resumed == 0 and digest(out) == wanted,
        }  # fmt: skip
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def damaged(root: Path) -> list[dict[str, Any]]:
    name, words = next(iter(RULES.items()))
    wanted = digest(root / name)
    start, other = root / "start", root / "other"
    for out, more in ((start, []), (other, ["--seed", "1"])):
        process = forked(["train", *SHARED, *words, *more, "--out", str(out)], root / "errors.txt")
        while not (out / "checkpoint" / "best.pt").exists():
            time.sleep(0.005)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    rows = []
    for number, (kind, damage) in enumerate(DAMAGES.items()):
        out, errors = root / f"damaged {number}", root / f"damage {number}.txt"
        shutil.copytree(start, out)
        damage(out / "checkpoint" / "last.pt", other / "checkpoint" / "last.pt")
        code = ended(forked(["train", *SHARED, *words, "--out", str(out), "--resume"], errors))
        said = errors.read_text(encoding="utf-8").splitlines()
        line = said[0].replace(str(out), "OUT") if said else ""
        row = {
            "damage": kind, "said": line, "code": code,
            "named": len(said) == 1 and "OUT/checkpoint/last.pt" in line,
            "same": code == 0 and digest(out) == wanted,
        }  # fmt: skip
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process with other threads cannot be forked
    about = environment.describe(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        rows = interrupted(Path(folder), options.kills, random.Random(options.seed))
        files = damaged(Path(folder))
    same, good = (
        sum(row["same"] for row in rows),
        sum(row["named"] and row["same"] for row in files),
    )
    print(f"{same} of {len(rows)} stopped runs end with the bits of an undisturbed one")
    print(f"{good} of {len(files)} damaged checkpoints are named and not used")
    if options.json:
        document = {**about, "n": len(rows), "stopped": rows, "damaged": files}
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if same < len(rows) or good < len(files):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
