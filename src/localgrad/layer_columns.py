"""The layers of any module, as columns of a reach matrix."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

_FEW = 4


def layer_columns(model: nn.Module) -> dict[str, Sequence[nn.Parameter]]:
    """Return the parameters of a model by layer, in the model's order.

    A list of modules is taken apart, and so is a ``Sequential`` that holds more than single
    layers; any other module is one column. Where that gives fewer than four, all are taken apart
    once more.

    >>> blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))
    >>> list(layer_columns(nn.ModuleDict({"blocks": blocks, "heads": nn.ModuleList([])})))
    ['blocks.0.0', 'blocks.1.0', 'blocks.2.0']
    >>> list(layer_columns(nn.Sequential(*blocks, nn.Linear(4, 2))))
    ['0', '1', '2', '3']
    """
    found = _apart("", model)
    while len(found) < _FEW:
        finer: dict[str, nn.Module | nn.Parameter] = {}
        for name, part in found.items():
            finer |= _apart(name, part) if isinstance(part, nn.Module) else {name: part}
        if finer.keys() == found.keys():
            break
        found = finer
    return {
        name: list(part.parameters()) if isinstance(part, nn.Module) else [part]
        for name, part in found.items()
    }


def _apart(name: str, module: nn.Module) -> dict[str, nn.Module | nn.Parameter]:
    """Return the parts of a module that have parameters, containers among them taken apart."""
    prefix = f"{name}." if name else ""
    found: dict[str, nn.Module | nn.Parameter] = {
        f"{prefix}{key}": parameter for key, parameter in module.named_parameters(recurse=False)
    }
    if not any(True for _ in module.children()):
        return {name: module} if name and found else found
    for key, child in module.named_children():
        if not any(True for _ in child.parameters()):
            continue
        if _is_container(child):
            found |= _apart(f"{prefix}{key}", child)
        else:
            found[f"{prefix}{key}"] = child
    return found


def _is_container(module: nn.Module) -> bool:
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return True
    single = all(not any(True for _ in child.children()) for child in module.children())
    return isinstance(module, nn.Sequential) and not single
