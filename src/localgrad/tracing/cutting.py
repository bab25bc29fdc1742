"""Cutting any module: traced, and its trace cut into a slice for each unit.

A trace holds for one shape of input (the batch aside), for the modes that the model's own code
asked about, and for one kind of autocast. Where one of them changes, the model is traced again
with the same cuts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.model_state import evaluation, sample_of
from localgrad.tracing import granularity as grain
from localgrad.tracing.borders import Borders
from localgrad.tracing.graph import Node, Trace
from localgrad.tracing.slices import Dims, ModelNames, Slice, Step
from localgrad.tracing.slicing import slice_between
from localgrad.tracing.tracer import trace


@dataclass(frozen=True)
class TracedCut:
    """One trace of the model, cut: a slice for each unit and the tail."""

    labels: tuple[str, ...]
    slices: list[Slice]
    nodes: list[Node]
    autocast: torch.dtype | None
    opaque: dict[str, str]
    legal: int


class Cutter:
    """Cuts one model, and again where its circumstances change.

    Args:
        model: a module whose forward takes one tensor.
        example: a batch of inputs.
        granularity: ``"stage"``, ``"unit"`` or ``"layer"``.
        units: names of submodules that units end with, in place of a granularity.
    """

    def __init__(
        self, model: nn.Module, example: Tensor, granularity: str, units: Sequence[str] | None
    ) -> None:
        self.model, self.granularity, self.units = model, granularity, units
        self.names = ModelNames(model)
        self.constants = _constants(model)
        self.example = rows_of(sample_of(example, model), 2)
        self.cuts: list[TracedCut] = []
        for training in (True, False):
            with evaluation(model.modules(), training):
                self.cuts.append(self.cut(self.example))
        self.labels = self.cuts[0].labels
        self.owners: dict[int, int] = {}

    def cut(self, x: Tensor) -> TracedCut:
        """Trace the model on ``x`` as it is now, and cut it."""
        found = trace(self.model, x, self.constants)
        larger = trace(self.model, rows_of(x, len(x) + 1), self.constants)
        if [n.title for n in found.nodes] != [n.title for n in larger.nodes]:
            raise LocalgradError(
                f"{type(self.model).__name__} cannot be cut: for {len(x) + 1} rows it computes "
                f"otherwise than for {len(x)}"
            )
        borders = Borders(found)
        if self.units is None:
            spans = grain.spans(self.model, borders, self.granularity)
        else:
            spans = grain.named_spans(borders, self.units)
        if len(spans) < 2:
            reason = next(iter(found.opaque.items()), None)
            why = borders.why_not() if reason is None else f"{reason[0]!r} is opaque ({reason[1]})"
            raise LocalgradError(
                f"{type(self.model).__name__} cannot be cut: it has no legal cut between two "
                f"layers with weights: {why}"
            )
        slices, source = [], found.nodes[0]
        for span in spans:
            target = borders.tensor[span.stop]
            slices.append(slice_between(found, span.start, span.stop, source, target))
            source = target
        for part in slices:
            part.source_size = _dims(part.source, found, larger)
            for node in part.sizes:
                part.sizes[node] = _dims(node, found, larger)
        labels = tuple(span.label for span in spans)
        if self.cuts and labels != self.labels_now():
            raise LocalgradError(
                f"{type(self.model).__name__} has other cuts in another mode or for another shape: "
                "give units=[...] that both have"
            )
        return TracedCut(
            labels, slices, found.nodes, _autocast(x), found.opaque, len(borders.cuts())
        )

    def labels_now(self) -> tuple[str, ...]:
        """Return the labels of the first trace, which all others must have."""
        return self.cuts[0].labels

    def slice_for(self, index: int, x: Tensor) -> Slice:
        """Return the slice of a unit that holds for ``x`` and the model's present modes."""
        for cut in self.cuts:
            if self._holds(cut, index, x):
                return cut.slices[index]
        example = x if index == 0 else self.example
        with torch.no_grad():
            self.cuts.append(self.cut(rows_of(sample_of(example, self.model), 2)))
        if not self._holds(self.cuts[-1], index, x):
            size = self.cuts[-1].slices[index].source_size
            expected = tuple("batch" if a else c for a, c in size)
            raise LocalgradError(
                f"unit {self.labels[index]!r} got {tuple(x.shape)} of {x.dtype}, "
                f"expected {expected}"
            )
        return self.cuts[-1].slices[index]

    def _holds(self, cut: TracedCut, index: int, x: Tensor) -> bool:
        part = cut.slices[index]
        modes = all(self.names.module(path).training == mode for path, mode in part.modes)
        return modes and cut.autocast == _autocast(x) and part.fits(x)

    def owner(self, parameter: nn.Parameter) -> int:
        """Return the index of the first unit that reads a parameter."""
        if id(parameter) not in self.owners:  # never looked, or the model has new ones since
            self.owners = {}
            for index in range(len(self.labels)):
                for read in self.read(index):
                    self.owners.setdefault(id(read), index)
        return self.owners[id(parameter)]

    def read(self, index: int, given: bool | None = None) -> list[nn.Parameter]:
        """Return the parameters that a unit reads, in any of the traces.

        Args:
            index: of the unit.
            given: True: those that are made into sizes and masks for it; False: the others.
        """
        found: dict[int, nn.Parameter] = {}
        for cut in self.cuts:
            for step in cut.slices[index].steps:
                if given is None or step.given == given:
                    found.update((id(p), p) for p in self.parameters_of(step))
        return list(found.values())

    def readers(
        self, index: int, passes: Callable[[nn.Module | None, str], bool]
    ) -> list[str] | None:
        """Return the layers that a unit's input meets first, with the norms before them.

        Args:
            index: of the unit.
            passes: whether an operation (a submodule, or a function's name) takes any number of
                channels and keeps them apart.

        Returns:
            Paths of submodules, or None where something else reads the input (a shortcut).
        """
        cut = self.cuts[0]
        part = cut.slices[index]
        carriers, found = {part.source}, []
        for node in cut.nodes[part.source.index + 1 : part.target.index + 1]:
            if node.content_free or not carriers.intersection(node.inputs()):
                continue
            module = self.names.module(node.target) if node.kind == "module" else None
            name = getattr(node.target, "__name__", "")
            if passes(module, name):
                carriers.add(node)
                if module is not None and any(True for _ in module.parameters()):
                    found.append(str(node.target))
            elif isinstance(module, nn.Conv2d | nn.Linear):
                found.append(str(node.target))
            else:
                return None
        return found if part.target not in carriers else None

    def parameters_of(self, step: Step) -> list[nn.Parameter]:
        """Return the parameters that a step reads."""
        if step.module is not None:
            return list(self.names.module(step.module).parameters())
        tensor = None if step.tensor is None else self.names.tensor(step.tensor)
        return [tensor] if isinstance(tensor, nn.Parameter) else []


def rows_of(x: Tensor, count: int) -> Tensor:
    """Return ``count`` rows, the first ones again where there are too few."""
    return torch.cat([x] * -(-count // len(x)))[:count]


def _dims(node: Node, small: Trace, large: Trace) -> Dims:
    first, second = node.shape or (), large.nodes[node.index].shape or ()
    batch = small.nodes[0].shape
    rows = 2 if batch is None else batch[0]
    return [(b - a, a - (b - a) * rows) for a, b in zip(first, second, strict=True)]


def _autocast(x: Tensor) -> torch.dtype | None:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _constants(model: nn.Module) -> dict[str, Any]:
    """Return keyword arguments that a forward pass in training takes.

    Raises:
        LocalgradError: the forward needs several inputs.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p.name for p in parameters if p.kind in kinds and p.default is p.empty]
    if len(needed) > 1 or not parameters:
        raise LocalgradError(
            f"{type(model).__name__} cannot be cut: its forward takes {len(needed)} inputs "
            f"({', '.join(needed)}); wrap it in a module whose forward takes one tensor"
        )
    # a cache of keys and values (transformers) is of no use in training
    return {"use_cache": False} if any(p.name == "use_cache" for p in parameters) else {}
