"""Memory that the C library keeps for the next step, instead of giving it back to the kernel.

On the CPU PyTorch takes each tensor from ``malloc`` and returns it to ``free``. The GNU C library
hands large pieces back to the kernel, which gives them out again empty, page by page, at the next
step: up to a third of a training step's time.
"""

from __future__ import annotations

import ctypes
import sys

# of <malloc.h>
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that its tensors on the CPU give free.

    For the whole process, from now to its end; its memory never shrinks, and only speed changes.
    Call it before the first step. Under another C library, or with another allocator in its place,
    nothing happens.

    Returns:
        Whether the C library does so.

    >>> kept = keep_freed_memory()
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl has a mallopt that does nothing
        return False
    # no piece straight from the kernel, and none at the top of the heap back to it
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, -1))
