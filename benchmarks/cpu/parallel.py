"""Blocks in several processes against one process, step by step.

    python benchmarks/cpu/parallel.py --network resnet110 --blocks 2 55 --json FILE

Two processes of one thread each. In turn: the same rule in one process of one thread (the other
waits, blocked), BP in one process of two threads, and both processes together. Nothing else should
run meanwhile. Steady state is the median time between the outputs of the last part; ``filled`` also
counts the steps until the pipeline is full and until it has run dry.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import socket
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import localgrad
from localgrad import methods as M
from localgrad import networks
from localgrad.experiment import environment
from localgrad.parallel.division import by_time, seconds_of_groups
from localgrad.parallel.mesh import Mesh
from localgrad.parallel.pipeline import ParallelLearner

RULES: dict[str, M.Method] = {
    "greedy": M.Greedy(),
    "backlink": M.BackLink(head="pool_linear"),
    "auglocal": M.AugLocal(depth=2),
}


def decoupled(
    options: argparse.Namespace, rule: M.Method, blocks: int, x: torch.Tensor
) -> localgrad.LocalLearner:
    torch.manual_seed(0)
    model = networks.get(options.network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    balance = "time" if 1 < blocks < 10 else None
    return localgrad.decouple(
        model,
        rule,
        blocks=blocks,
        example_input=x[:2],
        balance=balance if options.balance else None,
    )


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def alone(
    learner: localgrad.LocalLearner,
    batch: tuple[torch.Tensor, torch.Tensor],
    steps: int,
    threads: int,
) -> float:
    """Seconds a step."""
    torch.set_num_threads(threads)
    optimizer = sgd(learner.parameters())
    x, y = batch
    learner.step(x, y, update=optimizer)
    start = time.perf_counter()
    for _ in range(steps):
        learner.step(x, y, update=optimizer)
    took = (time.perf_counter() - start) / steps
    torch.set_num_threads(1)
    return took


def together(one: ParallelLearner, batch: Any, steps: int) -> dict[str, Any]:
    optimizer = sgd(one.parameters())
    one.mesh.gather(None)
    one.waits.take()
    before = one.sent_bytes
    moments = [time.perf_counter()]
    for _ in one.steps([batch] * steps, optimizer):
        moments.append(time.perf_counter())
    moments.append(time.perf_counter())
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    return {
        "steady": statistics.median(gaps),
        "filled": (moments[-1] - moments[0]) / steps,
        "idle": one.waits.take() / (moments[-1] - moments[0]),
        "sent_bytes": (one.sent_bytes - before) / steps,
    }


def measure(mesh: Mesh, options: argparse.Namespace, name: str, blocks: int) -> dict[str, Any]:
    layout = torch.channels_last
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(options.batch, 3, 32, 32, generator=generator).to(memory_format=layout)
    y = torch.randint(10, (options.batch,), generator=generator)
    rule = RULES[name]
    cuts: Any = None
    if mesh.rank == 0:  # measured cuts and division, the same for all
        found = decoupled(options, rule, blocks, x)
        cuts = (found.decoupling, by_time(seconds_of_groups(found, x, y), mesh.blocks))
    decoupling, ends = mesh.gather(cuts)[0]

    def again() -> localgrad.LocalLearner:
        torch.manual_seed(0)
        model = networks.get(options.network).to(memory_format=layout)  # type: ignore[call-overload]
        return localgrad.decouple(model, decoupling, example_input=x[:2])

    one = ParallelLearner(again(), mesh, ends)
    plain = again() if mesh.rank == 0 else None
    bp = decoupled(options, M.Backprop(), 1, x) if mesh.rank == 0 else None
    rounds: list[dict[str, Any]] = []
    for turn in range(options.repeats + 1):
        row: dict[str, Any] = {}
        if plain is not None and bp is not None:
            row["one_process"] = alone(plain, (x, y), options.steps, 1)
            row["bp_two_threads"] = alone(bp, (x, y), options.steps, 2)
        parts = mesh.gather(together(one, (x, y), options.steps))
        if turn:
            rounds.append({**row, "parts": parts})
    if mesh.rank != 0:
        return {}
    last = [r["parts"][-1] for r in rounds]
    ratios = {
        f"{against}_{how}": [r[against] / p[how] for r, p in zip(rounds, last, strict=True)]
        for against in ("one_process", "bp_two_threads")
        for how in ("steady", "filled")
    }
    return {
        "rule": M.label(rule),
        "blocks": blocks,
        "ends": ends,
        "groups": len(decoupling),
        "seconds": {
            **{
                k: statistics.median(r[k] for r in rounds)
                for k in ("one_process", "bp_two_threads")
            },
            **{k: statistics.median(p[k] for p in last) for k in ("steady", "filled")},
        },
        "speed_up": {k: [statistics.mean(v), statistics.stdev(v)] for k, v in ratios.items()},
        "idle": [
            statistics.median(r["parts"][i]["idle"] for r in rounds) for i in range(mesh.blocks)
        ],
        "sent_bytes_a_step": [p["sent_bytes"] for p in rounds[0]["parts"]],
    }


def process(rank: int, port: int, options: argparse.Namespace) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    torch.set_num_threads(1)
    mesh = Mesh.start(2, 1, "cpu", timeout=600)
    rows = []
    for name in options.rules:
        for blocks in options.blocks:
            row = measure(mesh, options, name, blocks)
            if rank == 0:
                rows.append(row)
                print(json.dumps(row), flush=True)
    if rank == 0 and options.json:
        about = environment.describe(torch.device("cpu"))
        document = {
            **about, "network": options.network, "batch": options.batch, "n": options.repeats,
            "steps": options.steps, "rows": rows,
        }  # fmt: skip
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    mesh.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet110")
    parser.add_argument("--rules", nargs="+", default=["greedy"], choices=list(RULES))
    parser.add_argument("--blocks", nargs="+", type=int, default=[2, 55])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--balance", action="store_true", help="cut few blocks by measured time")
    parser.add_argument("--json")
    options = parser.parse_args()
    if options.repeats < 2 or options.steps < 3:
        parser.error("--repeats must be at least 2, --steps at least 3")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=process, args=(r, port, options)) for r in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    if any(one.exitcode for one in processes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
