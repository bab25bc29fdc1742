"""What blocks cost on this machine: the sum of their units and heads, each looked at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from localgrad import unit_looks
from localgrad.balance import Rule
from localgrad.block_peaks import BlockPeaks, Footprint
from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.model_state import unchanged
from localgrad.parallel.builders import linked_blocks, runs_of
from localgrad.parallel.costs import BlockCosts
from localgrad.piece_times import NOTHING, PieceTime, end_times, unit_times, update_seconds
from localgrad.prediction import PRECISIONS, Factory
from localgrad.unit_looks import End, Task


@dataclass(frozen=True)
class Ends:
    """What a rule's blocks end in, after each unit.

    Args:
        times: of the head, forward and backward with its loss.
        peaks: bytes at most while the head runs.
        parameters: bytes.
    """

    times: list[PieceTime]
    peaks: list[int]
    parameters: list[int]


@dataclass
class Measured:
    """A chain whose units are looked at when they are first asked for.

    Args:
        chain: the network.
        example: a batch, ``(batch, ...)``.
        task: the task loss.
        optimizer: makes an optimizer from parameters.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        repeats: runs of each piece that count.
    """

    chain: Chain
    example: Tensor
    task: Task
    optimizer: Factory
    precision: str = "fp32"
    repeats: int = 5
    _times: dict[int, list[PieceTime]] = field(default_factory=dict)
    _bytes: list[Footprint] | None = None
    _update: tuple[float, float] | None = None

    def times(self, micro_batches: int = 1) -> list[PieceTime]:
        """Return the times of the units, then of the tail, on a micro-batch."""
        if micro_batches not in self._times:
            part = self.example[: len(self.example) // micro_batches]
            with self._precision():
                self._times[micro_batches] = unit_times(self.chain, part, self.repeats)
        return self._times[micro_batches]

    def bytes(self) -> list[Footprint]:
        """Return what each unit takes, on the whole batch."""
        if self._bytes is None:
            self._trace([])
            with self._precision():
                self._bytes = unit_looks.unit_bytes(self.chain, self.example, None)
        return self._bytes

    def update(self) -> tuple[float, float]:
        """Return the optimizer's seconds an element, and its bytes of state a byte."""
        if self._update is None:
            self._update = update_seconds(list(self.chain.model.parameters()), self.optimizer)
        return self._update

    def ends(self, rule: Rule) -> Ends:
        """Return what the blocks of a rule end in."""
        finest = rule(self.chain, tuple(range(1, len(self.chain) + 1)))
        built = unit_looks.ends_of(self.chain, finest, self.example, self.task)
        self._trace(built)
        with self._precision():
            times = end_times(self.chain, self.example, built, self.repeats)
            peaks = unit_looks.end_bytes(self.chain, self.example, built)
        heads = [None if end is None else end.head for end in built]
        sizes = [0 if head is None else _bytes_of(head) for head in heads]
        dearest = max((t for t in times if t is not None), key=lambda t: t.forward + t.backward)
        return Ends([dearest if t is None else t for t in times], peaks, sizes)

    def local(self, decoupling: Decoupling, ends: Ends) -> tuple[BlockCosts, ...]:
        """Return the costs of each block of local learning (of a run, where borders are open)."""
        runs = runs_of(decoupling)
        linked = set(linked_blocks(decoupling))
        spans = [(decoupling.blocks[r[0]].start, decoupling.blocks[r[-1]].stop) for r in runs]
        found = []
        for k, (start, stop) in enumerate(spans):
            units = decoupling.linked_units(runs[k][-1]) if k in linked else range(0)
            heads = [decoupling.blocks[b].stop - 1 for b in runs[k]]
            link = decoupling.blocks[runs[k + 1][0]].link if k in linked else None
            keeps = link is not None and link.keep_error and link.combine == "sum"
            found.append(self._block(start, stop, heads, ends, k - 1 in linked, len(units), keeps))
        return tuple(found)

    def _block(
        self,
        start: int,
        stop: int,
        heads: list[int],
        ends: Ends,
        asked: bool,
        link: int,
        keeps: bool,
    ) -> BlockCosts:
        """Return the costs of a block.

        Args:
            start, stop: units.
            heads: the units that its heads stand after.
            ends: of the rule.
            asked: the block before wants the error at the input.
            link: units at the end that wait for the block after.
            keeps: the local error waits with them.
        """
        times, units = self.times(), self.bytes()
        split = stop - link
        judged = [ends.times[head] for head in heads]
        onward = start > 0 and asked  # the network's input is asked for no error
        local = sum(t.forward + t.backward for t in judged)
        local += sum(_back(times[u], u > start or onward) for u in range(start, split))
        crossing = sum(times[u].error for u in range(split, stop) if u > start or onward)
        waits = sum(_back(times[u], u > split) for u in range(split, stop))
        entry = units[start - 1].output if start else self.example.nbytes
        kept = entry + sum(units[u].kept for u in range(start, stop))
        waiting = 0
        if link:
            at_split = units[split - 1].output if split else self.example.nbytes
            waiting = at_split + sum(units[u].kept for u in range(split, stop))
            waiting += units[stop - 1].output if keeps else 0
        peak = BlockPeaks(units, ends.peaks).peak(start, stop) if stop > start else ends.peaks[-1]
        work = max(0, peak - (kept if start else kept - entry))
        size = self._parameters(start, stop) + sum(ends.parameters[head] for head in heads)
        if stop == len(self.chain):
            size += sum(p.nbytes for p in self.chain.tail.parameters())
        border = units[stop - 1].output if stop else self.example.nbytes
        return BlockCosts(
            forward=sum(times[u].forward for u in range(start, stop)),
            local=local,
            crossing=crossing,
            link=waits,
            update=self._updated(size),
            border=border,
            activations=max(kept, waiting),
            waiting=waiting,
            work=work,
            parameters=size,
            state=self._state(size),
        )

    def pipelined(self, ends: Sequence[int], micro_batches: int) -> tuple[BlockCosts, ...]:
        """Return the costs of each stage of BP, on a micro-batch.

        Args:
            ends: end of each stage.
            micro_batches: equal parts of the batch.
        """
        times, units = self.times(micro_batches), self.bytes()
        peaks = BlockPeaks(units, [0] * len(units))
        found = []
        for start, stop in zip((0, *ends[:-1]), ends, strict=True):
            last = stop == len(self.chain)
            tail = times[-1] if last else NOTHING
            back = sum(_back(times[u], u > 0) for u in range(start, stop))
            entry = units[start - 1].output if start else self.example.nbytes
            kept = entry + sum(units[u].kept for u in range(start, stop))
            work = peaks.peak(start, stop) - (kept if start else kept - entry)
            size = self._parameters(start, stop)
            size += sum(p.nbytes for p in self.chain.tail.parameters()) if last else 0
            found.append(
                BlockCosts(
                    forward=sum(times[u].forward for u in range(start, stop)) + tail.forward,
                    local=back + tail.backward,
                    update=self._updated(size),
                    border=units[stop - 1].output // micro_batches,
                    activations=kept // micro_batches,
                    work=max(0, work) // micro_batches,
                    parameters=size,
                    state=self._state(size),
                )
            )
        return tuple(found)

    def _parameters(self, start: int, stop: int) -> int:
        return sum(p.nbytes for u in range(start, stop) for p in self.chain.units[u].parameters())

    def _updated(self, size: int) -> float:
        each = next(self.chain.model.parameters()).element_size()
        return self.update()[0] * size / each

    def _state(self, size: int) -> int:
        return round(size * (1 + self.update()[1]))  # gradients, and the optimizer's own

    def _trace(self, built: list[End | None]) -> None:
        """Trace a traced network and heads under autocast, which on fake tensors cannot be."""
        if self.precision == "fp32" or not self.chain.tail.traced:
            return
        with (
            unchanged(self.chain.model, self.example.device),
            torch.no_grad(),
            self._precision(),
        ):
            x = source = self.chain.sample(self.example)
            for unit, end in zip_longest(self.chain.units, built):
                x = unit.seeing(source)(x)
                if end is not None and end.head is not None:
                    end.head(x)
            self.chain.tail.seeing(source)(x)

    def _precision(self) -> AbstractContextManager[Any]:
        kind = PRECISIONS[self.precision]
        return torch.autocast(self.example.device.type, kind, enabled=kind is not None)


def _back(times: PieceTime, onward: bool) -> float:
    return times.backward if onward else times.weights


def _bytes_of(head: nn.Module) -> int:
    return sum(p.nbytes for p in head.parameters())
