"""Memory and FLOPs of a training step before it is run: under fake tensors, nothing computed.

Fake tensors have shapes and no content, so that a step of a network of any size takes seconds and
no memory. The learner runs the very code of a real step; the counter of live tensors that watches
is the one for real tensors, and finds the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from localgrad.assembly import decouple
from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError
from localgrad.flops import measure_flops
from localgrad.learner import LocalLearner
from localgrad.memory import Memory, measure_memory
from localgrad.model_state import device_of, unchanged
from localgrad.without_content import without_content

UPDATES = ("step", "block")
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
#: The precisions that each learner's traces are known for.
_traced: WeakKeyDictionary[LocalLearner, set[str]] = WeakKeyDictionary()
Factory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def predict_memory(
    what: LocalLearner | Decoupling,
    example_input: Tensor,
    *,
    model: nn.Module | Chain | None = None,
    batch: int | None = None,
    targets: Tensor | None = None,
    optimizer: Factory | None = None,
    precision: str = "fp32",
    update: str = "step",
    seconds: float | None = None,
) -> Memory:
    """Return the peak memory of a training step in the steady state, without computing anything.

    ``activations`` are of the step alone; ``total`` is of ``zero_grad()``, the step and the
    optimizer's step, with gradients and state as they are from the second step on.

    Args:
        what: a learner; or a decoupling, with the ``model`` or chain that it is for.
        example_input: ``(rows, ...)``; its shape, precision and layout count, not its content.
        batch: number of rows; by default those of the example.
        targets: ``(rows, ...)``, if the loss takes other than a class for each score of the
            network.
        optimizer: an optimizer's class, or what makes one from parameters; None: without its
            step and state.
        precision: ``"fp32"``, or ``"bf16"`` or ``"fp16"`` by autocast.
        update: ``"step"``: all parameters at the end of the step; ``"block"``: each block's as
            soon as may be (``step(update=optimizer)``).
        seconds: give up after so long.

    Raises:
        LocalgradError: a decoupling without its model, an unknown precision, an optimizer in
            place of its class, a batch below 1, or the time is up.

    >>> import localgrad
    >>> from localgrad.networks import resnet20
    >>> x = torch.rand(2, 3, 32, 32)
    >>> learner = localgrad.decouple(resnet20(), "greedy", example_input=x)
    >>> predict_memory(learner, x, batch=1024, optimizer=torch.optim.AdamW).total // 2**20
    451
    """
    if optimizer is not None and not callable(optimizer):
        raise LocalgradError(
            f"optimizer is a {type(optimizer).__name__}: give its class, such as "
            "torch.optim.AdamW, or a function of the parameters that makes it"
        )
    if update not in UPDATES or (update == "block" and optimizer is None):
        raise LocalgradError(f"update={update!r}: must be 'step', or 'block' with an optimizer")
    with fake_step(what, example_input, model, batch, targets, precision, seconds) as fake:
        learner, step = fake
        once = measure_memory(step, learner)
        if optimizer is None:
            return once
        stepping = optimizer(list(learner.parameters()))
        stepping.step()  # its state is there from now on
        stepping.zero_grad()

        def whole() -> None:
            stepping.zero_grad()
            step(update=stepping if update == "block" else None)
            stepping.step()

        steady = measure_memory(whole, learner, stepping)
    return Memory(
        once.activations, steady.parameters, steady.gradients, steady.optimizer, steady.total
    )


def predict_flops(
    what: LocalLearner | Decoupling,
    example_input: Tensor,
    *,
    model: nn.Module | Chain | None = None,
    batch: int | None = None,
    targets: Tensor | None = None,
    seconds: float | None = None,
) -> int:
    """Return the FLOPs of one local step, as :func:`measure_flops` counts them.

    Arguments and errors are those of :func:`predict_memory`.
    """
    with fake_step(what, example_input, model, batch, targets, "fp32", seconds) as fake:
        return measure_flops(fake[1])


@contextmanager
def fake_step(
    what: LocalLearner | Decoupling,
    example: Tensor,
    model: nn.Module | Chain | None,
    batch: int | None,
    targets: Tensor | None,
    precision: str,
    seconds: float | None,
) -> Iterator[tuple[LocalLearner, Callable[..., Any]]]:
    """Yield a learner and its step on fake tensors; leave the learner as it was."""
    if precision not in PRECISIONS:
        raise LocalgradError(
            f"precision {precision!r} must be one of {', '.join(map(repr, PRECISIONS))}"
        )
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise LocalgradError(f"batch={batch!r}: must be a whole number >= 1")
    if not isinstance(what, LocalLearner) and model is None:
        raise LocalgradError("a decoupling knows no sizes: give model=, the network that it is for")
    learner = (
        what if isinstance(what, LocalLearner) else decouple(model, what, example_input=example)  # type: ignore[arg-type]
    )
    device = device_of(learner)
    rows = batch or len(example)
    shape = _target_shape(learner, example) if targets is None else targets.shape[1:]
    kind = torch.long if targets is None else targets.dtype
    last = example.dim() == 4 and not example.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # constants that are no buffers
    try:
        _trace_under(learner, example, precision)
        held = (*learner.parameters(), *learner.buffers())
        fake = without_content(learner, held, mode)
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            mode,
            _deadline(seconds),
        ):
            x = torch.empty((rows, *example.shape[1:]), dtype=example.dtype, device=device)
            x = x.contiguous(memory_format=layout)
            y = torch.empty((rows, *shape), dtype=kind, device=device)

            def step(update: torch.optim.Optimizer | None = None) -> Any:
                with torch.autocast(
                    device.type, PRECISIONS[precision], enabled=precision != "fp32"
                ):
                    return fake.step(x, y, update=update)

            yield fake, step
    finally:
        if not isinstance(what, LocalLearner):
            learner.release()


def _trace_under(learner: LocalLearner, example: Tensor, precision: str) -> None:
    """Let a traced network be traced under autocast, which on fake tensors it cannot be.

    A trace holds for the precision that it was made in. Two rows make the learner's chain and heads
    look; they stay as they were.
    """
    seen = _traced.setdefault(learner, {"fp32"})
    if precision in seen or not learner.chain.tail.traced:
        return
    device = device_of(learner)
    with unchanged(learner, device), torch.autocast(device.type, PRECISIONS[precision]):
        learner.exits(learner.chain.sample(example))
    seen.add(precision)


def _target_shape(learner: LocalLearner, example: Tensor) -> torch.Size:
    """Return the shape of a row's targets: one for each of the network's vectors of scores."""
    outputs = learner.chain.outputs or (learner.chain.shapes(example)[1],)
    return outputs[-1][:-1]


def _deadline(seconds: float | None) -> AbstractContextManager[Any]:
    return nullcontext() if seconds is None else _Deadline(seconds)


class _Deadline(TorchDispatchMode):
    """Stops what takes too long, between two operations."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.end = seconds, time.monotonic() + seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        # not where C++ asks for a device or a size: an exception there ends the process
        if isinstance(out, Tensor | tuple | list) and time.monotonic() > self.end:
            raise LocalgradError(
                f"the network is too large to predict a step of it in {self.seconds:g} s: "
                "allow more time"
            )
        return out
