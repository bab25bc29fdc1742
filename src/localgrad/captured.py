"""The whole local step as one CUDA graph: recorded once, then replayed without Python.

Follows torch's rules for graphs (notes/cuda, "Whole-network capture"): a warm-up on a side stream,
inputs that stay in one place and are copied into, gradients that stay in one place, every random
number from the registered generator. A step of this library looks at no tensor on the host, which
``tests/test_no_sync.py`` asserts for every rule.

The recording awaits its first run on a GPU; what is around it is tested with a graph that runs the
step anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner, StepOutput
from localgrad.model_state import device_of, unchanged


class Graph(Protocol):
    """Records what a call does on the device, and does it again."""

    def record(self, run: Callable[[], Any], warmup: int) -> Any:
        """Call ``run`` ``warmup`` times, then record a call; return what that returned."""

    def replay(self) -> None:
        """Do what was recorded, on the same memory."""


class CudaGraph:
    """A ``torch.cuda.CUDAGraph`` of one device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.graph = device, torch.cuda.CUDAGraph()

    def record(self, run: Callable[[], Any], warmup: int) -> Any:
        """Warm up on a side stream, then record."""
        with torch.cuda.device(self.device):
            side, current = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(warmup):
                    run()
            current.wait_stream(side)
            with torch.cuda.graph(self.graph):
                return run()

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self.graph.replay()


class CapturedStep:
    """A local step, recorded for batches of one shape.

    ``captured.step(x, y)`` takes the place of ``learner.zero_grad(); learner.step(x, y)`` and, with
    an optimizer, of ``optimizer.step()``: gradients are those of this batch alone, in tensors that
    stay. A batch of another shape or kind (the last, short one), other modes of modules, or another
    autocast runs the step as it is. Recording changes nothing: parameters, buffers, gradients,
    optimizer and random state are afterwards what they were.

    Args:
        learner: on a CUDA device; compiled or with ``streams = 2`` as wished, before this.
        x, y: a batch as in training. ``y`` may be any tree of tensors.
        optimizer: recorded too, where given: SGD, or any with ``capturable=True``. Its learning
            rate is part of the recording unless it is a tensor (SGD: with ``fused=True``).
        scaler: for fp16, whose scale multiplies the losses; without ``optimizer``, which then is
            stepped by ``scaler.step``.
        warmup: steps before the recording; torch needs a few, its libraries choose algorithms.
        graph: what records; default: a CUDA graph.

    Raises:
        LocalgradError: the model is not on a CUDA device, blocks compute activations again, or
            the step or the optimizer cannot be recorded.

    Attributes:
        replays, plain: how many steps were replayed, and how many ran as they are.
    """

    def __init__(
        self,
        learner: LocalLearner,
        x: Tensor,
        y: Any,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        scaler: Any = None,
        warmup: int = 3,
        graph: Graph | None = None,
    ) -> None:
        device = device_of(learner)
        if graph is None and (device.type != "cuda" or x.device != device):
            raise LocalgradError(
                f"CapturedStep records work of a CUDA device: the model is on {device}, the batch "
                f"on {x.device}; move both to the GPU, or call learner.step"
            )
        if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 1:
            raise LocalgradError(f"warmup={warmup!r}: must be a whole number of at least 1")
        for k, block in enumerate(learner.decoupling.blocks):
            if block.checkpoint is not None:
                raise LocalgradError(
                    f"block {k} computes activations again, for which torch looks up the random "
                    "state: that cannot be recorded; decouple without checkpoint"
                )
        if optimizer is not None:
            _check_optimizer(optimizer, scaler)
        self.learner, self.optimizer = learner, optimizer
        self._extra = {} if scaler is None else {"scaler": scaler}
        self._x, self._y = x.detach().clone(), tree_map(_copy, y)
        self._rates = _rates(optimizer)
        self.replays = self.plain = 0
        self._graph = CudaGraph(device) if graph is None else graph
        with _kept(learner, optimizer, device):
            try:
                self._out = self._graph.record(self._record, warmup)
            except RuntimeError as error:
                raise LocalgradError(
                    f"the step cannot be recorded ({str(error).splitlines()[0]}): call "
                    "learner.step; a loss or layer that looks at values waits for the device"
                ) from error
            self._gradients = [(p, p.grad) for p in learner.parameters()]
        self._kind, self._places = self._kind_of(x, y), self._where()

    def step(self, x: Tensor, y: Any) -> StepOutput:
        """Replay the step on a batch.

        Raises:
            LocalgradError: parameters or buffers were moved, or the learning rate changed, since
                the step was recorded.
        """
        if self._kind_of(x, y) != self._kind:
            self.plain += 1
            for parameter in self.learner.parameters():
                parameter.grad = None
            out = self.learner.step(x, y, **self._extra)
            if self.optimizer is not None:
                self.optimizer.step()
            return out
        if self._where() != self._places:
            raise LocalgradError(
                "parameters or buffers were moved, replaced, frozen or thawed since the step was "
                "recorded: make a new CapturedStep"
            )
        if _rates(self.optimizer) != self._rates:
            raise LocalgradError(
                "the learning rate changed since the step was recorded: give the optimizer a "
                "tensor, lr=torch.tensor(0.1, device='cuda'), and change it in place"
            )
        self._x.copy_(x)
        for static, given in zip(_tensors(self._y), _tensors(y), strict=True):
            static.copy_(given)
        self._graph.replay()
        self.replays += 1
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        logits, losses = self._out
        # copies: the next replay writes over these
        return StepOutput(logits.clone(), list(losses.clone().unbind()))

    def _record(self) -> tuple[Tensor, Tensor]:
        for parameter in self.learner.parameters():
            parameter.grad = None
        out = self.learner.step(self._x, self._y, **self._extra)
        if self.optimizer is not None:
            self.optimizer.step()
        kinds = [loss.dtype for loss in out.losses]
        widest = max(kinds, key=lambda kind: torch.finfo(kind).bits)
        return out.logits, torch.stack([loss.to(widest) for loss in out.losses])

    def _kind_of(self, x: Tensor, y: Any) -> tuple[Any, ...]:
        """Return what a recording holds for, beside the values of tensors."""
        leaves, structure = tree_flatten(y)
        kind = x.device.type
        on = torch.is_autocast_enabled(kind)
        return (
            tuple(
                (t.shape, t.dtype, t.device) if isinstance(t, Tensor) else t for t in (x, *leaves)
            ),
            structure,
            [module.training for module in self.learner.modules()],
            torch.get_autocast_dtype(kind) if on else None,
        )

    def _where(self) -> list[tuple[int, bool]]:
        held = (*self.learner.parameters(), *self.learner.buffers())
        return [(tensor.data_ptr(), tensor.requires_grad) for tensor in held]


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def _rates(optimizer: torch.optim.Optimizer | None) -> list[Any]:
    """Return the learning rates, a tensor by where it is."""
    groups = [] if optimizer is None else optimizer.param_groups
    rates = [group["lr"] for group in groups]
    return [rate.data_ptr() if isinstance(rate, Tensor) else rate for rate in rates]


