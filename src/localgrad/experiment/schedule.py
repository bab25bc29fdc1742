"""Learning rate as a function of progress, and the optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from localgrad.errors import LocalgradError
from localgrad.experiment.options.optimizer import OptimizerConfig, ScheduleConfig


def learning_rate(config: ScheduleConfig, peak: float, epoch: float, epochs: int) -> float:
    """Return the learning rate after ``epoch`` epochs (a fraction within an epoch counts).

    The warm-up mixes ``warmup_lr`` with the schedule's own value linearly, as in InfoPro's and
    AugLocal's code (there once an epoch, here at every step); their 0.01 is for a peak of 0.8.

    >>> learning_rate(ScheduleConfig(), 0.8, 80, 160)
    0.4
    """
    progress = epoch / epochs
    if config.name == "cosine":
        value = peak * 0.5 * (1 + math.cos(math.pi * progress))
    elif config.name == "step":
        value = peak * config.gamma ** sum(progress >= part for part in config.milestones)
    else:
        value = peak
    if epoch < config.warmup_epochs:
        done = epoch / config.warmup_epochs
        start = peak / 10 if config.warmup_lr is None else config.warmup_lr
        value = value * done + start * (1 - done)
    return round(value, 12)


def build_optimizer(
    config: OptimizerConfig, module: nn.Module | Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Make the optimizer over every parameter of the learner, in one group.

    Raises:
        LocalgradError: a fused one was asked for, and the device has none.
    """
    parameters = list(module.parameters() if isinstance(module, nn.Module) else module)
    options: dict[str, Any] = {
        "lr": config.lr,
        "weight_decay": config.weight_decay,
        "fused": config.fused,
    }
    make: type[torch.optim.Optimizer] = torch.optim.AdamW
    if config.name == "sgd":
        make = torch.optim.SGD
        options["momentum"] = config.momentum
        options["nesterov"] = config.nesterov and config.momentum > 0
    if config.fused:
        try:  # SGD would say it at the first step only
            for device, dtype in {(p.device, p.dtype) for p in parameters}:
                probe = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
                probe.grad = torch.zeros_like(probe)
                make([probe], **options).step()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise LocalgradError(f"optimizer.fused: {reason}; leave it out here") from error
    return make(parameters, **options)
