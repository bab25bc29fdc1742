"""Steps on paper: pipelines and local rules on a number of devices, simulated from piece times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from localgrad import methods
from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError
from localgrad.methods import Method
from localgrad.parallel import builders
from localgrad.parallel.assignment import balanced
from localgrad.parallel.costs import BlockCosts, Costs
from localgrad.parallel.measured import Ends, Measured
from localgrad.parallel.schedule import Schedule
from localgrad.parallel.simulate import Timeline, simulate
from localgrad.partition import smallest_maximum

HIDING = 3  # linked blocks a device, of which no one waits (see localgrad.parallel.builders)


@dataclass(frozen=True)
class DeviceRow:
    """One way of training on a number of devices.

    Args:
        rule: what it is called.
        devices: how many.
        blocks: blocks with a loss of their own; of BP, stages.
        micro_batches: parts of the batch.
        step_seconds: of a step in the steady state.
        speed_up: one device's step of BP on the whole batch, over ``step_seconds``.
        own_speed_up: one device's step of the same blocks and rule, over ``step_seconds``.
        idle: mean share of time in which a device computes nothing, in the steady state.
        memory: bytes of the device that needs most.
        sent: bytes a step of the device that sends most.
    """

    rule: str
    devices: int
    blocks: int
    micro_batches: int
    step_seconds: float
    speed_up: float
    own_speed_up: float
    idle: float
    memory: int
    sent: int


class Paper:
    """What is asked about one chain.

    Args:
        measured: the times of its pieces.
        bandwidth: bytes/s between neighbours.
        latency: seconds.
    """

    def __init__(self, measured: Measured, bandwidth: float, latency: float) -> None:
        self.measured, self.bandwidth, self.latency = measured, bandwidth, latency
        self.batch = len(measured.example)
        self.bp = 0.0

    def alone(self) -> Timeline:
        """Return a step of BP on one device, on the whole batch."""
        stage = self.measured.pipelined([len(self.measured.chain)], 1)
        found = self.played(builders.one_f_one_b(1, 1), stage)
        self.bp = found.step_seconds
        return found

    def played(self, schedule: Schedule, blocks: tuple[BlockCosts, ...]) -> Timeline:
        """Simulate a schedule. Targets are a number a row."""
        targets = 8 * self.batch // schedule.micro_batches
        costs = Costs(blocks, self.bandwidth, self.latency, targets=targets)
        return simulate(schedule, costs)

    def pipeline(
        self, build: Callable[[int, int, int], Schedule], name: str, n: int, m: int
    ) -> DeviceRow:
        """Return the row of a pipeline of BP: stages cut by the time of a micro-batch."""
        times = self.measured.times(m)
        units = len(times) - 1

        def cost(start: int, stop: int) -> float:
            pieces = times[start : stop + (stop == units)]  # the tail goes with the last one
            return sum(piece.forward + piece.backward for piece in pieces)

        stages = self.measured.pipelined(smallest_maximum(units, n, cost), m)
        label = f"{name}, {m} x {self.batch // m}"
        own = sum(m * (s.forward + s.local) + s.update for s in stages)
        return self.row(label, self.played(build(n, m, 6), stages), own, m)

    def local(self, rule: Method, ends: Ends, n: int, k: int) -> list[DeviceRow]:
        """Return the rows of a rule with K blocks: as it is, and with late links.

        Raises:
            LocalgradError: there are fewer blocks than devices.
        """
        decoupling = self.decoupling(rule, ends, k)
        costs = self.measured.local(decoupling, ends)
        seconds = [block.seconds for block in costs]
        assignment = balanced(seconds, n)
        found = []
        crossing = n > 1 and builders.linked_blocks(decoupling)
        for late in (False, True) if crossing else (False,):
            schedule = builders.local(decoupling, assignment, 2 * n + 8, late_links=late)
            label = f"{methods.label(rule)}{', late' if late else ''}"
            found.append(self.row(label, self.played(schedule, costs), sum(seconds), 1))
        return found

    def blocks(self, rule: Method, n: int) -> list[int]:
        """Return the numbers of blocks that are tried on ``n`` devices."""
        chain = self.measured.chain
        fewest = self.fewest(rule, n)
        linked = builders.linked_blocks(rule(chain, chain.cuts(len(chain))))
        several = (HIDING * n,) if linked and n > 1 and HIDING * n < len(chain) else ()
        return list(dict.fromkeys((fewest, *several, len(chain))))

    def fewest(self, rule: Method, n: int) -> int:
        """Return the fewest blocks K that give every device a loss; K = units where none do."""
        chain = self.measured.chain
        for k in range(n, len(chain)):
            try:
                if len(builders.runs_of(rule(chain, chain.cuts(k)))) >= n:
                    return k
            except LocalgradError:  # too few for the rule
                continue
        return len(chain)

    def decoupling(self, rule: Method, ends: Ends, k: int) -> Decoupling:
        """Return K blocks, cut by time unless there is one a unit."""
        chain = self.measured.chain
        found = rule(chain, chain.cuts(k))
        joined = k - len(found)  # AugLocal's last blocks become one
        if k in (1, len(chain)) or joined < 0:
            return found
        times = self.measured.times()

        def cost(start: int, stop: int) -> float:
            pieces = [*times[start:stop], ends.times[stop - 1]]
            return sum(piece.forward + piece.backward for piece in pieces)

        cuts = smallest_maximum(len(chain), len(found), cost, last=joined + 1)
        inside = (cuts[-2] + 1 + j for j in range(joined)) if joined else ()
        return rule(chain, (*cuts[:-1], *inside, cuts[-1]))

    def row(self, label: str, found: Timeline, own: float, parts: int) -> DeviceRow:
        """Return the figures of a simulation."""
        idle = found.idle_shares()
        schedule = found.schedule
        return DeviceRow(
            label,
            len(schedule),
            sum(len(blocks) for blocks in schedule.blocks),
            parts,
            found.step_seconds,
            self.bp / found.step_seconds,
            own / found.step_seconds,
            sum(idle) / len(idle),
            max(found.peak_bytes),
            max(found.sent_bytes) // schedule.steps,
        )
