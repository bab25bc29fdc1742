"""Draw how far gradients travel, rule by rule, as it is measured: docs/reach-*.svg.

python benchmarks/reach_pictures.py
"""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import localgrad
from localgrad.layer_columns import layer_columns
from localgrad.report.matrix import write_matrix

ROOT = Path(__file__).resolve().parents[1]
#: Name of the picture -> rule, number of blocks, what the picture is of.
RULES: dict[str, tuple[Any, int, str]] = {
    "backprop": (localgrad.methods.Backprop(), 1, "back-propagation"),
    "greedy": (localgrad.methods.Greedy(), 3, "greedy local learning"),
    "backlink": (localgrad.methods.BackLink(length=1), 3, "BackLink"),
    "deep_supervision": (localgrad.methods.DeepSupervision(), 3, "deep supervision"),
}


class Unit(nn.Module):
    """A layer and its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


def network() -> nn.Module:
    """Return six units and an output layer."""
    units = [(f"unit {k}", Unit()) for k in range(1, 7)]
    return nn.Sequential(OrderedDict([*units, ("output", nn.Linear(8, 4))]))


def measured() -> dict[str, localgrad.Reach]:
    """Return the reach of a step of each rule, and of the step of the example, held against what it
    was meant to be."""
    torch.manual_seed(0)
    x, y = torch.randn(16, 8), torch.randint(4, (16,))
    found = {}
    for name, (rule, blocks, _) in RULES.items():
        learner = localgrad.decouple(network(), rule, blocks=blocks, example_input=x)
        found[name] = localgrad.audit(partial(learner.step, x, y), learner)
    example = _example()
    model, step = example.repaired()
    found["repaired"] = localgrad.audit(step, model, layer_columns(model))
    meant = found["repaired"].matrix.tolist()
    model, step = example.forgetful()
    found["forgotten_detach"] = localgrad.audit(step, model, layer_columns(model), meant)
    return found


def _example() -> Any:
    path = ROOT / "examples" / "forgotten_detach.py"
    spec = importlib.util.spec_from_file_location("forgotten_detach", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(folder: Path) -> None:
    """Write the pictures."""
    labels = {name: label for name, (_, _, label) in RULES.items()}
    for name, reach in measured().items():
        label = labels.get(name, f"the example's step, {name.replace('_', ' ')}")
        method = name if name in labels else "greedy"
        write_matrix(reach.to_dict(), method, label, folder / f"reach-{name}.svg")


if __name__ == "__main__":
    draw(ROOT / "docs")
