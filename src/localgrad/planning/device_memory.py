"""What memory a device has to give."""

from __future__ import annotations

import re
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that may still be taken; None where the system does not say.

    On the CPU the less of what the machine and the control group of the process have left.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = [size for size in (_of_the_machine(), _of_the_group()) if size is not None]
    return min(found, default=None)


def _of_the_machine() -> int | None:
    try:
        text = _MEMINFO.read_text(encoding="ascii")
    except OSError:  # not Linux
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return None if found is None else 1024 * int(found[1])


def _of_the_group() -> int | None:
    try:
        most = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        taken = (_CGROUP / "memory.current").read_text(encoding="ascii")
        return max(0, int(most) - int(taken))
    except (OSError, ValueError):  # no such group, or no limit: "max"
        return None
