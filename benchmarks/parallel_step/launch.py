"""Options, processes and the result's file of the comparison, on the CPU and on GPUs."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import torch

import localgrad
from localgrad.experiment import environment
from localgrad.parallel.mesh import Mesh
from parallel_step import results
from parallel_step.contest import Contest
from parallel_step.local import RULES
from parallel_step.setting import Setting


def parsed(about: str, device: str, words: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--network", default="resnet110")
    parser.add_argument(
        "--option",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="of the network, such as: width 4",
    )
    parser.add_argument("--size", type=int, default=32, help="of the images")
    parser.add_argument("--rules", nargs="*", default=list(RULES), choices=list(RULES))
    parser.add_argument("--blocks", nargs="+", type=int, default=[2, 8, 55])
    parser.add_argument("--micro-batches", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="that count; one more warms up")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each unit that is timed")
    parser.add_argument("--reach", type=int, default=2, help="units that a pipeline's cut is moved")
    parser.add_argument("--processes", type=int, default=2)
    if device == "cpu":
        parser.add_argument(
            "--malloc",
            choices=["keep", "default"],
            default="keep",
            help="keep: processes give no memory back to the kernel (glibc), for all alike",
        )
    else:
        parser.set_defaults(malloc="default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(words)
    options.device = device
    if options.rounds < 1 or options.steps < 3 or options.processes < 2:
        parser.error("--rounds must be at least 1, --steps at least 3, --processes at least 2")
    parts = [*options.micro_batches, options.processes]
    if any(part < 1 or options.batch % part for part in parts):
        parser.error(f"a batch of {options.batch} does not divide by each of {parts}")
    return options


def run(options: argparse.Namespace) -> None:
    """Start the processes and wait for their end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(options.processes)
    )
    command = environment.command()
    # forked, the imports are paid for once; but CUDA was asked how many devices there are
    context: Any = multiprocessing.get_context("spawn" if options.device == "cuda" else "fork")
    processes = [
        context.Process(target=_process, args=(rank, options, command), daemon=True)
        for rank in range(options.processes)
    ]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    if any(one.exitcode for one in processes):
        raise SystemExit(1)


def _process(rank: int, options: argparse.Namespace, command: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    if options.malloc == "keep" and not localgrad.keep_freed_memory():
        options.malloc = "default"  # another C library
    mesh = Mesh.start(options.processes, 1, None if options.device == "cuda" else "cpu", 900)
    document = measured(mesh, options, command)
    if rank == 0:
        print(_shown(document), flush=True)
        if options.json:
            options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    mesh.close()


def measured(mesh: Mesh, options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Run the contest; every process calls it."""
    extra = {name: int(value) if value.isdigit() else value for name, value in options.option}
    setting = Setting(mesh, options.network, options.batch, options.size, extra)
    contest = Contest(
        setting,
        options.rules,
        options.blocks,
        options.micro_batches,
        options.steps,
        options.repeats,
        options.reach,
    )
    contest.round(0, counts=False)
    for number in range(options.rounds):
        contest.round(number)
        if mesh.rank == 0:
            print(f"round {number + 1} of {options.rounds}", flush=True)
    rows = results.rows(contest, contest.costs())
    bandwidth, latency = contest.line
    return {
        **environment.describe(mesh.device, command),
        "network": options.network,
        "batch": options.batch,
        "n": options.rounds,
        "steps": options.steps,
        "malloc": options.malloc,
        "bandwidth": bandwidth,
        "latency": latency,
        "waiting_busy": max(mesh.gather(contest.waiting_busy)),
        "gradient_errors": contest.gradient_errors,
        "left_out": contest.left_out,
        "rows": rows,
    }


def _shown(document: dict[str, Any]) -> str:
    lines = [f"{'':40} steady  filled   idle          MiB          MiB sent   simulated"]
    for row in document["rows"]:
        mib = "/".join(f"{one['total'] / 2**20:.0f}" for one in row["memory"])
        sent = "/".join(f"{size / 2**20:.1f}" for size in row["sent_bytes"])
        idle = "/".join("-" if i is None else f"{100 * i:.0f} %" for i in row["idle"]["steady"])
        paper = " ".join(f"{100 * one['error']:+.0f} %" for one in row["simulated"].values())
        lines.append(
            f"{row['name']:40} {row['seconds']['steady']['mean']:.3f}   "
            f"{row['seconds']['filled']['mean']:.3f}   {idle:13} {mib:12} {sent:10} {paper}"
        )
    lines += [f"left out: {name}: {why}" for name, why in document["left_out"].items()]
    return "\n".join(lines)