def _check_optimizer(optimizer: torch.optim.Optimizer, scaler: Any) -> None:
    name = type(optimizer).__name__
    if scaler is not None:
        raise LocalgradError(
            "a scaler looks at gradients before the update: give CapturedStep the scaler alone, "
            "then scaler.step(optimizer)"
        )
    fresh = any(not optimizer.state.get(p) for g in optimizer.param_groups for p in g["params"])
    for group in optimizer.param_groups:
        if isinstance(optimizer, torch.optim.SGD):
            if isinstance(group["lr"], Tensor) and not group["fused"]:
                raise LocalgradError("SGD with a tensor as lr is recorded with fused=True alone")
            if fresh and group["momentum"] and group["dampening"]:
                raise LocalgradError(
                    "SGD's first step with dampening differs from the next ones: step once before "
                    "it is recorded"
                )
        elif not group.get("capturable"):
            raise LocalgradError(
                f"{name} keeps numbers on the host: give it capturable=True (SGD needs nothing)"
            )
    starts_at_zero = isinstance(optimizer, torch.optim.SGD | torch.optim.Adam)  # AdamW is an Adam
    if fresh and not starts_at_zero:
        raise LocalgradError(f"{name} has no state yet: step once before it is recorded")


@contextmanager
def _kept(
    learner: LocalLearner, optimizer: torch.optim.Optimizer | None, device: torch.device
) -> Iterator[None]:
    """Put back what warming up changes; an optimizer's new state stays where it is, at zero."""
    gradients = [(p, p.grad) for p in learner.parameters()]
    weights = [] if optimizer is None else [(p, p.detach().clone()) for p in learner.parameters()]
    states = {} if optimizer is None else {p: copy.copy(s) for p, s in optimizer.state.items()}
    states = {p: {key: _copy(value) for key, value in s.items()} for p, s in states.items()}
    with unchanged(learner, device):
        try:
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            with torch.no_grad():
                for parameter, value in weights:
                    parameter.copy_(value)
                if optimizer is not None:
                    _put_back(optimizer, states)


def _put_back(optimizer: torch.optim.Optimizer, before: dict[Any, dict[str, Any]]) -> None:
    for parameter, state in optimizer.state.items():
        old = before.get(parameter, {})
        for key, value in state.items():
            known = old.get(key)
            if not isinstance(value, Tensor):
                state[key] = known
            elif known is None:
                value.zero_()
            else:
                value.copy_(known)
