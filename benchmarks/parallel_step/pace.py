"""How fast a contender goes in one process: moments, waits, page faults."""

from __future__ import annotations

import itertools
import resource
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from parallel_step.setting import Contender


class Clock:
    """Moments; on CUDA those of the device's stream, which are known at the end."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._moments: list[Any] = []

    def mark(self) -> None:
        """Note this moment."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._moments.append(event)
        else:
            self._moments.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return each moment, in seconds from the first; waits for the device."""
        first = self._moments[0]
        if self._device.type != "cuda":
            return [moment - first for moment in self._moments]
        self._moments[-1].synchronize()
        return [first.elapsed_time(moment) / 1000 for moment in self._moments]


@dataclass(frozen=True)
class Pace:
    """What one process measured over some steps.

    Args:
        steady: median seconds between the outputs of two steps.
        filled: seconds a step, from the first one's begin until all updates are done.
        idle_steady: share of the time spent waiting for other processes, the first two steps and
            the last one aside; None where that is not known.
        idle_filled: the same over all steps.
        faults: page faults a step that the kernel served without a disk.
        busy: processor seconds of all threads, over the seconds that passed.
    """

    steady: float
    filled: float
    idle_steady: float | None
    idle_filled: float | None
    faults: float
    busy: float


def pace(contender: Contender, count: int, device: torch.device) -> Pace:
    """Let a contender take ``count`` steps, 3 or more."""
    contender.waited()  # what came before does not count
    each = device.type != "cuda"  # there, to ask for each step's waits would wait for the device
    clock, waits = Clock(device), []
    faults, busy = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    clock.mark()
    for _ in contender.steps(count):
        clock.mark()
        waits.append(contender.waited() if each else 0.0)
    waits.append(contender.waited())
    clock.mark()
    moments = clock.seconds()
    busy = time.process_time() - busy
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    outputs = moments[1:-1]
    whole = moments[-1]
    settled = range(min(2, count - 2), count - 1)
    spent = sum(outputs[i] - outputs[i - 1] for i in settled)
    known = None not in waits
    return Pace(
        steady=statistics.median(b - a for a, b in itertools.pairwise(outputs)),
        filled=whole / count,
        idle_steady=sum(waits[i] or 0.0 for i in settled) / spent if known and each else None,
        idle_filled=sum(wait or 0.0 for wait in waits) / whole if known else None,
        faults=faults / count,
        busy=busy / whole,
    )
