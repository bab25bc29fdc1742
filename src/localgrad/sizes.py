"""Sizes of memory as people write them."""

from __future__ import annotations

import math
import re

from localgrad.errors import LocalgradError

_PREFIXES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"\s*(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)\s*([kmgt]?)(i?)(b?)\s*", re.I)


def read_bytes(given: str | float, what: str = "budget") -> int:
    """Return a number of bytes.

    ``KiB, MiB, GiB, TiB`` are powers of 1024; ``KB, MB, GB, TB``, with or without the B, of 1000:
    of the two readings of "8G" that is the smaller one, which is safe for a budget.

    Args:
        given: a text or a number of bytes.
        what: it is, for messages.

    >>> read_bytes("8GiB") == 8 * 2**30, read_bytes("500 MB"), read_bytes("2e9")
    (True, 500000000, 2000000000)

    Raises:
        LocalgradError: the text is no size, or not above 0.
    """
    if isinstance(given, str):
        found = _SIZE.fullmatch(given)
        if found is None or (found[3] and not found[2]):
            raise LocalgradError(
                f"{what} {given!r} is no size of memory: give bytes above 0, or a number with KiB, "
                "MiB, GiB, TiB (of 1024) or KB, MB, GB, TB (of 1000), such as 8GiB"
            )
        size = float(found[1]) * (1024 if found[3] else 1000) ** _PREFIXES[found[2].lower()]
    else:
        size = float(given)
    if not math.isfinite(size) or size < 1:
        raise LocalgradError(f"{what} {given!r}: must be at least one byte, and finite")
    return int(size)


def shown(count: float) -> str:
    """Return a number of bytes to read.

    >>> shown(6.5 * 2**30), shown(300 * 2**20), shown(900)
    ('6.50 GiB', '300 MiB', '900 bytes')
    """
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        value = count / 1024**power
        if value >= 1:
            return (
                f"{value:.2f} {unit}"
                if value < 10
                else f"{value:.{1 if value < 100 else 0}f} {unit}"
            )
    return f"{count:.0f} bytes"
