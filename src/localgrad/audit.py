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
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from localgrad.chain import Chain
from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner
from localgrad.reach import Reach
from localgrad.segments import announce

_LOSSES = (
    F.cross_entropy,
    F.nll_loss,
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
    F.kl_div,
    F.cosine_embedding_loss,
    F.triplet_margin_loss,
    F.multi_margin_loss,
    F.ctc_loss,
)


class _Marked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.full_like(grad, float("nan"))


class _Losses(TorchFunctionMode):
    """Counts the losses of a step and marks one of them."""

    def __init__(self, target: int | None, announced: bool) -> None:
        super().__init__()
        self.target, self.only_announced = target, announced
        self.announced = self.called = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is announce:
            loss, index = args
            self.announced += 1
            return _Marked.apply(loss) if index == self.target else loss
        out = func(*args, **(kwargs or {}))
        if func in _LOSSES and not self.only_announced:
            self.called += 1
            if self.called - 1 == self.target:
                return _Marked.apply(out)
        return out


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
            ``torch.nn.functional``'s losses in their order.
        model: a :class:`LocalLearner`, or any module.
        units: the columns, label to parameters; by default the units of a learner or chain, else
            the model's children.
        declared: the reach to hold the measurement against, of the units that have something to
            train; a learner brings its own.
        optimizer: given where the step updates, so that its state can be put back.

    Returns:
        The measured reach. Parameters, buffers, gradients, the optimizer's state and the random
        state are afterwards what they were before.

    Raises:
        LocalgradError: the step computes no loss that can be seen, or ``units`` or ``declared``
            do not fit the model and the step.

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
    with _kept(model, optimizer):
        with _Losses(None, announced=False) as counter:
            step()
        count = counter.announced or counter.called
        if not count:
            raise LocalgradError(
                "the step computes no loss that the audit can see: use a LocalLearner or a loss of "
                "torch.nn.functional"
            )
        touched = []
        for k in range(count):
            with _watched(names) as reached, _Losses(k, announced=counter.announced > 0):
                step()
            touched.append(frozenset(reached))
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
def _watched(names: dict[str, nn.Parameter]) -> Iterator[set[str]]:
    """Collect the names of parameters whose gradient arrives marked; clear the marks."""
    reached: set[str] = set()

    def watch(name: str) -> Callable[[Tensor], Tensor]:
        def hook(grad: Tensor) -> Tensor:
            marks = grad.isnan()
            if marks.any():
                reached.add(name)
            return grad.masked_fill(marks, 0.0)

        return hook

    handles = [p.register_hook(watch(name)) for name, p in names.items() if p.requires_grad]
    try:
        yield reached
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _kept(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> Iterator[None]:
    """Put everything that a step changes back."""
    state = [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
    gradients = [(p, p.grad) for p in model.parameters()]
    optimizer_state = None if optimizer is None else copy.deepcopy(optimizer.state_dict())
    device = next((t.device for t, _ in state if t.is_cuda), None)
    with torch.random.fork_rng([] if device is None else [device]):
        try:
            for parameter, gradient in gradients:
                parameter.grad = None if gradient is None else gradient.clone()
            yield
        finally:
            with torch.no_grad():
                for tensor, value in state:
                    tensor.copy_(value)
                for parameter, gradient in gradients:
                    parameter.grad = gradient
            if optimizer is not None and optimizer_state is not None:
                optimizer.load_state_dict(optimizer_state)
