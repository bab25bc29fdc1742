"""The losses of a training step, seen while it runs, and one of them marked.

A loss is a call of one of ``torch.nn.functional``'s losses (which the modules of ``torch.nn`` call
too), or a scalar that ``backward`` is called on. To mark one is to turn its gradient into NaN where
it enters the graph.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from localgrad.errors import LocalgradError
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
_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


@dataclass(frozen=True)
class Seen:
    """A loss of a step.

    Args:
        kind: ``"announced"`` by a learner, ``"called"`` of torch.nn.functional, or a ``"root"``,
            a scalar that ``backward`` is called on.
        index: among the losses of its kind.
        name: what it is and where, such as ``cross_entropy, train.py:12``.
        holds: of a root, the called losses that are in it.
    """

    kind: str
    index: int
    name: str
    holds: frozenset[int] = frozenset()


class _Mark(torch.autograd.Function):
    """Passes a loss on; its node in the graph knows which loss it is."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, index: int, marked: bool) -> Tensor:
        ctx.loss_index, ctx.marked = index, marked
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return torch.full_like(grad, float("nan")) if ctx.marked else grad, None, None


class Losses(TorchFunctionMode):
    """Sees the losses of a step, in their order, and marks one of them."""

    def __init__(self, target: Seen | None = None) -> None:
        super().__init__()
        self._target = None if target is None else (target.kind, target.index)
        self._all: list[Seen] = []
        self._before: tuple[Any, Any] = (None, None)
        self._walking = False

    @property
    def seen(self) -> list[Seen]:
        """The losses; a learner that announces its own is taken at its word."""
        announced = [loss for loss in self._all if loss.kind == "announced"]
        return announced or self._all

    def __enter__(self) -> Losses:
        # Tensor.backward looks these up when it is called
        self._before = torch.autograd.backward, torch.autograd.grad
        backward, grad = self._before
        torch.autograd.backward = self._watched(backward, "backward")
        torch.autograd.grad = self._watched(grad, "grad")
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.autograd.backward, torch.autograd.grad = self._before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is announce:
            loss, index = args
            return _Mark.apply(loss, index, self._note("announced", index, f"loss {index}"))
        out = func(*args, **(kwargs or {}))
        if func in _LOSSES and isinstance(out, Tensor):
            index = sum(loss.kind == "called" for loss in self._all)
            return _Mark.apply(out, index, self._note("called", index, func.__name__ + _where()))
        return out

    def _note(self, kind: str, index: int, name: str, holds: frozenset[int] = frozenset()) -> bool:
        """Add a loss; return whether it is the marked one."""
        self._all.append(Seen(kind, index, name, holds))
        return (kind, index) == self._target

    def _watched(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return ``torch.autograd.backward`` or ``grad`` with a look at what it is called on."""
        key = "grad_tensors" if name == "backward" else "grad_outputs"
        place = 1 if name == "backward" else 2

        def watched(roots: Any, *rest: Any, **named: Any) -> Any:
            if self._walking:  # torch calls it once more, and checkpointing in the middle of it
                return call(roots, *rest, **named)
            given = [roots] if isinstance(roots, Tensor) else list(roots)
            position = place - 1
            grads = rest[position] if len(rest) > position else named.get(key)
            grads = [grads] if isinstance(grads, Tensor) else grads
            grads = [None] * len(given) if grads is None else list(grads)
            for k, (root, grad) in enumerate(zip(given, grads, strict=True)):
                if grad is None and isinstance(root, Tensor) and root.requires_grad:
                    index = sum(loss.kind == "root" for loss in self._all)
                    if self._note("root", index, name + _where(), _held(root)):
                        grads[k] = torch.full_like(root, float("nan"))
            if len(rest) > position:
                rest = (*rest[:position], grads, *rest[position + 1 :])
            else:
                named[key] = grads
            self._walking = True
            try:
                return call(given, *rest, **named)
            finally:
                self._walking = False

        return watched


def _held(root: Tensor) -> frozenset[int]:
    """Return the called losses in the graph of ``root``."""
    found, seen, left = set(), set(), [root.grad_fn]
    while left:
        node: Any = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        index = getattr(node, "loss_index", None)
        if index is not None:
            found.add(index)
        left += [following for following, _ in node.next_functions]
    return frozenset(found)


def _where() -> str:
    """Return the user's line that is being run."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame = frame.f_back
    return "" if frame is None else f", {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


@contextmanager
def watched(names: dict[str, nn.Parameter]) -> Iterator[set[str]]:
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


def measured(
    step: Callable[[], Any], names: dict[str, nn.Parameter], again: Callable[[], Any]
) -> list[tuple[Seen, frozenset[str]]]:
    """Return each loss of a step with the parameters that it trains.

    A scalar that ``backward`` is called on is a loss of its own where it trains more than the
    called losses in it: a penalty of the user's own is in it too.

    Args:
        step: called once to see the losses, and once for each of them.
        names: the parameters.
        again: called before each time.

    Raises:
        LocalgradError: the step does not compute the same losses each time.
    """
    again()
    with Losses() as counter:
        step()
    found: list[tuple[Seen, frozenset[str]]] = []
    called: dict[int, frozenset[str]] = {}
    for loss in counter.seen:
        again()
        with watched(names) as reached, Losses(loss) as losses:
            step()
        if [s.name for s in losses.seen] != [s.name for s in counter.seen]:
            raise LocalgradError(
                "the step does not compute the same losses at every call: the audit runs it once "
                "for each of them"
            )
        if loss.kind == "called":
            called[loss.index] = frozenset(reached)
        shown: Sequence[frozenset[str]] = [called[index] for index in loss.holds]
        if loss.kind != "root" or not shown or reached - frozenset().union(*shown):
            found.append((loss, frozenset(reached)))
    return found
