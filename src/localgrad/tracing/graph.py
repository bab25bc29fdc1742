"""A model's forward as data: operations in order, and the calls of submodules around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from localgrad.tracing.stand_ins import dimension, plain

# their results depend on sizes alone, whatever tensor they are asked of
_CONTENT_FREE = {
    dimension, Tensor.numel, Tensor.nelement, torch.numel,
    Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty,
    torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like,
}  # fmt: skip


@dataclass(eq=False, slots=True, repr=False)
class Node:
    """One operation of a traced model.

    Args:
        index: its place in the order of execution.
        kind: ``input``, ``attribute`` (a parameter or buffer), ``module`` or ``function``.
        target: the attribute's or module's path, or the function.
        args, kwargs: what it is called with; nodes stand for results.
        live: has to cross a cut, since it can neither be left out nor computed a second time: it
            carries the input's content through weights, is random, or writes in place. Token
            numbers, and what is made of them without weights, are not.
        data: depends on the input's content.
        learned: made from parameters.
        shape, dtype: of the result where it is a tensor.
        storage: where the result lies, as long as it lives.
        grad: False inside ``torch.no_grad()``.
        autocast: False where the model itself switches autocast off.
        after: writes in place to memory that it reads.
        effect: it writes in place or draws a random number: it runs though nothing uses it.
    """

    index: int
    kind: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    live: bool = True
    data: bool = False
    learned: bool = False
    shape: torch.Size | None = None
    dtype: torch.dtype | None = None
    storage: int | None = None
    grad: bool = True
    autocast: bool = True
    effect: bool = False
    after: list[Node] = field(default_factory=list)

    @property
    def content_free(self) -> bool:
        """Whether only the sizes of its arguments matter."""
        return self.kind == "function" and self.target in _CONTENT_FREE

    def __repr__(self) -> str:
        return f"%{self.index}"

    @property
    def title(self) -> tuple[str, str]:
        """What is done, in words: the same in another trace of the model."""
        return self.kind, str(getattr(self.target, "__name__", self.target))

    def inputs(self) -> list[Node]:
        """Return the nodes that it is computed from."""
        return [*nodes_in((self.args, self.kwargs)), *self.after]


@dataclass(eq=False, slots=True)
class Call:
    """A call of one of the model's submodules: its path, the nodes inside, what goes in and out."""

    path: str
    first: int
    last: int
    args: Any
    kwargs: Any
    output: Any


@dataclass(eq=False)
class Trace:
    """A traced run.

    Args:
        nodes: in order; the first is the input.
        calls: of submodules, inner ones first.
        output: the node that the model returns.
        modes: where a module asked whether it is in training: (next node, path, answer).
        opaque: path to reason, for modules that were called as they are since their inside
            could not be followed.
    """

    nodes: list[Node]
    calls: list[Call]
    output: Node
    modes: list[tuple[int, str, bool]]
    opaque: dict[str, str]


def nodes_in(items: Any) -> list[Node]:
    """Return the nodes in nested tuples, lists, dicts and slices."""
    found: list[Node] = []
    plain(items, lambda item: found.append(item) if isinstance(item, Node) else None)
    return found
