"""Copies whose tensors are shapes alone."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

T = TypeVar("T")
_DEEP = 100_000  # frames; every node takes four


def without_content(thing: T, tensors: Iterable[Tensor], mode: FakeTensorMode) -> T:
    """Return a copy of ``thing`` in which fake tensors, without gradients, stand for ``tensors``.

    What is run on the copy then changes nothing of the original: under a fake mode, operations
    on real tensors alone (weight decay, a batch norm's counter) would be carried out.
    """
    known = {id(tensor): mode.from_tensor(tensor) for tensor in tensors}
    for tensor in known.values():
        tensor.grad = None
    return deep_copy(thing, known)


def deep_copy(thing: T, known: dict[int, Any] | None = None) -> T:
    """Return ``copy.deepcopy``, also of the long rows of nodes that a traced network holds."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _DEEP))
    try:
        return copy.deepcopy(thing, known)
    finally:
        sys.setrecursionlimit(limit)
