"""Locks on files, which the system lets go of when their holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localgrad.errors import LocalgradError


@contextmanager
def locked(
    path: Path, shared: bool = False, seconds: float | None = None, busy: str = ""
) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: of the file, which is made.
        shared: others may hold it too, if they share it.
        seconds: how long to wait for it; None: for ever.
        busy: the error's text where the time is up.

    Raises:
        LocalgradError: somebody else holds it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        if seconds is None:
            fcntl.flock(handle, kind)
        else:
            _within(handle, kind, seconds, busy)
        yield
    finally:
        os.close(handle)


def _within(handle: int, kind: int, seconds: float, busy: str) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise LocalgradError(busy) from None
            time.sleep(0.1)
