"""BP in a pipeline: GPipe and 1F1B of torch.distributed.pipelining.

Messages of gloo and NCCL have to be contiguous. A stage therefore hands on its channels-last output
as the view ``(batch, height, width, channels)``, which is contiguous, and its neighbour looks at
what arrives as channels-last again: nothing is copied, and every convolution gets the layout that
it gets in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, schedules
from torch.nn import functional as F

from localgrad.chain import Chain
from localgrad.memory import Memory, measure_memory
from localgrad.parallel.messages import Waits
from parallel_step.setting import Setting, sgd

SCHEDULES: dict[str, Callable[..., Any]] = {"GPipe": ScheduleGPipe, "1F1B": Schedule1F1B}


class Stage(nn.Module):
    """Units ``start`` to ``stop`` of a chain, and its tail at the end of the last ones."""

    def __init__(self, chain: Chain, start: int, stop: int) -> None:
        super().__init__()
        self.first, self.last = start == 0, stop == len(chain)
        pieces = [*chain.units[start:stop], *([chain.tail] if self.last else [])]
        self.parts = nn.Sequential(*(part for piece in pieces for part in piece.parts))

    def forward(self, x: Tensor) -> Tensor:
        """Return the border as ``(batch, height, width, channels)``, at the end the scores."""
        if not self.first:
            x = x.permute(0, 3, 1, 2)
        x = self.parts(x)
        return x if self.last else x.permute(0, 2, 3, 1)


class Pipeline:
    """A stage of BP in each process.

    Args:
        setting: the processes and what they train.
        kind: ``"GPipe"`` or ``"1F1B"``.
        micro_batches: equal parts of the batch.
        ends: end of each stage, in units.
        model: another one than the setting's.
    """

    together, threads = True, 1

    def __init__(
        self,
        setting: Setting,
        kind: str,
        micro_batches: int,
        ends: Sequence[int],
        model: nn.Module | None = None,
    ) -> None:
        self.name = f"{kind}, {micro_batches} micro-batches"
        self.kind, self.micro_batches, self.ends = kind, micro_batches, tuple(ends)
        mesh = setting.mesh
        chain = Chain.of(setting.model() if model is None else model)
        self.module = Stage(chain, (0, *ends)[mesh.part], ends[mesh.part])
        self.stage = PipelineStage(self.module, mesh.part, mesh.blocks, mesh.device)
        self._schedule = SCHEDULES[kind](self.stage, micro_batches, loss_fn=F.cross_entropy)
        parameters = list(self.module.parameters())
        self._optimizer = sgd(parameters)
        self._first, self._last = mesh.first, mesh.last
        self._x, self._y = setting.x, setting.y
        self.waits = Waits(mesh.device)

    def gradients(self, x: Tensor, y: Tensor) -> None:
        """Fill ``.grad`` of this stage's parameters."""
        target = y if self._last else None
        self._schedule.step(*((x,) if self._first else ()), target=target, return_outputs=False)

    def steps(self, count: int) -> Iterator[None]:
        """Train on the same batch ``count`` times."""
        for _ in range(count):
            self._optimizer.zero_grad()
            with _Waiting(self.waits):
                self.gradients(self._x, self._y)
            self._optimizer.step()
            yield

    def waited(self) -> float | None:
        """Return the seconds spent waiting for messages to come or to have gone."""
        return self.waits.take() if _Waiting.possible() else None

    def memory(self) -> Memory:
        """Return the peak of a step, with the rooms for messages, which are always there."""
        next(self.steps(1))
        found = measure_memory(
            lambda: next(self.steps(1)), self.module, self._optimizer, workspace=False
        )
        rooms = self.rooms()
        return replace(found, activations=found.activations + rooms, total=found.total + rooms)

    def rooms(self) -> int:
        """Return the bytes of the rooms for borders and errors of all micro-batches."""
        infos = [*self.stage.args_recv_info.values(), *self.stage.grad_recv_info.values()]
        rooms = [getattr(info, "buffer", None) for several in infos for info in several]
        return sum(room.nbytes for room in rooms if room is not None)

    def sent_bytes(self) -> float:
        """Return borders and errors of a step, as the stage hands them over to be sent."""
        seen: list[int] = []
        names = ("get_fwd_send_ops", "get_bwd_send_ops")
        for name in names:
            asked = getattr(self.stage, name)

            def counted(chunk: int, asked: Any = asked) -> Any:
                found = asked(chunk)
                seen.extend(op.tensor.nbytes for op in found)
                return found

            setattr(self.stage, name, counted)
        next(self.steps(1))
        for name in names:
            delattr(self.stage, name)  # the class's own again
        return float(sum(seen))


class _Waiting:
    """Counts what a schedule waits: it does so in one function of its module, in torch 2.8 on."""

    NAME = "_wait_batch_p2p"

    def __init__(self, waits: Waits) -> None:
        self._waits = waits

    @classmethod
    def possible(cls) -> bool:
        """Whether this torch has that function."""
        return hasattr(schedules, cls.NAME)

    def __enter__(self) -> None:
        self._own = wait = getattr(schedules, self.NAME, None)
        if wait is None:
            return

        def counted(work: Any) -> Any:
            with self._waits.counted():
                return wait(work)

        setattr(schedules, self.NAME, counted)

    def __exit__(self, *error: object) -> None:
        if self._own is not None:
            setattr(schedules, self.NAME, self._own)


def quickest(
    setting: Setting, kind: str, micro_batches: int, balanced: Sequence[int], reach: int
) -> tuple[tuple[int, ...], dict[str, float]]:
    """Return the stages that are fastest in a short trial, with each one's seconds a step.

    Args:
        setting, kind, micro_batches: of the pipeline.
        balanced: end of each stage where their times balance best.
        reach: how many units each cut is moved, all together, to either side.
    """
    units = balanced[-1]
    tried: dict[tuple[int, ...], float] = {}
    for moved in range(-reach, reach + 1):
        cuts = [min(max(end + moved, 1), units - 1) for end in balanced[:-1]]
        ends = (*cuts, units)
        if ends in tried or sorted(set(ends)) != list(ends):
            continue
        trial = Pipeline(setting, kind, micro_batches, ends)
        times = []
        for _ in range(3):  # the first one prepares
            setting.mesh.gather(None)
            start = time.perf_counter()
            next(trial.steps(1))
            if setting.mesh.device.type == "cuda":
                torch.cuda.synchronize()
            setting.mesh.gather(None)
            times.append(time.perf_counter() - start)
        tried[ends] = min(setting.mesh.gather(min(times[1:])))
    best = min(tried, key=lambda ends: tried[ends])
    return best, {"-".join(map(str, ends)): seconds for ends, seconds in tried.items()}
