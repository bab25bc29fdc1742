"""Draw how far gradients travel, rule by rule, as it is measured: docs/reach-*.svg.

The rules' pictures come in two sizes: ``reach-RULE.svg`` with the names of losses and units, and
``reach-small-RULE.svg``, the cells alone, for tables.

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
from localgrad.layers import GlobalAvgPool
from localgrad.report.matrix import write_matrix
from localgrad.report.palette import INKS, family

ROOT = Path(__file__).resolve().parents[1]
METHODS = localgrad.methods
#: Name of the picture -> rule, number of blocks, what the picture is of.
RULES: dict[str, tuple[Any, int, str]] = {
    "backprop": (METHODS.Backprop(), 1, "back-propagation"),
    "greedy": (METHODS.Greedy(), 3, "greedy local learning"),
    "dgl": (METHODS.DGL(), 3, "DGL"),
    "predsim": (METHODS.PredSim(), 3, "PredSim"),
    "infopro": (METHODS.InfoPro(first=(1, 1), last=(1, 1)), 3, "InfoPro"),
    "backlink": (METHODS.BackLink(length=1), 3, "BackLink"),
    "backlink_replace": (METHODS.BackLink(length=1, combine="replace"), 3, "BackLink, replace"),
    "auglocal": (METHODS.AugLocal(depth=2), 6, "AugLocal"),
    "bwbpf": (METHODS.BWBPF(), 3, "BWBPF"),
    "deep_supervision": (METHODS.DeepSupervision(), 3, "deep supervision"),
}
CELL = 14  # pixels, of the small pictures


class Unit(nn.Module):
    """A layer and its activation."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 8, 3, stride, padding=1)

    def like(self, channels: int, stride: int) -> Unit:
        """Return a fresh one, for AugLocal's heads."""
        return Unit(channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


class Output(nn.Sequential):
    """The output layer: global average pool and a linear layer."""

    def __init__(self) -> None:
        super().__init__(GlobalAvgPool(), nn.Linear(8, 4))


def network() -> nn.Module:
    """Return six units and an output layer."""
    units = [(f"unit {k}", Unit(3 if k == 1 else 8)) for k in range(1, 7)]
    return nn.Sequential(OrderedDict([*units, ("output", Output())]))


def measured() -> dict[str, localgrad.Reach]:
    """Return the reach of a step of each rule, and of the step of the example, held against what it
    was meant to be."""
    torch.manual_seed(0)
    x, y = torch.rand(16, 3, 8, 8), torch.randint(4, (16,))
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


def small(reach: localgrad.Reach, method: str, label: str) -> str:
    """Return the cells alone as SVG, light or dark as the reader's system is."""
    matrix = reach.matrix.tolist()
    width, height = CELL * len(matrix[0]) + 1, CELL * len(matrix) + 1
    cells = "".join(
        f'<rect x="{CELL * u + 0.5}" y="{CELL * k + 0.5}" width="{CELL}" height="{CELL}" '
        f'class="{"yes" if reached else "no"}"/>'
        for k, row in enumerate(matrix)
        for u, reached in enumerate(row)
    )
    look, line, page = family(method, label), INKS["line"], INKS["page"]
    themes = [
        f"rect{{stroke:{line[n]}}}.no{{fill:{page[n]}}}.yes{{fill:{(look.light, look.dark)[n]}}}"
        for n in (0, 1)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img">'
        f"<title>Reach of {label}: {len(matrix)} losses, {len(matrix[0])} units</title>"
        f"<style>{themes[0]}@media (prefers-color-scheme:dark){{{themes[1]}}}</style>"
        f"{cells}</svg>\n"
    )


def draw(folder: Path) -> None:
    """Write the pictures."""
    for name, reach in measured().items():
        rule, _, label = RULES.get(
            name, (METHODS.Greedy(), 0, f"the example's step, {name.replace('_', ' ')}")
        )
        write_matrix(reach.to_dict(), rule.name, label, folder / f"reach-{name}.svg")
        if name in RULES:
            path = folder / f"reach-small-{name}.svg"
            path.write_text(small(reach, rule.name, label), encoding="utf-8")


if __name__ == "__main__":
    draw(ROOT / "docs")
