"""What a part of a learner holds on its process: predicted under fake tensors, nothing computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from localgrad.lanes import OneLane
from localgrad.learner import LocalLearner
from localgrad.live_storages import LiveStorages
from localgrad.parallel.messages import IN_FLIGHT
from localgrad.piece_times import update_seconds
from localgrad.prediction import PRECISIONS, Factory, fake_step
from localgrad.segments import Group
from localgrad.step_walk import StepWalk

Bytes = Callable[[int, int], int]


@dataclass(frozen=True)
class PartMemory:
    """Bytes of any part, by addition: at least what it takes.

    Args:
        fixed: of each group: parameters, buffers, gradients, the optimizer's state.
        peaks: of each group: most that is alive while it is at work, its input included.
        waiting: of each group: what stays until its link has come, 0 without one.
        borders: of each group's output.
        batch: of the input.
    """

    fixed: Sequence[int]
    peaks: Sequence[int]
    waiting: Sequence[int]
    borders: Sequence[int]
    batch: int

    def __call__(self, start: int, stop: int) -> int:
        """Return the bytes of the part of groups start..stop (exclusive)."""
        late = self.waiting[stop - 1]  # into the next step
        before = [0, *self.waiting[start : stop - 1]]
        most = max(a + b for a, b in zip(self.peaks[start:stop], before, strict=True))
        onward = self.borders[stop - 1] if stop < len(self.borders) else 0
        messages = IN_FLIGHT * onward + (onward if late else 0)  # out, and an error in
        if start:
            asked = self.waiting[start - 1] > 0
            messages += self.borders[start - 1] * (1 + IN_FLIGHT * asked)  # the next one in, errors
        held = 2 * self.batch  # this batch and the next
        return sum(self.fixed[start:stop]) + most + late + messages + held


class _Kept(OneLane):
    def __init__(self) -> None:
        self.borders: list[Tensor] = []

    def hand_on(self, group: int, border: Tensor) -> None:
        self.borders.append(border)


def part_memory(
    learner: LocalLearner,
    x: Tensor,
    y: Tensor,
    optimizer: Factory,
    precision: str = "fp32",
) -> PartMemory:
    """Return what each group of blocks takes in a step.

    Args:
        learner: the whole; it stays as it is.
        x, y: a batch as one process has it, ``(rows, ...)``; sizes count, not content.
        optimizer: makes the optimizer from parameters.
        precision: ``"fp32"``, or ``"bf16"`` or ``"fp16"`` by autocast.
    """
    held = next(p for p in learner.parameters())
    _, ratio = update_seconds([nn.Parameter(torch.zeros(1000, device=held.device))], optimizer)
    fixed = [_fixed(group, ratio) for group in learner._groups]
    kind = held.device.type
    with fake_step(learner, x, None, None, y, precision, None) as (fake, _):
        cast = PRECISIONS[precision]
        given = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
        targets = torch.empty(y.shape, dtype=y.dtype, device=y.device)
        with torch.autocast(kind, cast, enabled=cast is not None):
            kept = _Kept()
            StepWalk(fake._groups, kept, None).run(given, targets, given)
            inputs = [given, *kept.borders]
            peaks, waiting = [], []
            for group, border in zip(fake._groups, inputs, strict=False):
                for parameter in fake.parameters():
                    parameter.grad = None
                peak, waits = _alive(group, border, targets, given)
                peaks.append(peak + (0 if border is given else border.nbytes))
                waiting.append(waits)
    return PartMemory(fixed, peaks, waiting, [border.nbytes for border in inputs[1:]], x.nbytes)


def _alive(group: Group, border: Tensor, y: Tensor, source: Tensor) -> tuple[int, int]:
    """Return the most bytes of a group at work, and those that wait for its link."""
    counter, kept = LiveStorages(), _Kept()
    counter.leave_out([border, y, source, *_parameters(group)])
    with counter:
        walk = StepWalk([group], kept, None)
        walk.run(border, y, source)
        made = sum(p.grad.nbytes for p in _parameters(group) if p.grad is not None)
        waits = 0 if walk.open is None else counter.alive(set()) - made
        if walk.open is not None:
            walk.close(torch.zeros_like(kept.borders[-1]))
    grads = [p.grad.untyped_storage()._cdata for p in _parameters(group) if p.grad is not None]
    known = {counter.known.get(key) for key in grads}
    return counter.peak({number for number in known if number is not None}), max(0, waits)


def _parameters(group: Group) -> list[nn.Parameter]:
    found: dict[int, nn.Parameter] = {}
    for stage in group.stages:
        for piece in (*stage.units, stage.head):
            reads: Any = piece.parameters() if isinstance(piece, nn.Module) else piece.reads()
            found |= {id(parameter): parameter for parameter in reads}
    return list(found.values())


def _fixed(group: Group, ratio: float) -> int:
    parameters = _parameters(group)
    learns = sum(p.nbytes for p in parameters if p.requires_grad)
    buffers = {
        id(buffer): buffer.nbytes
        for stage in group.stages
        for unit in (*stage.units, stage.head)
        for module in unit.modules()
        for buffer in module.buffers(recurse=False)
    }
    whole = sum(p.nbytes for p in parameters) + sum(buffers.values())
    return whole + round(learns * (1 + ratio))
