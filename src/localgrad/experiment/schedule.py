"""Learning rate as a function of progress, and the optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from localgrad.experiment.config import OptimizerConfig, ScheduleConfig


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
    """Make the optimizer over every parameter of the learner, in one group."""
    parameters = module.parameters() if isinstance(module, nn.Module) else module
    if config.name == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
    )
