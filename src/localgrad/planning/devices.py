"""On paper: one network on many devices, each way of training it, from measured unit times.

Every unit and head is timed once, here; schedules for any number of devices are then simulated
(:mod:`localgrad.parallel`). What is assumed: every device is as fast as this one; a line between
two neighbours has one bandwidth in each direction and carries messages while devices compute; a
block takes the sum of its pieces' times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localgrad import methods
from localgrad.chain import Chain
from localgrad.errors import LocalgradError
from localgrad.methods import Method
from localgrad.parallel import builders
from localgrad.parallel.costs import Costs
from localgrad.parallel.measured import Ends, Measured
from localgrad.planning.paper import DeviceRow, Paper
from localgrad.prediction import Factory

BANDWIDTH = 1.25e9  # bytes/s: 10 Gbit/s
LATENCY = 50e-6
MICRO_BATCHES = (8, 32)
FEWEST_ROWS = 2  # of a micro-batch: a batch norm cannot train on one


@dataclass(frozen=True)
class Devices:
    """Ways of training on several numbers of devices.

    Args:
        network: the model's class.
        batch: rows a step.
        bp_seconds: a step of BP on one device: the sum of its pieces' times.
        bp_memory: bytes of it.
        bandwidth: bytes/s between neighbours.
        latency: seconds.
        rows: by number of devices.
        left_out: what could not be, with the reason.
    """

    network: str
    batch: int
    bp_seconds: float
    bp_memory: int
    bandwidth: float
    latency: float
    rows: tuple[DeviceRow, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "left_out": dict(self.left_out)}


def counts(most: int) -> list[int]:
    """Return the numbers of devices that are tried: 2, 4, 8, .. and ``most``.

    >>> counts(12), counts(1)
    ([2, 4, 8, 12], [1])
    """
    found = [2**k for k in range(1, most.bit_length()) if 2**k < most]
    return [*found, most]


def devices(
    model: nn.Module | Chain,
    example_input: Tensor,
    most: int,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    optimizer: Factory = torch.optim.AdamW,
    precision: str = "fp32",
    rules: Sequence[Method | str] | None = None,
    blocks: Sequence[int] | None = None,
    micro_batches: Sequence[int] | None = None,
    bandwidth: float = BANDWIDTH,
    latency: float = LATENCY,
    repeats: int = 5,
    watch: Callable[[DeviceRow | str], Any] = lambda what: None,
) -> Devices:
    """Predict steps on 2, 4, .. up to ``most`` devices; every piece of the network is timed here.

    The model stays as it is: copies are run.

    Args:
        model: any module that :func:`localgrad.decouple` takes, or a chain made of it.
        example_input: a whole batch, ``(batch, ...)``.
        most: largest number of devices.
        loss: the task loss.
        optimizer: its class, or what makes one from parameters.
        precision: ``"fp32"``, or ``"bf16"`` or ``"fp16"`` by autocast.
        rules: local rules or their names; default: Greedy, BackLink, AugLocal. GPipe and 1F1B are
            always there, and a rule with links is also tried with late ones.
        blocks: numbers of blocks K; by default what gives a loss a device, one a unit, and, with
            links, three a device, which hide the wait for the next device's error.
        micro_batches: of GPipe and 1F1B; default 8 and 32, where they divide the batch and leave
            two rows or more.
        bandwidth: bytes/s between neighbours, in each direction.
        latency: seconds until a message begins to arrive.
        repeats: runs of each piece, of which the fastest counts.
        watch: called with what is timed, and with each row.

    Raises:
        LocalgradError: fewer units than devices, a number that is out of place, or micro-batches
            that do not divide the batch.

    >>> model = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(4)])
    >>> found = devices(model, torch.rand(16, 8), 2, rules=["greedy"], micro_batches=[4])
    >>> [(row.rule, row.devices, row.blocks) for row in found.rows]
    [('GPipe, 4 x 4', 2, 2), ('1F1B, 4 x 4', 2, 2), ('Greedy', 2, 2), ('Greedy', 2, 3)]
    """
    chain = model if isinstance(model, Chain) else Chain.of(model, example_input)
    _check(chain, len(example_input), most, blocks, micro_batches)
    Costs((), bandwidth, latency)  # refuses what is no bandwidth, before anything is timed
    tried = [methods.get(rule) if isinstance(rule, str) else rule for rule in rules or RULES]
    paper = Paper(
        Measured(chain, example_input, loss, optimizer, precision, repeats), bandwidth, latency
    )
    watch("units")
    alone = paper.alone()
    found: list[DeviceRow] = []
    left_out: dict[str, str] = {}

    def add(row: DeviceRow) -> None:
        found.append(row)
        watch(row)

    parts = list(micro_batches or _parts(len(example_input)))
    for m in parts:
        watch(f"micro-batches of {len(example_input) // m}")
        paper.measured.times(m)
    ends: list[tuple[Method, Ends]] = []
    for rule in tried:
        watch(f"heads of {methods.label(rule)}")
        ends.append((rule, paper.measured.ends(rule)))
    for n in counts(most):
        for m in parts:
            for build, name in ((builders.gpipe, "GPipe"), (builders.one_f_one_b, "1F1B")):
                add(paper.pipeline(build, name, n, m))
        for rule, end in ends:
            for k in blocks or paper.blocks(rule, n):
                try:
                    rows = paper.local(rule, end, n, k)
                except LocalgradError as error:
                    left_out.setdefault(f"{methods.label(rule)}, K={k}", str(error))
                    continue
                for row in rows:
                    add(row)
    return Devices(
        type(chain.model).__name__,
        len(example_input),
        alone.step_seconds,
        alone.peak_bytes[0],
        bandwidth,
        latency,
        tuple(found),
        tuple(left_out.items()),
    )


RULES: tuple[Method, ...] = (methods.Greedy(), methods.BackLink(), methods.AugLocal())


def _parts(batch: int) -> list[int]:
    def fits(m: int) -> bool:
        return batch % m == 0 and batch // m >= FEWEST_ROWS

    found = [m for m in MICRO_BATCHES if fits(m)]
    return found or [next((m for m in (4, 2) if fits(m)), 1)]


def _check(
    chain: Chain,
    batch: int,
    most: int,
    blocks: Sequence[int] | None,
    micro_batches: Sequence[int] | None,
) -> None:
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise LocalgradError(f"devices={most!r}: must be a whole number of at least 1")
    if most > len(chain):
        raise LocalgradError(
            f"{most} devices for a network of {len(chain)} units: give at most {len(chain)}, or a "
            "finer granularity"
        )
    for k in blocks or ():
        chain.cuts(k)  # refuses a K that there is not
        if k < most:
            raise LocalgradError(f"{most} devices for {k} blocks: give more blocks")
    for m in micro_batches or ():
        if m < 1 or batch % m:
            raise LocalgradError(f"{m} micro-batches do not divide a batch of {batch}")
