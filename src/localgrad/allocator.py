"""What an allocator gave out at most while a function ran, operators' own needs included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def allocated_peak(fn: Callable[[], T], device: torch.device) -> tuple[T, int]:
    """Return ``fn()``, and the most bytes held at once beyond what was held before.

    On a GPU from the allocator's own counters; on the CPU from the profiler's record of every
    allocation, which makes the call slower.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = fn()
        torch.cuda.synchronize(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        result = fn()
    live = most = 0
    for event in sorted(_allocations(profiler), key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return result, most


def _allocations(profiler: Any) -> list[Any]:
    events = profiler.profiler.kineto_results.events()
    return [event for event in events if event.name() == "[memory]"]
