"""How many layers with weights lie between each parameter and the end of its unit.

A link whose length is counted in layers reaches as far as that says.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from localgrad.chain import Chain, Unit
from localgrad.decoupling import Decoupling, Link
from localgrad.model_state import evaluation

# what stands between a layer's node in the graph and its weight
_VIEWS = ("TBackward", "PermuteBackward", "TransposeBackward", "ToCopyBackward", "ViewBackward")


def layer_depths(unit: Unit, x: Tensor) -> dict[nn.Parameter, int]:
    """Return each parameter's depth: 1 for the unit's last layer, 2 for the one before.

    A layer is an operation with a weight of two or more dimensions, with the norm and bias that
    follow it. Where paths differ in length (a projection beside two convolutions), the shortest
    one counts: the depth is the number of layers that an error crosses at the least. Parameters
    that the unit's output does not depend on are left out.

    Args:
        unit: the unit, run once in eval mode.
        x: an input of the unit with a batch dimension.
    """
    frozen = [p for p in unit.parameters() if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen:  # an error crosses a frozen layer like any other
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad(), evaluation(unit.modules()):
            out = unit(x.detach().clone())
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
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


def chain_depths(chain: Chain, example_input: Tensor) -> list[dict[nn.Parameter, int]]:
    """Return :func:`layer_depths` of each unit of a chain."""
    x = source = chain.sample(example_input)
    found = []
    with torch.no_grad(), evaluation(chain.model.modules()):
        for each in chain.units:
            unit = each.seeing(source)
            found.append(layer_depths(unit, x))
            x = unit(x)
    return found


def layer_counts(depths: list[dict[nn.Parameter, int]]) -> list[int]:
    """Return the number of layers in each unit."""
    return [max(depth.values(), default=0) for depth in depths]


def receivers(
    chain: Chain,
    decoupling: Decoupling,
    depths: list[dict[nn.Parameter, int]] | None,
    k: int,
    link: Link,
) -> tuple[int, tuple[nn.Parameter, ...]]:
    """Return how many units of block ``k`` the link reaches, and which of their parameters,
    frozen ones too.

    Args:
        chain, decoupling: the network and its blocks.
        depths: of every unit, where the link's length is counted in layers.
        k: the block that receives.
        link: of block ``k + 1``.
    """
    layers = None if depths is None else layer_counts(depths)
    units = decoupling.linked_units(k, layers)
    left = link.length
    found: list[nn.Parameter] = []
    for u in reversed(units):
        for parameter in chain.units[u].parameters():
            if depths is None or depths[u].get(parameter, 1) <= left:
                found.append(parameter)
        left -= 1 if layers is None else layers[u]
    return len(units), tuple(found)
