"""The slow, obvious way to local gradients: one continuous graph, and each loss by itself.

No gradient is stopped anywhere. Every loss is differentiated with respect to every parameter, and
what lies outside the loss's reach is thrown away. For a parameter within reach that is the local
gradient, since a gradient depends only on what lies between the parameter and the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from localgrad import LocalLearner


def forward_losses(learner: LocalLearner, x: Tensor, y: Tensor) -> list[Tensor]:
    image = x
    losses = []
    for stage in learner._stages:
        for unit in stage.units:
            x = unit(x)
        losses.append(stage.loss(stage.head(x), y, image))
    return losses


def local_parameters(learner: LocalLearner, k: int) -> list[nn.Parameter]:
    """Return the parameters of block ``k`` without its head."""
    stage = learner._stages[k]
    found = [p for unit in stage.units for p in unit.parameters()]
    if k == len(learner._stages) - 1:
        found += learner.chain.tail.parameters()
    return found


def linked_parameters(learner: LocalLearner, k: int) -> list[nn.Parameter]:
    """Return the parameters of block ``k`` that the link of block ``k + 1`` trains."""
    link = learner._stages[k + 1].block.link
    units = list(learner._stages[k].units)
    if link.length_unit == "unit":
        return (
            [p for unit in units[-link.length :] for p in unit.parameters()] if link.length else []
        )
    layers = []  # the layers of the block, last one first; each a list of parameters
    for unit in reversed(units):
        names = [[(n, p) for n, p in part.named_parameters()] for part in unit.parts]
        flat = [pair for part in names for pair in part]
        if any(n.startswith("conv2") for n, _ in flat):  # residual block
            first = [p for n, p in flat if n.startswith(("conv1", "bn1"))]
            second = [p for n, p in flat if not n.startswith(("conv1", "bn1"))]
            layers += [second, first]
        else:
            layers.append([p for _, p in flat])
    return [p for layer in layers[: link.length] for p in layer]


def oracle_gradients(learner: LocalLearner, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    names = {id(p): name for name, p in learner.named_parameters()}
    parameters = list(learner.parameters())
    losses = forward_losses(learner, x, y)
    full = []
    for loss in losses:
        grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        full.append({id(p): g for p, g in zip(parameters, grads, strict=True) if g is not None})
    total: dict[str, Tensor] = {}

    def add(k: int, parameter: nn.Parameter, factor: float = 1.0) -> None:
        gradient = full[k].get(id(parameter))
        if gradient is not None:
            name = names[id(parameter)]
            total[name] = total.get(name, 0) + factor * gradient

    heads = iter(learner.heads)
    for k, stage in enumerate(learner._stages):
        if stage.block.head is not None:
            for p in next(heads).parameters():
                add(k, p)
        first = k
        while learner._stages[first].block.open:
            first -= 1
        for j in range(first, k + 1):
            replaced: set[int] = set()
            following = learner._stages[j + 1].block if j + 1 < len(learner._stages) else None
            if following and following.link and following.link.combine == "replace":
                replaced = {id(p) for p in linked_parameters(learner, j)}
            for p in local_parameters(learner, j):
                if id(p) not in replaced:
                    add(k, p)
        link = learner._stages[first].block.link
        if link is not None:
            for p in linked_parameters(learner, first - 1):
                add(k, p, link.weight)
    return total
