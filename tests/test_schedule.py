from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from localgrad.errors import LocalgradError
from localgrad.experiment.options.optimizer import OptimizerConfig, ScheduleConfig
from localgrad.experiment.schedule import build_optimizer, learning_rate


@pytest.mark.parametrize(
    ("options", "epoch", "expected"),
    [
        ({}, 0, 0.8),
        ({}, 2.5, 0.8 * 0.5 * (1 + math.sqrt(0.5))),
        ({}, 5, 0.4),
        ({}, 10, 0.0),
        ({"name": "constant"}, 9.9, 0.8),
        ({"name": "step"}, 4.99, 0.8),
        ({"name": "step"}, 5, 0.08),
        ({"name": "step"}, 7.5, 0.008),
        ({"name": "step", "milestones": [0.2], "gamma": 0.5}, 2, 0.4),
        # warm-up: done * schedule + (1 - done) * warmup_lr, where done = epoch / warmup_epochs
        ({"name": "constant", "warmup_epochs": 4}, 0, 0.08),
        ({"name": "constant", "warmup_epochs": 4}, 1, 0.25 * 0.8 + 0.75 * 0.08),
        ({"name": "constant", "warmup_epochs": 4}, 4, 0.8),
        ({"name": "constant", "warmup_epochs": 0.5, "warmup_lr": 0.2}, 0.25, 0.5),
        ({"warmup_epochs": 5}, 2.5, 0.5 * 0.4 * (1 + math.sqrt(0.5)) + 0.5 * 0.08),
    ],
)
def test_points(options, epoch, expected):
    assert learning_rate(ScheduleConfig(**options), 0.8, epoch, 10) == pytest.approx(expected)


def test_optimizers_hold_every_parameter_in_one_group():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    sgd = build_optimizer(OptimizerConfig(lr=0.3, momentum=0.8, weight_decay=0.01), module)
    adamw = build_optimizer(OptimizerConfig(name="adamw", lr=0.3, weight_decay=0.01), module)
    assert isinstance(sgd, torch.optim.SGD)
    assert isinstance(adamw, torch.optim.AdamW)
    for optimizer in (sgd, adamw):
        (group,) = optimizer.param_groups
        assert group["params"] == list(module.parameters())
        assert (group["lr"], group["weight_decay"]) == (0.3, 0.01)
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["nesterov"]) == (0.8, True)


def test_fused_optimizers():
    module, strange = nn.Linear(2, 3), nn.Module()
    strange.weight = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    for name in ("sgd", "adamw"):
        for fused in (None, True, False):
            (group,) = build_optimizer(OptimizerConfig(name=name, fused=fused), module).param_groups
            assert group["fused"] is fused
        with pytest.raises(LocalgradError, match=r"^optimizer.fused: .*; leave it out here$"):
            build_optimizer(OptimizerConfig(name=name, fused=True), strange)


def test_sgd_without_momentum():
    (group,) = build_optimizer(OptimizerConfig(momentum=0), nn.Linear(2, 3)).param_groups
    assert (group["momentum"], group["nesterov"]) == (0, False)
