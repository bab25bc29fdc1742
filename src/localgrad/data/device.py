"""Putting data on a device, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from localgrad.errors import LocalgradError

T = TypeVar("T")


def on_device(what: str, device: torch.device | str, move: Callable[[], T]) -> T:
    """Return ``move()``.

    Raises:
        LocalgradError: the device cannot be used; ``what`` is named.
    """
    try:
        return move()
    # What PyTorch raises depends on the device and on how it was built.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise LocalgradError(f"{what} cannot be put on device {str(device)!r}: {reason}") from error
