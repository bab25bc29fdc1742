"""Floating-point operations of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.flop_counter import FlopCounterMode


def measure_flops(fn: Callable[[], Any]) -> int:
    """Return the FLOPs of one call of ``fn``, forward and backward.

    Counts matrix products, convolutions and attention (a multiply and an add are two); the rest is
    small beside them.

    >>> import torch
    >>> a = torch.ones(2, 3)
    >>> measure_flops(lambda: a @ a.t())
    24
    """
    with FlopCounterMode(display=False) as counter:
        fn()
    return int(counter.get_total_flops())
