"""The process that a command runs in: its threads and its memory."""

from __future__ import annotations

import torch

from localgrad.freed_memory import keep_freed_memory


def prepare(threads: int | None, device: torch.device) -> None:
    """Set the number of threads; on the CPU let the process keep what its tensors give free."""
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        keep_freed_memory()
