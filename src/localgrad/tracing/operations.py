"""What the tracer knows of operations: which are opaque, write in place, or draw random numbers."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.tracing.graph import Node
from localgrad.tracing.stand_ins import TracedTensor, plain

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# what they tell of a tensor is the same for any content
FACTS = (
    "dim", "ndimension", "is_floating_point", "is_complex", "is_contiguous", "element_size",
    "get_device", "stride", "storage_offset", "type", "__hash__", "__len__", "__repr__",
    "__format__", "data_ptr", "has_names", "is_pinned", "is_shared", "is_signed", "is_same_size",
)  # fmt: skip


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is called as it is: a standard layer, a compiled one, one with hooks."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for name in hooks) or isinstance(module, torch.jit.ScriptModule):
        return True
    if not type(module).__module__.startswith(("torch.nn.", "torch.ao.nn.")):
        return False
    return not any(isinstance(inner, _CONTAINERS) for inner in module.modules())


def one_tensor(out: Any, kind: str) -> Node:
    """Return the node of the model's output: a tensor, or the field ``logits``."""
    logits = out.get("logits") if isinstance(out, dict) else getattr(out, "logits", None)
    found: list[Node] = []
    for item in (out, logits):
        if isinstance(item, TracedTensor):
            return item.node
    plain(out, lambda item: found.append(item.node) if isinstance(item, TracedTensor) else None)
    if len(found) == 1:
        return found[0]
    raise LocalgradError(
        f"{kind} cannot be cut: it returns a {type(out).__name__} with {len(found)} tensors; wrap "
        "it in a module whose forward returns one tensor (or a field 'logits')"
    )


def holds(value: Any, kind: Any) -> bool:
    """Whether nested tuples, lists and dicts hold something of a kind."""
    found: list[bool] = []
    plain(value, lambda item: found.append(True) if isinstance(item, kind) else None)
    return bool(found)


def tensors_in(items: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts."""
    found: list[Tensor] = []
    plain(items, lambda item: found.append(item) if isinstance(item, Tensor) else None)
    return found


def writes_in_place(kind: str, target: Any, kwargs: Any, model: nn.Module) -> bool:
    """Whether an operation changes its first argument."""
    if kind == "module":
        return bool(getattr(model.get_submodule(target), "inplace", False))
    name = getattr(target, "__name__", "")
    if kwargs.get("inplace") is True or "out" in kwargs:
        return True
    if name.endswith("__"):
        return name.startswith("__i") and name not in ("__invert__", "__index__", "__int__")
    return name.endswith("_") and target is not operator.and_ and target is not operator.or_


def certain(node: Node) -> bool:
    """Whether the answer is the same for any content: a random number is never below zero."""
    if node.target not in (operator.lt, Tensor.lt, Tensor.__lt__, torch.lt):
        return False
    number, bound = node.args
    is_random = isinstance(number, Node) and number.target is torch.rand
    return is_random and isinstance(bound, int | float) and bound <= 0


def storage_of(value: Tensor) -> int | None:
    """Return what tells one piece of memory from another, where a tensor has one."""
    try:
        return int(value.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and other layouts have none
        return None


def random_state(device: torch.device) -> Tensor:
    """Return the state of the device's random numbers."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
