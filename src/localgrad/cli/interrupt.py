"""Ctrl-C: a wish while a run trains, whose state is saved; the end of the command elsewhere."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from localgrad.starting import quit_now

_SOON = 0.02  # seconds


@contextmanager
def stop_at_signal(told: Callable[[], None] | None = None) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a wish to stop; the second one stops at once.

    Args:
        told: called at the first one, in place of a message.

    Yields:
        A function that tells whether the user wishes to stop.
    """
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            earlier = before[signal.Signals(number)]
            if callable(earlier):
                earlier(number, frame)
            raise KeyboardInterrupt
        asked = True
        if told is not None:
            told()
        else:
            print("stopping after this batch; again to stop at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class CtrlC:
    """What Ctrl-C does from the beginning of a command to its end: it is not lost on the way.

    An extension that is being imported turns a KeyboardInterrupt into an error of its own, and one
    that arrives in a finaliser is printed and forgotten. So it is noted here, and raised again
    where it was forgotten.

    Args:
        process: the process is the command: the second one ends it at once, as does one that comes
            when the command is over.
    """

    def __init__(self, process: bool) -> None:
        self.process = process
        self.came = False
        self._again: threading.Timer | None = None  # while one is forgotten
        self._before: Any = None
        self._hook = sys.unraisablehook

    def begin(self) -> None:
        """Listen, where signals can be listened to and are not ignored."""
        here = threading.current_thread() is threading.main_thread()
        if here and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._ask)
            sys.unraisablehook = self._unraisable

    def over(self) -> None:
        """The command has ended; what is left is Python's own end."""
        if self._before is None:
            return
        if self._again is not None:
            self._again.cancel()
        signal.signal(signal.SIGINT, quit_now if self.process else self._before)
        sys.unraisablehook = self._hook

    def _ask(self, number: int, frame: Any) -> None:
        if self.came and self._again is None and self.process:
            quit_now(number, frame)
        self.came, self._again = True, None
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise one that was forgotten."""
        if self._again is not None:
            raise KeyboardInterrupt

    def _unraisable(self, what: Any) -> None:
        if not issubclass(what.exc_type, KeyboardInterrupt):
            self._hook(what)
            return
        # not here, where it would be forgotten again
        self._again = threading.Timer(_SOON, _thread.interrupt_main)
        self._again.daemon = True
        self._again.start()
