"""The process that a command runs in: its device, its threads and its memory."""

from __future__ import annotations

import torch

from localgrad.errors import LocalgradError
from localgrad.freed_memory import keep_freed_memory


def find_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` takes a CUDA device where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # the meta device holds no number
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise LocalgradError(f"device {name!r} cannot be used: {reason}") from error
    return device


def prepare(threads: int | None, device: torch.device) -> None:
    """Set the number of threads; on the CPU let the process keep what its tensors give free."""
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        keep_freed_memory()
