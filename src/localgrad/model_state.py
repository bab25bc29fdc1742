"""Leave a model as it was: what a look at it may have changed is put back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluation(modules: Iterable[nn.Module], training: bool = False) -> Iterator[None]:
    """Put modules in eval mode (or all in training mode), and each back into its own."""
    modes = [(module, module.training) for module in modules]
    for module, _ in modes:
        module.training = training
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put buffers, attributes of modules (with their dicts and lists) and the random state back."""
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    held = [{k: copy.copy(v) for k, v in own.items() if _is_table(v)} for own in attributes]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for module, own, tables in zip(modules, attributes, held, strict=True):
                vars(module).clear()
                vars(module).update(own)
                for name, content in tables.items():
                    _refill(own[name], content)
            with torch.no_grad():
                for buffer, value in buffers:
                    if not torch.equal(buffer, value):  # batch norm counts no version
                        buffer.copy_(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict | list | set)


def _refill(table: Any, content: Any) -> None:
    table.clear()
    if isinstance(table, list):
        table.extend(content)
    else:
        table.update(content)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter."""
    tensor = next(model.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the precision of the model's first parameter."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def sample_of(example: Tensor, model: nn.Module, rows: int = 2) -> Tensor:
    """Return a copy of at most ``rows`` rows, on the model's device and in its precision."""
    x = example[:rows].detach().to(device_of(model), copy=True)
    return x.to(dtype_of(model)) if x.is_floating_point() else x
