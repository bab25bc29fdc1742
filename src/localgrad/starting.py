"""What the command line needs before torch is imported.

Ctrl-C works while it starts, which is the import of torch above all, and while it ends. Threads of
an operation that wait for each other soon sleep: the GNU OpenMP library lets them spin for long,
which beside other programs takes the very core that the late thread waits for.

Imported first of all; does nothing in other programs, whose signals and threads are their own.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import Any

INTERRUPTED = 130  #: the exit code that shells give to Ctrl-C


def is_command(line: list[str]) -> bool:
    """Whether a process started so is the command line.

    Args:
        line: as :data:`sys.orig_argv`.

    >>> is_command(["python3", "/usr/bin/localgrad", "list"])
    True
    >>> is_command(["python3", "-u", "-m", "localgrad", "list"])
    True
    >>> is_command(["python3", "-m", "pytest", "-m", "localgrad"])
    False
    """
    for word, following in zip(line[1:], [*line[2:], ""], strict=True):
        if word == "-m":
            return following == "localgrad"
        if not word.startswith("-"):
            return os.path.basename(word) in ("localgrad", "localgrad.exe")
    return False


def quit_now(number: int, frame: Any) -> None:
    """End the process, as a handler of Ctrl-C where nothing is left to be tidied up."""
    os._exit(INTERRUPTED)


if is_command(sys.orig_argv):
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, quit_now)
        # the first registered is the last called; what is left of Python's end takes no time
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
