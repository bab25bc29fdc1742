"""Locks on files, which the system lets go of when their holder ends, however it ends."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from localgrad.errors import LocalgradError

if sys.platform != "win32":
    import fcntl

HOLDER = "{holder}"  #: in an error's text: stands for the process that holds the lock
_held: set[int] = set()  # file descriptors


@contextmanager
def locked(
    path: Path,
    shared: bool = False,
    seconds: float | None = None,
    busy: str = "",
    stays: bool = True,
) -> Iterator[None]:
    """Hold a lock while the block runs; where the file system has no locks, run it without.

    Args:
        path: of the file, which is made.
        shared: others may hold it too, if they share it.
        seconds: how long to wait for it; None: for ever.
        busy: the error's text where the time is up.
        stays: the file is left when the lock is let go. One that is not must not be shared.

    Raises:
        LocalgradError: somebody else holds it.
    """
    handle = _taken(path, shared, seconds, busy)
    try:
        yield
    finally:
        if handle in _held:
            if not stays:  # while it is held: whoever waits for this file looks for another one
                with suppress(OSError):
                    path.unlink()
            _let_go(handle)


def _taken(path: Path, shared: bool, seconds: float | None, busy: str) -> int | None:
    """Return the descriptor of the locked file, None where there are no locks."""
    if sys.platform == "win32":
        return None
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:  # nothing can be written here, which the first file to be written will say
            return None
        _held.add(handle)
        try:
            if seconds is None:
                fcntl.flock(handle, kind)
            else:
                _within(handle, kind, seconds, busy)
            if not _is_at(handle, path):  # its last holder has removed it
                _let_go(handle)
                continue
        except OSError:  # network file systems may have none
            _let_go(handle)
            return None
        except BaseException:
            _let_go(handle)
            raise
        with suppress(OSError):  # on a full disk the lock holds without it
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        return handle


def _within(handle: int, kind: int, seconds: float, busy: str) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise LocalgradError(busy.replace(HOLDER, _holder(handle))) from None
            time.sleep(0.1)


def _holder(handle: int) -> str:
    number, _, host = os.pread(handle, 300, 0).decode(errors="replace").strip().partition(" ")
    if not number.isdecimal():
        return "another process"
    return f"process {number}" + ("" if host == socket.gethostname() else f" on {host}")


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _let_go(handle: int) -> None:
    _held.discard(handle)
    os.close(handle)


def _in_a_fork() -> None:
    """A worker of a data loader must not hold on to what its parent has locked."""
    for handle in tuple(_held):
        _let_go(handle)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_fork)
