"""One network on many devices, on paper: from unit times of this machine.

    python benchmarks/cpu/devices.py --json benchmarks/results/devices.json

``localgrad.planning.devices`` times every piece of ResNet-110 and simulates its schedules; done
``--rounds`` times over, since what else the machine does changes the times.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from pathlib import Path
from typing import Any

import torch

import localgrad
from localgrad import methods as M
from localgrad.cli.show import table
from localgrad.experiment import environment
from localgrad.networks import resnet110
from localgrad.planning import DeviceRow, Devices, devices
from localgrad.planning.devices import RULES

KEYS = ("step_seconds", "speed_up", "own_speed_up", "idle")  # what a clock has a part in
SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def measure(most: int, batch: int, repeats: int, latency: float, bandwidth: float) -> Devices:
    """Return one round."""
    torch.manual_seed(0)
    x = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    model = resnet110().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return devices(
        localgrad.Chain.of(model, x),
        x,
        most,
        optimizer=SGD,
        rules=[*RULES, M.BackLink(head="pool_linear")],
        bandwidth=bandwidth,
        latency=latency,
        repeats=repeats,
    )


def spread(values: list[float]) -> dict[str, float | None]:
    """Return mean and standard deviation."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": std}


def joined(rows: tuple[DeviceRow, ...]) -> dict[str, Any]:
    """Return one way of training, over all rounds."""
    first = rows[0]
    return {
        **{key: value for key, value in vars(first).items() if key not in KEYS},
        **{key: spread([getattr(row, key) for row in rows]) for key in KEYS},
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=55)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5, help="runs of a piece")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bandwidth", type=float, default=1.25e9, help="bytes/s")
    parser.add_argument("--latency", type=float, default=50e-6, help="seconds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rounds = []
    for number in range(options.rounds):
        found = measure(
            options.devices, options.batch, options.repeats, options.latency, options.bandwidth
        )
        print(f"round {number + 1}: BP on one device {found.bp_seconds:.3f} s", flush=True)
        rounds.append(found)
    rows = [joined(same) for same in zip(*(found.rows for found in rounds), strict=True)]
    print(table([shown(row) for row in rows]))
    if options.json:
        document = {
            **environment.describe(torch.device("cpu")),
            "network": rounds[0].network,
            "batch": options.batch,
            "n": options.rounds,
            "repeats": options.repeats,
            "bandwidth": options.bandwidth,
            "latency": options.latency,
            "bp_seconds": spread([found.bp_seconds for found in rounds]),
            "bp_memory": rounds[0].bp_memory,
            "left_out": dict(rounds[0].left_out),
            "rows": rows,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def shown(row: dict[str, Any]) -> dict[str, str]:
    """Return a row as text."""
    return {
        "rule": row["rule"],
        "devices": str(row["devices"]),
        "K": str(row["blocks"]),
        "vs BP": f"{row['speed_up']['mean']:.2f}",
        "+-": f"{row['speed_up']['std'] or 0:.2f}",
        "vs itself": f"{row['own_speed_up']['mean']:.2f}",
        "idle": f"{row['idle']['mean']:.2f}",
        "MiB": f"{row['memory'] / 2**20:.0f}",
        "MiB sent": f"{row['sent'] / 2**20:.1f}",
    }


if __name__ == "__main__":
    main()
