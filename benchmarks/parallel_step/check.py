"""That rivals are not broken: their gradients are those of BP in one process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localgrad.errors import LocalgradError
from parallel_step.ddp import replicated, rows
from parallel_step.pipelines import SCHEDULES, Pipeline
from parallel_step.setting import CHANNELS_LAST, Setting

LARGEST = 1e-9  # of the largest gradient: float64 sums in another order


@dataclass(frozen=True)
class Exact(Setting):
    """A setting in float64, with the norms' statistics fixed: micro-batches change nothing."""

    def model(self) -> nn.Module:
        """Return the network."""
        return super().model().double().eval()

    def double(self) -> tuple[Tensor, Tensor]:
        """Return the batch."""
        return self.x.double(), self.y


def errors(setting: Setting, micro_batches: Sequence[int], ends: Sequence[int]) -> dict[str, float]:
    """Return by how much each rival's gradients differ from BP's, over the largest of BP's.

    Raises:
        LocalgradError: by more than rounding, or a border does not arrive channels-last.
    """
    mesh = setting.mesh
    batch = 2 * math.lcm(*micro_batches, mesh.blocks)
    exact = Exact(mesh, setting.network, batch, setting.size, setting.options)
    x, y = exact.double()
    model = exact.model()
    F.cross_entropy(model(x), y).backward()
    expected = _gradients(model)
    found = {}
    replica = replicated(exact.model())
    F.cross_entropy(replica(rows(exact, x)), rows(exact, y)).backward()
    found["DDP"] = difference(_gradients(replica.module), expected)
    for kind in SCHEDULES:
        for count in micro_batches:
            whole = exact.model()
            one = Pipeline(exact, kind, count, ends, whole)
            arrived: list[bool] = []
            one.module.parts[0].register_forward_pre_hook(
                lambda module, inputs, arrived=arrived: arrived.append(
                    inputs[0].is_contiguous(memory_format=CHANNELS_LAST)
                )
            )
            one.gradients(x, y)
            if not all(mesh.gather(all(arrived))):
                raise LocalgradError(f"{one.name}: a border does not arrive channels-last")
            mine = {id(p) for p in one.module.parameters()}
            names = {name for name, p in whole.named_parameters() if id(p) in mine}
            own = {name: expected[name] for name in names}
            found[one.name] = difference(
                {name: g for name, g in _gradients(whole).items() if name in names}, own
            )
    everyone = mesh.gather(found)
    worst = {name: max(one[name] for one in everyone) for name in found}
    for name, error in worst.items():
        if not error < LARGEST:
            raise LocalgradError(
                f"{name}: gradients differ from BP's by {error:.1e} of the largest"
            )
    return worst


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference over the largest gradient; infinite where one is missing."""
    if found.keys() != expected.keys():
        return float("inf")
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    with torch.no_grad():
        errors = [float((found[name] - expected[name]).abs().max()) for name in expected]
    return max(errors) / largest
