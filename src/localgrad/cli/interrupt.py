"""Ctrl-C as a wish: the batch under way is finished and the state saved."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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
