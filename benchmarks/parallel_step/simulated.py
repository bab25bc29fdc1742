"""The same steps on paper: unit times measured here, played through the same schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import distributed as dist
from torch.nn import functional as F

from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.methods import Method
from localgrad.parallel import builders
from localgrad.parallel.costs import BlockCosts, Costs
from localgrad.parallel.measured import Ends, Measured
from localgrad.parallel.mesh import Mesh
from localgrad.parallel.schedule import Schedule
from localgrad.parallel.simulate import Timeline, simulate
from localgrad.partition import smallest_maximum
from parallel_step.setting import Setting, sgd

T = TypeVar("T")

PIPELINES: dict[str, Callable[..., Schedule]] = {
    "GPipe": builders.gpipe,
    "1F1B": builders.one_f_one_b,
}


def line(mesh: Mesh, size: int = 2**22, repeats: int = 5) -> tuple[float, float]:
    """Return bytes a second and latency in seconds of messages from process 0 to 1 and back.

    Args:
        mesh: the processes.
        size: bytes of a large message.
        repeats: of which the fastest counts.
    """
    found = {}
    for bytes_ in (4, size):
        room, times = torch.zeros(bytes_, dtype=torch.uint8, device=mesh.device), []
        for _ in range(repeats + 1):
            mesh.gather(None)
            start = time.perf_counter()
            if mesh.rank == 0:
                dist.send(room, 1)
                dist.recv(room, 1)
            elif mesh.rank == 1:
                dist.recv(room, 0)
                dist.send(room, 0)
            if mesh.device.type == "cuda":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - start) / 2)
        found[bytes_] = mesh.gather(min(times[1:]))[0]
    latency = found[4]
    return size / max(found[size] - latency, 1e-9), latency


class Paper:
    """Unit times of this run, and what they say about a contender.

    Args:
        setting: what is trained.
        at_once: all processes measure at the same time, each the units of its own part, as they
            will run beside each other; else the first process measures all, and the others wait.
        steps: of a schedule.
    """

    def __init__(self, setting: Setting, at_once: bool, steps: int, repeats: int = 5) -> None:
        self._setting, self._at_once, self._steps = setting, at_once, steps
        self._measured = Measured(
            Chain.of(setting.model()), setting.x, F.cross_entropy, sgd, repeats=repeats
        )
        self._ends: dict[str, Ends] = {}
        self.units = len(self._measured.chain)
        self.line = line(setting.mesh) if setting.mesh.blocks > 1 else (float("inf"), 0.0)

    def balanced(self, micro_batches: int) -> tuple[int, ...]:
        """Return the stages of BP whose longest takes least."""
        times = self._agreed(lambda: self._measured.times(micro_batches))[0]
        units = len(times) - 1

        def cost(start: int, stop: int) -> float:
            pieces = times[start : stop + (stop == units)]  # the tail goes with the last one
            return sum(piece.forward + piece.backward for piece in pieces)

        return smallest_maximum(units, self._setting.mesh.blocks, cost)

    def local(
        self, rule: Method, decoupling: Decoupling, ends: Sequence[int], late_links: bool = False
    ) -> Timeline:
        """Return a rule's steps."""
        key = repr(rule)

        def blocks() -> tuple[BlockCosts, ...]:
            if key not in self._ends:
                self._ends[key] = self._measured.ends(rule)
            return self._measured.local(decoupling, self._ends[key])

        starts = (0, *ends[:-1])
        parts = [tuple(range(a, b)) for a, b in zip(starts, ends, strict=True)]
        schedule = builders.local(
            decoupling, parts, self._steps, targets=False, late_links=late_links
        )
        return self._played(schedule, self._agreed(blocks))

    def pipeline(self, kind: str, micro_batches: int, ends: Sequence[int]) -> Timeline:
        """Return a pipeline's steps."""
        found = self._agreed(lambda: self._measured.pipelined(ends, micro_batches))
        return self._played(PIPELINES[kind](len(ends), micro_batches, self._steps), found)

    def _played(self, schedule: Schedule, found: Sequence[tuple[BlockCosts, ...]]) -> Timeline:
        bandwidth, latency = self.line
        costs = tuple(
            found[rank][block] for rank, own in enumerate(schedule.blocks) for block in own
        )
        return simulate(schedule, Costs(costs, bandwidth, latency))

    def _agreed(self, measure: Callable[[], T]) -> list[T]:
        """Return what each process measured; alone, what the first one did."""
        mesh = self._setting.mesh
        mesh.gather(None)
        if self._at_once:
            return mesh.gather(measure())
        found = mesh.gather(measure() if mesh.rank == 0 else None)
        return [found[0]] * len(found)
