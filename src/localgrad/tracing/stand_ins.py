"""Stand-ins for tensors and sizes while a model is traced.

They are real tensors and real ints, with their values, so that all code takes them and Python's
own control flow is followed; what is done with them is told to the tracer.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from localgrad.tracing.graph import Node
    from localgrad.tracing.tracer import Tracer


def dimension(x: Tensor, index: int) -> int:
    """Return one size of a tensor; a node of its own in a traced graph."""
    return x.shape[index]


class TracedTensor(Tensor):
    """A tensor whose uses are told to the tracer."""

    node: Node
    tracer: Tracer
    bare: Tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found: list[Tracer] = []
        plain((args, kwargs), lambda x: found.append(x.tracer) if _is_traced(x) else None)
        if found and found[0].on:
            return found[0].torch_function(func, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*plain(args, content), **plain(kwargs, content))


def traced_tensor(tracer: Tracer, node: Node, value: Tensor) -> TracedTensor:
    """Return a stand-in for ``value``, the result of ``node``."""
    with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
        found = value.detach().as_subclass(TracedTensor)
    found.tracer, found.node, found.bare = tracer, node, value
    return found


class TracedInt(int):
    """A size, or what was computed from sizes."""

    node: Node
    tracer: Tracer

    def __new__(cls, tracer: Tracer, node: Node, value: int) -> TracedInt:
        found = super().__new__(cls, value)
        found.node, found.tracer = node, tracer
        return found

    __hash__ = int.__hash__


class Sizes(tuple[Any, ...]):
    """A tensor's shape while it is traced: a tuple with what ``torch.Size`` adds."""

    def numel(self) -> Any:
        """Return the product of the sizes."""
        product: Any = 1
        for size in self:
            product = product * size
        return product

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Sizes(found) if isinstance(index, slice) else found


def _is_traced(item: Any) -> bool:
    return isinstance(item, TracedTensor | TracedInt)


def content(item: Any) -> Any:
    """Return what a stand-in stands for; anything else as it is."""
    if isinstance(item, TracedTensor):
        return item.bare
    return int(item) if isinstance(item, TracedInt) else item


def plain(item: Any, replace: Callable[[Any], Any]) -> Any:
    """Return ``item`` with each leaf of its tuples, lists, dicts and slices replaced."""
    kind = type(item)
    if kind is Sizes:
        return tuple(plain(part, replace) for part in item)
    if kind is slice:
        return slice(*(plain(part, replace) for part in (item.start, item.stop, item.step)))
    if kind is torch.Size:
        return item
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return kind(*(plain(part, replace) for part in item))
    if kind in (tuple, list):
        return kind(plain(part, replace) for part in item)
    if isinstance(item, dict):
        found = {} if kind is dict else copy.copy(item)
        for key, part in item.items():
            found[key] = plain(part, replace)
        return found
    return replace(item)


def _arithmetic(name: str, swap: bool) -> Callable[..., Any]:
    function = getattr(operator, name)

    def call(self: TracedInt, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        args = (other, self) if swap else (self, other)
        if self.tracer.on and isinstance(other, int):
            return self.tracer.function(function, args, {})
        return function(*(content(arg) for arg in args))

    return call


def _negative(self: TracedInt) -> Any:
    return self.tracer.function(operator.neg, (self,), {}) if self.tracer.on else -int(self)


for _name in ("add", "sub", "mul", "floordiv", "mod", "pow", "truediv"):
    setattr(TracedInt, f"__{_name}__", _arithmetic(_name, swap=False))
    setattr(TracedInt, f"__r{_name}__", _arithmetic(_name, swap=True))
setattr(TracedInt, "__neg__", _negative)  # noqa: B010
