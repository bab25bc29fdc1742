"""Units that a model declares: an ``nn.Sequential``, or a module with ``chain_units``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from localgrad.errors import LocalgradError
from localgrad.kinds import is_norm, is_tail_part
from localgrad.unit import Unit

Parts = tuple[tuple[Unit, ...], Unit, dict[int, tuple[str, ...]]]


def declared(model: nn.Module) -> Parts | None:
    """Return units, tail and published cuts, or None where the model has to be traced.

    Raises:
        LocalgradError: the model names a submodule that it does not have.
    """
    if hasattr(model, "chain_units"):
        return _declared(model)
    if isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        return _sequential(model)
    return None


def _declared(model: nn.Module) -> Parts:
    def parts(names: Sequence[str]) -> tuple[nn.Module, ...]:
        try:
            return tuple(model.get_submodule(name) for name in names)
        except AttributeError as error:
            raise LocalgradError(f"{type(model).__name__}: {error}") from error

    units: dict[str, tuple[str, ...]] = model.chain_units()  # type: ignore[operator]
    tail: tuple[str, ...] = model.chain_tail()  # type: ignore[operator]
    published = model.chain_cuts() if hasattr(model, "chain_cuts") else {}  # type: ignore[operator]
    found = tuple(Unit(label, parts(names)) for label, names in units.items())
    return found, Unit("tail", parts(tail)), dict(published)


def _flat(module: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module._modules.items():  # named_children() would skip a shared ReLU
        if child is None:
            continue
        if type(child) is nn.Sequential:
            yield from _flat(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _weighted(module: nn.Module) -> bool:
    return not is_norm(module) and any(True for _ in module.parameters())


def _sequential(model: nn.Sequential) -> Parts:
    """Group a layer that has weights with the norms, activations and pools that follow it."""
    groups: list[list[tuple[str, nn.Module]]] = [[]]
    for name, child in _flat(model):
        if _weighted(child) and any(_weighted(part) for _, part in groups[-1]):
            groups.append([])
        groups[-1].append((name, child))
    tail = [part for _, part in groups.pop()]
    while groups and is_tail_part(groups[-1][-1][1]):
        tail.insert(0, groups[-1].pop()[1])
    units = []
    for group in groups:
        label = next(name for name, part in group if _weighted(part))
        units.append(Unit(label, tuple(part for _, part in group)))
    return tuple(units), Unit("tail", tuple(tail)), {}
