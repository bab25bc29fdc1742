"""Two CUDA streams for one step: a block's head and backward beside the next block's forward.

Groups of blocks take turns between two streams, the *lanes*. A lane waits for what it reads and
for nothing else: for the border of the group before, which is ready before that group's head and
backward run; with a link, for the error that the next group's backward leaves at the border. At the
start both lanes wait for the stream of the caller, and at the end that one waits for both, so that
gradients, optimizers and ``zero_grad`` need to know nothing of lanes. Autograd runs the backward of
an operation on the stream of its forward. Forks and joins are events, so a step on lanes can be
recorded by a CUDA graph.

A tensor that one lane makes and the other reads is held until the first has waited for the second
past its last use: its memory belongs to the lane that made it, which would use it anew at once.
(``record_stream`` would do so too, but under graph capture it gives memory back at the end alone.)

This awaits its first run on a GPU; what is tested is that every use across lanes is ordered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from localgrad.errors import LocalgradError


class OneLane:
    """Every group on the stream of the caller."""

    behind = False

    def __enter__(self) -> OneLane:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def at(self, group: int) -> AbstractContextManager[Any]:
        """Run on the lane of a group."""
        return nullcontext()

    def hand_on(self, group: int, border: Tensor) -> None:
        """A group's output is there for the next group."""

    def take_on(self, group: int) -> None:
        """A group is about to read the output of the one before."""

    def taken(self, group: int) -> None:
        """A group's forward has run; its own backward is next."""

    def hand_back(self, group: int, error: Tensor | None) -> None:
        """The error that a group sends back over its border is there.

        Also called for the first of the groups that are walked, if its loss reaches into one that
        another process holds.
        """

    def take_back(self, group: int, error: Tensor | None) -> Tensor | None:
        """Return the error that the next group sends back, which a group is about to read.

        Args:
            group: that reads it.
            error: what the next group sent; None too where that is in another process.
        """
        return error

    def done(self, group: int) -> None:
        """A group will not read again what others handed to it."""

    def updated(self, group: int) -> None:
        """A group's weights are those of the next step, where blocks are updated on the way."""


@dataclass
class _Loan:
    """A tensor of one lane that a group on another lane reads.

    Args:
        version: of the tensor when it was handed over.
        owner, reader: the two lanes.
        group: the group that reads it.
        event: after which it may be read, and its number on the owner's lane.
        returned: number of an event on the reader's lane that comes after its last use.
    """

    tensor: Tensor | None
    version: int
    owner: int
    reader: int
    group: int
    event: tuple[Any, int]
    returned: int | None = None


class Lanes(OneLane):
    """Groups take turns between streams.

    Args:
        streams: the lanes.
        main: the caller's stream.
        use: makes a stream the current one.
    """

    behind = True  # a link's error is received after the next forward, which needs not wait for it

    def __init__(
        self,
        streams: Sequence[Any],
        main: Any,
        use: Callable[[Any], AbstractContextManager[Any]],
    ) -> None:
        self.streams, self.main, self.use = streams, main, use
        self._recorded = [0] * len(streams)
        self._borders: dict[int, _Loan] = {}
        self._errors: dict[int, _Loan] = {}
        self._loans: list[_Loan] = []

    def __enter__(self) -> Lanes:
        for stream in self.streams:
            stream.wait_stream(self.main)
        return self

    def __exit__(self, *error: object) -> None:
        for stream in self.streams:
            self.main.wait_stream(stream)
        self._loans.clear()  # what the lanes do next, they do after the caller's stream
        self._borders.clear()
        self._errors.clear()

    def at(self, group: int) -> AbstractContextManager[Any]:
        """Run on the lane of a group."""
        return self.use(self.streams[self._lane(group)])

    def hand_on(self, group: int, border: Tensor) -> None:
        """Let the next group's lane start as soon as the border is there."""
        self._borders[group + 1] = self._lend(border, group, group + 1)

    def take_on(self, group: int) -> None:
        """Wait for the border of the group before."""
        if group in self._borders:
            self._wait(self._borders[group])

    def taken(self, group: int) -> None:
        """Look whether a group has written on its input, which another lane may still read.

        Raises:
            LocalgradError: it has.
        """
        loan = self._borders.pop(group, None)
        if loan is not None and loan.tensor is not None and loan.tensor._version != loan.version:
            raise LocalgradError(
                f"group {group} of blocks changes its input in place, which the head before it "
                "reads at the same time: set streams = 1"
            )

    def hand_back(self, group: int, error: Tensor | None) -> None:
        """Note where on the lane the error of a group is complete."""
        self._errors[group - 1] = self._lend(error, group, group - 1)

    def take_back(self, group: int, error: Tensor | None) -> Tensor | None:
        """Wait for the error of the next group."""
        self._wait(self._errors.pop(group))
        return error

    def done(self, group: int) -> None:
        """Mark what the group read as returned: at the next event on its lane."""
        for loan in self._loans:
            if loan.group == group:
                loan.returned = self._recorded[loan.reader] + 1

    def _lane(self, group: int) -> int:
        return group % len(self.streams)

    def _lend(self, tensor: Tensor | None, owner: int, group: int) -> _Loan:
        lane = self._lane(owner)
        event = self.streams[lane].record_event()
        self._recorded[lane] += 1
        version = 0 if tensor is None else tensor._version
        loan = _Loan(tensor, version, lane, self._lane(group), group, (event, self._recorded[lane]))
        self._loans.append(loan)
        return loan

    def _wait(self, loan: _Loan) -> None:
        """Let the reader's lane wait; what it has lent and got back by then is let go."""
        event, number = loan.event
        self.streams[loan.reader].wait_event(event)
        self._loans = [
            other
            for other in self._loans
            if not (
                other.owner == loan.reader
                and other.reader == loan.owner
                and other.returned is not None
                and other.returned <= number
            )
        ]


def lanes_for(device: torch.device, streams: int) -> OneLane:
    """Return the lanes of one step.

    Args:
        device: of the batch; one other than a CUDA device has a single lane.
        streams: number of lanes, 1 or 2.
    """
    if streams == 1 or device.type != "cuda" or not torch.cuda.is_available():  # fake tensors
        return OneLane()
    index = torch.cuda.current_device() if device.index is None else device.index
    return Lanes(_streams(index, streams), torch.cuda.current_stream(index), torch.cuda.stream)


@cache
def _streams(device: int, count: int) -> tuple[torch.cuda.Stream, ...]:
    # the same ones in every step: memory that a stream once used is kept for that stream
    return tuple(torch.cuda.Stream(device) for _ in range(count))
