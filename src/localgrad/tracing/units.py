"""Units of any module, checked against the module itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.model_state import device_of, evaluation, unchanged
from localgrad.tracing.cutting import Cutter, rows_of
from localgrad.tracing.slices import Step
from localgrad.unit import Unit


@dataclass(frozen=True, eq=False)
class TracedUnit(Unit):
    """A unit of a traced model: a part of its graph that calls the model's own submodules.

    ``parts`` are the submodules that it calls.
    """

    cutter: Cutter
    index: int
    first: int = 0
    seen: Tensor | None = None
    state: dict[str, bool] = field(default_factory=dict)
    traced: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        part = self.cutter.slice_for(self.index, x)
        if not self.state.get("keeps_input"):
            # a unit that starts with an operation in place must not write on what the head
            # before it still reads; the first run tells
            x = x.clone()
        version = x._version
        if part.first is not None and self.seen is None:
            raise LocalgradError(
                f"unit {self.name!r} reads the network's input again: call unit.seeing(input)(x)"
            )
        out = part.run(x, self.cutter.names, self._detached, self.seen)
        self.state.setdefault("keeps_input", x._version == version)
        return out

    @property
    def legal_cuts(self) -> int:
        """The number of places where the model can be cut."""
        return self.cutter.cuts[0].legal

    def _detached(self, step: Step) -> bool:
        read = self.cutter.parameters_of(step)
        return any(self.cutter.owner(p) < self.first for p in read)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that the unit reads and no earlier one lends it."""
        lent = {id(p) for p in self.borrowed()}
        return (p for p in self.cutter.read(self.index) if id(p) not in lent)

    def borrowed(self) -> Iterator[nn.Parameter]:
        """Yield parameters of earlier units of which this one's given values are made."""
        own = {id(p) for p in self.cutter.read(self.index, given=False)}
        for parameter in self.cutter.read(self.index, given=True):
            if id(parameter) not in own and self.cutter.owner(parameter) < self.index:
                yield parameter

    def seeing(self, source: Tensor) -> TracedUnit:
        """Return the unit for one run of the network on ``source``."""
        reads = any(cut.slices[self.index].first is not None for cut in self.cutter.cuts)
        return replace(self, seen=source) if reads else self

    def within(self, first: int) -> TracedUnit:
        """Return the unit as part of a block that starts at unit ``first``."""
        return replace(self, first=first)


def cut_model(
    model: nn.Module, example: Tensor | None, granularity: str, units: Sequence[str] | None
) -> tuple[list[TracedUnit], TracedUnit]:
    """Return the units and the tail of any module.

    Args:
        model: a module whose forward takes one tensor and returns one (or a field ``logits``).
        example: a batch of inputs; None: one is made up to fit the first layer.
        granularity, units: see :class:`Cutter`.

    Raises:
        LocalgradError: the model cannot be followed or cut so, or its units do not compute what
            the model does; the message names the line or the module.
    """
    cutter = _first_that_works(model, example, granularity, units)
    found = []
    for index, label in enumerate(cutter.labels):
        paths = [s.module for cut in cutter.cuts for s in cut.slices[index].steps if s.module]
        parts = tuple(cutter.names.module(path) for path in dict.fromkeys(paths))
        found.append(TracedUnit(label, parts, cutter, index))
    for training in (True, False):
        _compare(model, found, cutter, training)
    return found[:-1], found[-1]


def _first_that_works(
    model: nn.Module, example: Tensor | None, granularity: str, units: Sequence[str] | None
) -> Cutter:
    if example is not None:
        try:
            return Cutter(model, example, granularity, units)
        except (RuntimeError, TypeError, IndexError, AttributeError, AssertionError) as error:
            raise LocalgradError(
                f"{type(model).__name__} cannot take an input of shape {tuple(example.shape)}: "
                f"{_line(error)}"
            ) from error
    first = "it has no layer to make one up for"
    for guess in _guesses(model):
        try:
            return Cutter(model, guess, granularity, units)
        except Exception as error:
            if isinstance(error, LocalgradError) and "no legal cut" in str(error):
                raise
            first = _line(error) if first.startswith("it has no") else first
    raise LocalgradError(
        f"{type(model).__name__} cannot be cut without an example: give example_input=x ({first})"
    )


def _guesses(model: nn.Module) -> Iterator[Tensor]:
    """Yield inputs that may fit the model's first layer."""
    device = device_of(model)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            yield torch.ones(2, 16, dtype=torch.long, device=device)
        elif isinstance(module, nn.Linear):
            yield torch.zeros(2, module.in_features, device=device)
            yield torch.zeros(2, 16, module.in_features, device=device)
        elif isinstance(module, nn.Conv1d):
            yield torch.zeros(2, module.in_channels, 256, device=device)
        elif isinstance(module, nn.Conv2d):
            for side in (224, 32, 64, 28, 96, 128, 160, 192, 256, 299, 384):
                yield torch.zeros(2, module.in_channels, side, side, device=device)
        else:
            continue
        return


def _compare(model: nn.Module, units: list[TracedUnit], cutter: Cutter, training: bool) -> None:
    """Refuse units that do not compute what the model does, to the last bit."""
    x = rows_of(cutter.example, 3)
    results = []
    for run in (lambda y: _tensor(model.forward(y, **cutter.constants)), _in_turn(units)):
        with unchanged(model, x.device), evaluation(model.modules(), training), torch.no_grad():
            torch.manual_seed(0)
            results.append([run(x.clone()), *(b.clone() for b in model.buffers())])
    for expected, found in zip(*results, strict=True):
        if not _equal(expected, found):
            raise LocalgradError(
                f"{type(model).__name__} cannot be cut: its units compute other numbers than the "
                f"model itself (in {'training' if training else 'eval'} mode); what it does is not "
                "seen by PyTorch alone: give units=[...], names of submodules that run in a row"
            )


def _in_turn(units: list[TracedUnit]) -> Any:
    def run(x: Tensor) -> Tensor:
        source = x
        for unit in units:
            x = unit.seeing(source)(x)
        return x

    return run


def _tensor(out: Any) -> Tensor:
    """Return the tensor that the tracer takes a model's output for."""
    logits = out.get("logits") if isinstance(out, dict) else getattr(out, "logits", None)
    if isinstance(out, Tensor):
        return out
    if isinstance(logits, Tensor):
        return logits
    leaves = out.values() if isinstance(out, dict) else out
    found: Tensor = next(item for item in leaves if isinstance(item, Tensor))
    return found


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point() or a.device.type == "cpu":
        return bool(((a == b) | ((a != a) & (b != b))).all())
    return torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)  # sums in another order


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
