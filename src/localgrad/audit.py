"""How far each loss's gradient really travels: the reach of any training step, measured.

The step runs once per loss with that loss *marked*: its gradient is turned into NaN where it
enters the graph. NaN survives sums, products and masks, so a parameter whose gradient arrives with
a NaN was trained by that loss, whichever way the error took. Values are put back at the border of
every parameter, so that an optimizer or a clipping inside the step never sees one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from localgrad.chain import Chain
from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner
from localgrad.marking import measured
from localgrad.reach import Reach


def audit(
    step: Callable[[], Any],
    model: nn.Module,
    units: dict[str, Sequence[nn.Parameter]] | None = None,
    declared: Sequence[Sequence[bool]] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Reach:
    """Measure which units each loss of a training step trains.

    Args:
        step: runs one training step on ``model``; it is called once to count the losses and once
            for each of them. Losses are those of a :class:`LocalLearner`, or else the calls of
            ``torch.nn.functional``'s losses, and the scalars that ``backward`` is called on where
            they train more than those, in the order of the step.
        model: a :class:`LocalLearner`, or any module.
        units: the columns, label to parameters; by default the units of a learner or chain, else
            the model's children.
        declared: the reach to hold the measurement against, of the units that have something to
            train; a learner brings its own.
        optimizer: put back afterwards; those that the step calls are found by themselves.

    Returns:
        The measured reach. Parameters, buffers, gradients, optimizers' states and the random
        state are afterwards what they were before.

    Raises:
        LocalgradError: the step computes no loss that can be seen, or not the same ones each
            time, or ``units`` or ``declared`` do not fit the model and the step.

    >>> from torch.nn import functional as F
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x, y = torch.randn(16, 4), torch.randint(3, (16,))
    >>> print(audit(lambda: F.cross_entropy(model(x), y).backward(), model))
           t
           a
           i
    loss 0 l
       0 # #
    """
    learner = model if isinstance(model, LocalLearner) else None
    columns = units or _columns(model)
    names = dict(model.named_parameters())
    if declared is None and learner is not None:
        declared = learner.reach()
    with _kept(model, optimizer) as put_back:
        # a learner's step updates nothing that another one reads
        found = measured(step, names, put_back if learner is None else lambda: None)
    if not found:
        raise LocalgradError(
            "the step computes no loss that the audit can see: use a LocalLearner, a loss of "
            "torch.nn.functional, or backward()"
        )
    touched, count = [reached for _, reached in found], len(found)
    by_id = {id(p): name for name, p in names.items()}
    for label, parameters in columns.items():
        if any(id(p) not in by_id for p in parameters):
            raise LocalgradError(f"unit {label!r} holds a parameter that the model does not have")
    groups = {label: {by_id[id(p)] for p in ps} for label, ps in columns.items()}
    matrix = [[bool(reached & group) for group in groups.values()] for reached in touched]
    heads = None
    if learner is not None and len(learner.heads):
        prefixes = [f"heads.{h}." for h in range(len(learner.heads))]
        rows = [[any(n.startswith(p) for n in reached) for p in prefixes] for reached in touched]
        heads = torch.tensor(rows, dtype=torch.bool)
    claim = None
    if declared is not None:
        claim = torch.tensor(declared, dtype=torch.bool)
        if claim.shape != (count, len(groups)):
            raise LocalgradError(
                f"declared is {tuple(claim.shape)}, the step has {count} losses and the model "
                f"{len(groups)} units"
            )
        claim &= torch.tensor([any(p.requires_grad for p in ps) for ps in columns.values()])
    return Reach(
        tuple(groups),
        torch.tensor(matrix, dtype=torch.bool),
        claim,
        heads,
        tuple(touched),
        () if found[0][0].kind == "announced" else tuple(loss.name for loss, _ in found),
    )


def _columns(model: nn.Module | Chain) -> dict[str, Sequence[nn.Parameter]]:
    if isinstance(model, LocalLearner):
        model = model.chain
    if not isinstance(model, Chain):
        try:
            chain = Chain.declared(model)
        except LocalgradError:
            chain = None
        if chain is None:
            children = {name: list(child.parameters()) for name, child in model.named_children()}
            return {name: ps for name, ps in children.items() if ps}
        model = chain
    return {unit.name: list(unit.parameters()) for unit in (*model.units, model.tail)}


@contextmanager
def _kept(
    model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> Iterator[Callable[[], None]]:
    """Put everything that a step changes back: at the end, and whenever what is yielded is called.

    An optimizer that the step calls is kept from its first update on.
    """
    state = [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
    gradients = [
        (p, p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()
    ]
    optimizers: dict[torch.optim.Optimizer, Any] = {}

    def keep(one: torch.optim.Optimizer, *_: Any) -> None:
        if one not in optimizers:
            optimizers[one] = copy.deepcopy(one.state_dict())

    def put_back() -> None:
        with torch.no_grad():
            for tensor, value in state:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
            for parameter, gradient, before in gradients:
                parameter.grad = gradient
                if gradient is not None and before is not None:
                    gradient.copy_(before)
        for one, kept in optimizers.items():
            one.load_state_dict(copy.deepcopy(kept))

    if optimizer is not None:
        keep(optimizer)
    hook = register_optimizer_step_pre_hook(keep)
    device = next((t.device for t, _ in state if t.is_cuda), None)
    try:
        with torch.random.fork_rng([] if device is None else [device]):
            yield put_back
    finally:
        hook.remove()
        put_back()
