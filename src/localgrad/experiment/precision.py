"""The precision of a run: what autocast makes of it, and whether the device has it."""

from __future__ import annotations

import torch
from torch import nn

from localgrad.errors import LocalgradError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the precision as a context."""
    kind = DTYPES[precision]
    return torch.autocast(device.type, kind, enabled=kind is not None)


def check(device: torch.device, precision: str) -> None:
    """Refuse a precision that the device lacks.

    Raises:
        LocalgradError: names the remedy.
    """
    reason = _missing(device, precision)
    if reason is not None:
        others = "fp32 or fp16" if precision == "bf16" else "fp32 or bf16"
        raise LocalgradError(
            f"precision {precision!r} does not work on {device}: {reason}; set --precision to "
            f"{others}"
        )


def _missing(device: torch.device, precision: str) -> str | None:
    if precision == "fp32":
        return None
    if device.type == "cuda":
        if precision == "bf16" and not torch.cuda.is_bf16_supported():
            return f"{torch.cuda.get_device_name(device)} has no bf16"
        return None
    try:
        with torch.random.fork_rng([]):  # trying must not change what is trained
            _try(device, precision)
    except (RuntimeError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    return None


def _try(device: torch.device, precision: str) -> None:
    """Run a small convolution and linear layer forward and backward."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    net = nn.Sequential(net, nn.Linear(4 * 6 * 6, 3)).to(device)
    with autocast(device, precision):
        loss = net(torch.zeros(2, 3, 8, 8, device=device)).float().square().sum()
    loss.backward()
