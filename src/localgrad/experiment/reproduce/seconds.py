"""How long a run will take: a few steps and a few test images, measured."""

from __future__ import annotations

import re
import time

import torch

from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment.build import build
from localgrad.experiment.config import Config
from localgrad.experiment.cost import random_state_kept, time_steps
from localgrad.experiment.precision import autocast

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PROBE = 32  # images of a measured step on the CPU, where time is about linear in them
_BEFORE = 5  # steps' worth of work before the first one: the audit, memory and FLOPs


def read_duration(text: str) -> float:
    """Return the seconds that ``text`` stands for.

    >>> read_duration("2h"), read_duration("1h30m"), read_duration("1.5 min")
    (7200.0, 5400.0, 90.0)

    Raises:
        LocalgradError: it cannot be read, or is no time at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?|\.\d+)\s*(min|[smhd])\s*", text.strip())
    whole = re.fullmatch(r"((\d+(\.\d+)?|\.\d+)\s*(min|[smhd])\s*)+", text.strip())
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if whole is None or seconds <= 0:
        raise LocalgradError(f"--budget {text}: expected a time, such as 2h, 90m or 1h30m")
    return seconds


def shown(seconds: float) -> str:
    """Return a time to read.

    >>> shown(4.2), shown(200), shown(7560), shown(4e6)
    ('4.2 s', '3.3 min', '2.1 h', '1,111 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def estimated(config: Config, data: Dataset | TextDataset) -> float:
    """Return about how many seconds a whole run takes on this machine.

    Two steps after a warm-up, at the run's batch on a GPU and at 32 images on the CPU; and the
    forward pass of as many test images. To these are added the tests after every epoch, and what
    a run measures before its first step.

    Raises:
        LocalgradError: the run cannot be built.
    """
    whole = build(config, data)
    images = len(data.train)
    batch = min(config.batch_size, images)
    probe = batch if whole.device.type == "cuda" else min(batch, _PROBE)
    few = config.data.model_copy(update={"drop_last": True})
    small = build(config.model_copy(update={"batch_size": probe, "data": few}), data)
    del whole
    with random_state_kept(small.device):
        (steps,) = time_steps([small], 2)
    each = min(steps) / probe
    x = small.test.first()[0][:probe]
    small.learner.eval()
    with torch.no_grad(), autocast(small.device, config.precision):
        small.learner(x)
        _finish(small.device)
        start = time.perf_counter()
        small.learner(x)
        _finish(small.device)
    test = (time.perf_counter() - start) / len(x)
    work = images * config.epochs + _BEFORE * batch
    return each * work + test * len(data.test) * (config.epochs + 1)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
