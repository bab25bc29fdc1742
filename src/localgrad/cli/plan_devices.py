"""``localgrad plan --devices N``: many devices on paper, from unit times measured here."""

from __future__ import annotations

import textwrap
from typing import Any

from torch import nn

from localgrad.cli import show
from localgrad.cli.asked_files import write_json
from localgrad.cli.progress_line import ProgressLine
from localgrad.errors import LocalgradError
from localgrad.experiment import environment, precision
from localgrad.experiment.building.method import build_method
from localgrad.experiment.config import Config
from localgrad.experiment.made_up import make, read_count, read_shape
from localgrad.experiment.schedule import build_optimizer
from localgrad.planning import DeviceRow, Devices, devices, read_bytes, shown
from localgrad.planning.devices import BANDWIDTH, counts

_APART = ("budget", "measure", "largest", "seconds")  # of a plan for one device


def run(config: Config, flags: dict[str, Any], command: str, batch: int) -> int:
    """Time the pieces of the network, print a table for each number of devices.

    Raises:
        LocalgradError: a flag that cannot be read or belongs to a plan for one device, more devices
            than units or blocks, or micro-batches that do not divide the batch.
    """
    for flag in _APART:
        if flag in flags:
            raise LocalgradError(f"plan --devices takes no --{flag}: it is for one device")
    most = read_count("devices", flags["devices"])
    numbers = {
        name: [read_count(name, text) for text in flags[name].split(",")] if name in flags else None
        for name in ("blocks", "micro_batches")
    }
    bandwidth = _bandwidth(flags["bandwidth"]) if "bandwidth" in flags else BANDWIDTH
    shape = read_shape(flags["input"]) if "input" in flags else None
    rules = [build_method(choice) for choice in config.methods] or None
    progress = ProgressLine("quiet" in flags)
    progress.say(f"cutting {config.network.name}")
    subject = make(config, shape)
    precision.check(subject.device, config.precision)
    title = (
        f"{config.network.name}, {subject.size}, batch {batch}, {config.precision}, "
        f"{config.optimizer.name}, up to {most} devices: {len(subject.chain)} units"
    )
    progress.clear()
    print(title, flush=True)
    found = devices(
        subject.chain,
        subject.example(batch),
        most,
        loss=subject.loss,
        optimizer=lambda parameters: build_optimizer(
            config.optimizer, nn.ParameterList(list(parameters))
        ),
        precision=config.precision,
        rules=rules,
        blocks=numbers["blocks"],
        micro_batches=numbers["micro_batches"],
        bandwidth=bandwidth,
        watch=lambda what: progress.say(f"timing {what}") if isinstance(what, str) else None,
    )
    progress.clear()
    print(table(found))
    about = environment.describe(subject.device, command)
    write_json(flags.get("json"), {**about, "input": subject.size, **found.to_dict()})
    return 0


def table(found: Devices) -> str:
    """Return a table for each number of devices, and what the figures mean."""
    parts = []
    for n in counts(max(row.devices for row in found.rows)):
        rows = [_cells(row) for row in found.rows if row.devices == n]
        parts.append(f"\n{n} device{'' if n == 1 else 's'}\n{show.table(rows)}")
    for label, reason in found.left_out:
        parts.append("\n" + textwrap.fill(f"left out: {label}: {reason}", 100))
    note = (
        f"vs BP: BP's step on one device ({found.bp_seconds:.3f} s, {shown(found.bp_memory)}) over "
        "this step; vs itself: the same blocks on one device. Idle: mean of the devices in the "
        "steady state. Memory: of the device that needs most. Simulated from unit times measured "
        f"here; {found.bandwidth * 8e-9:g} Gbit/s between neighbours, messages beside computation."
    )
    parts.append("\n" + textwrap.fill(note, 100))
    return "\n".join(parts)


def _cells(row: DeviceRow) -> dict[str, str]:
    return {
        "rule": row.rule,
        "K": str(row.blocks),
        "s a step": f"{row.step_seconds:.4f}",
        "vs BP": f"{row.speed_up:.2f}x",
        "vs itself": f"{row.own_speed_up:.2f}x",
        "idle": f"{100 * row.idle:.0f} %",
        "memory": shown(row.memory),
        "sent a step": shown(row.sent),
    }


def _bandwidth(text: str) -> float:
    try:
        return read_bytes(text)
    except LocalgradError:
        raise LocalgradError(
            f"--bandwidth {text}: expected bytes a second, such as 1.25GB (10 Gbit/s)"
        ) from None
