"""A line that says what is under way."""

from __future__ import annotations

import sys


class ProgressLine:
    """A line on stderr, where that is a terminal."""

    def __init__(self, quiet: bool) -> None:
        self.on = not quiet and sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Put the text in place of what stood there."""
        if self.on:
            print(f"\r\x1b[K{text} ..", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self.on:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
