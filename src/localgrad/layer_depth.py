"""How many layers with weights lie between each parameter and the end of its unit."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from localgrad.chain import Unit

# what stands between a layer's node in the graph and its weight
_VIEWS = ("TBackward", "PermuteBackward", "TransposeBackward", "ToCopyBackward", "ViewBackward")


def layer_depths(unit: Unit, x: Tensor) -> dict[nn.Parameter, int]:
    """Return each trainable parameter's depth: 1 for the unit's last layer, 2 for the one before.

    A layer is an operation with a weight of two or more dimensions, with the norm and bias that
    follow it. Where paths differ in length (a projection beside two convolutions), the shortest
    one counts: the depth is the number of layers that an error crosses at the least. Parameters
    that the unit's output does not depend on are left out.

    Args:
        unit: the unit, run once in eval mode.
        x: an input of the unit with a batch dimension.
    """
    modes = [(m, m.training) for part in unit.parts for m in part.modules()]
    for module, _ in modes:
        module.training = False
    try:
        with torch.enable_grad():
            out = unit(x.detach())
    finally:
        for module, training in modes:
            module.training = training
    depths: dict[nn.Parameter, int] = {}
    seen: dict[Any, int] = {}
    queue = deque([(out.grad_fn, 1)])
    while queue:  # 0-1 breadth-first search: a node with a weight costs one
        node, depth = queue.popleft()
        if node is None or seen.get(node, depth + 1) <= depth:
            continue
        seen[node] = depth
        weights = [w for child, _ in node.next_functions if (w := _weight(child)) is not None]
        for child, _ in node.next_functions:
            leaf = _leaf(child)
            if leaf is not None:
                depths[leaf] = min(depth, depths.get(leaf, depth))
            elif any(w.dim() >= 2 for w in weights):
                queue.append((child, depth + 1))
            else:
                queue.appendleft((child, depth))
    return depths


def _leaf(node: Any) -> nn.Parameter | None:
    variable = getattr(node, "variable", None)
    return variable if isinstance(variable, nn.Parameter) else _weight(node)


def _weight(node: Any) -> nn.Parameter | None:
    """Return the parameter that a graph node is, through views and casts of it."""
    while node is not None:
        variable = getattr(node, "variable", None)
        if variable is not None:
            return variable if isinstance(variable, nn.Parameter) else None
        if not type(node).__name__.startswith(_VIEWS):
            return None
        node = node.next_functions[0][0]
    return None
