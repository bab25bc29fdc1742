"""Peak memory of a call: bytes of live tensors, counted exactly.

A dispatch mode sees every tensor that an operation returns and holds its storage weakly; when the
storage dies, its bytes leave the count. That is the same on every device and run: it counts what
tensors hold, not what an operation takes inside itself and gives back (its workspace). That comes
from the allocator, where it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor

from localgrad.allocator import allocated_peak
from localgrad.live_storages import LiveStorages
from localgrad.model_state import device_of


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Args:
        activations: most that was alive at once of all the call made, gradients of parameters and
            optimizer state aside: activations, errors on their way back, temporary results.
        parameters: of the model, heads included.
        gradients: held by the parameters when the call ended.
        optimizer: state of the optimizer when the call ended.
        total: most that tensors held at once in all. The parts peak at different moments, so
            that it is less than their sum.
        workspace: what operators took inside of themselves on top of that, at the allocator's
            peak; 0 where the allocator was not asked.
    """

    activations: int
    parameters: int
    gradients: int
    optimizer: int
    total: int
    workspace: int = 0

    @property
    def allocated(self) -> int:
        """What the allocator has to give out: live tensors and operators' workspace."""
        return self.total + self.workspace

    def to_dict(self) -> dict[str, int]:
        """Return the fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        shown = {key: value for key, value in self.to_dict().items() if key != "workspace" or value}
        return ", ".join(f"{key} {value / 2**20:.2f} MiB" for key, value in shown.items())


def measure_memory(
    fn: Callable[[], Any],
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    workspace: bool | None = None,
) -> Memory:
    """Count the bytes of live tensors while ``fn`` runs once.

    Args:
        fn: for instance ``lambda: learner.step(x, y)``. Under ``FakeTensorMode(
            allow_non_fake_inputs=True)`` nothing is computed, and the count is the same.
        model: the learner or model, whose parameters and gradients are told apart from
            activations; without it they count as what they are: tensors.
        optimizer: whose state is told apart likewise.
        workspace: whether to ask the allocator too; by default on a GPU, where that costs
            nothing. On the CPU it takes a profiler, and some kinds of operators take much: a
            batch norm's backward as much as its input (torch 2.13).

    >>> x = torch.ones(1024)
    >>> measure_memory(lambda: (x * 2).sum()).activations  # the product and its sum
    4100
    """
    parameters = [] if model is None else list(model.parameters())
    counter = LiveStorages()
    counter.start_with([*_gradients(parameters), *_state(optimizer)])
    apart = set(range(len(counter.bytes)))
    before = sum(counter.bytes)
    fakes = _fakes(model)
    counter.leave_out(fakes)
    device = torch.device("cpu") if model is None else device_of(model)
    asked = device.type == "cuda" if workspace is None else workspace
    taken = 0
    with counter:
        if asked and detect_fake_mode() is None:
            result, taken = allocated_peak(fn, device)
        else:
            result = fn()
    gradients = _storages(_gradients(parameters))
    state = _storages(_state(optimizer))
    kept = {counter.known.get(key) for key in (*gradients, *state)}
    apart |= {number for number in kept if number is not None}
    weights = sum(_storages(parameters).values())
    memory = Memory(
        activations=counter.peak(apart),
        parameters=weights,
        gradients=sum(gradients.values()),
        optimizer=sum(state.values()),
        total=weights + counter.peak(set()),
        workspace=max(0, taken - (counter.peak(set()) - before)) if asked else 0,
    )
    del result, fakes
    return memory


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def _fakes(model: nn.Module | None) -> list[Tensor]:
    """Return what fake operations take for a model's real tensors: new storages, but no memory."""
    mode = detect_fake_mode()
    if mode is None or model is None:
        return []
    held = (*model.parameters(), *model.buffers())
    return [mode.from_tensor(t) for t in held if not isinstance(t, FakeTensor)]


def _state(optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    if optimizer is None:
        return []
    return [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage._cdata: storage.nbytes() for storage in storages}
