"""Units by name, for a model that cannot be traced: submodules that run one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.model_state import evaluation, sample_of, unchanged
from localgrad.unit import Unit


def run_in_a_row(
    model: nn.Module, names: Sequence[str], example: Tensor | None, why: str
) -> tuple[tuple[Unit, ...], Unit]:
    """Return named submodules as units, the last of them as the tail.

    The model runs once on the example, with hooks, to see in which order they run and that each
    one's only input is what the one before returned.

    Args:
        model: any module.
        names: of submodules, in any order; all that has parameters must lie in one of them.
        example: a batch of inputs.
        why: the reason for which the model could not be traced.

    Raises:
        LocalgradError: they do not run in a row.
    """
    if example is None:
        raise LocalgradError(f"{why}; to take units= as a row of submodules, give example_input=x")
    seen: list[tuple[str, tuple[Any, ...], Any]] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        return lambda module, inputs, output: seen.append((name, inputs, output))

    handles = []
    x = sample_of(example, model)
    try:
        for name in names:
            try:
                module = model.get_submodule(name)
            except AttributeError as error:
                raise LocalgradError(f"units: {error}") from error
            handles.append(module.register_forward_hook(watch(name)))
        with unchanged(model, x.device), evaluation(model.modules()), torch.no_grad():
            out = model(x)
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in names if name not in [entry[0] for entry in seen]]
    if missing:
        raise LocalgradError(f"units: {missing[0]!r} does not run ({why})")
    before, label = x, "the model's input"
    for name, inputs, output in seen:
        if len(inputs) != 1 or inputs[0] is not before:
            raise LocalgradError(
                f"units: the only input of {name!r} must be {label}, and it is not ({why})"
            )
        before, label = output, f"what {name!r} returns"
    if out is not before:
        raise LocalgradError(f"units: the model must return {label}, and it does not ({why})")
    units = [Unit(name, (model.get_submodule(name),)) for name, _, _ in seen]
    if len(units) < 2:
        raise LocalgradError("units: name at least two submodules; the last one is the tail")
    return tuple(units[:-1]), Unit("tail", units[-1].parts)
