"""Tensors on their way to the process next door, while both go on computing.

The two ends agree once on the form of what crosses (shape, strides, precision) for each kind of
batch; after that a message is the tensor's memory alone, in the order in which it lies there, so
that what arrives has the strides of what left: a convolution's bits depend on them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from localgrad.errors import LocalgradError
from localgrad.parallel.form import NOTHING, Form, as_it_lies
from localgrad.parallel.mesh import reason
from localgrad.parallel.roll import Roll

IN_FLIGHT = 2


class Waits:
    """Time that this process spends waiting for others.

    On the CPU it is the host that waits; on CUDA the stream, whose time is taken by events.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time within."""
        if self._on_device:
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            try:
                yield
            finally:
                stop.record()
                self._events.append((start, stop))
            return
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - begin

    def take(self) -> float:
        """Return the seconds since the last call; waits for the device."""
        if self._events:
            self._events[-1][1].synchronize()
            self._seconds += sum(a.elapsed_time(b) for a, b in self._events) / 1000
            self._events.clear()
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class _End:
    """One end of a one-way street between two processes.

    Args:
        group: the two.
        peer: rank of the other one.
        device: where tensors are.
        waits: counts the time spent waiting.
        what: what crosses, for messages.
        roll: who is there.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        peer: int,
        device: torch.device,
        waits: Waits,
        what: str,
        roll: Roll,
    ) -> None:
        self._group, self._peer, self._device, self._waits = group, peer, device, waits
        self._what, self._roll = what, roll
        self._forms: dict[Hashable, Form | None] = {}

    def _call(self, does: Callable[[], Any]) -> Any:
        """Do something with the other process.

        Raises:
            RankLostError: it is not there any more, or does not answer in time.
        """
        try:
            with self._roll.waiting():
                return does()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self._roll.lost(self._peer, reason(error)) from error

    def _wait(self, work: Any) -> None:
        with self._waits.counted():
            self._call(work.wait)


class Outgoing(_End):
    """Sends, of which at most ``IN_FLIGHT`` are under way."""

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self._flying: deque[tuple[Any, Tensor, int]] = deque()
        self.sent_bytes = 0

    def send(self, tensor: Tensor | None, key: Hashable) -> None:
        """Let a tensor go; it must not be changed until it has arrived.

        Args:
            tensor: None where there is none to send.
            key: what the form depends on, the same at both ends.

        Raises:
            LocalgradError: the form is not the one agreed on for ``key``; a tensor was changed on
                its way; the other process is lost.
        """
        form = None if tensor is None else Form.of(tensor)
        if key not in self._forms:
            header = NOTHING if form is None else form.pack()
            self._fly(torch.tensor(header, device=self._device))
            self._forms[key] = form
        elif self._forms[key] != form:
            raise LocalgradError(
                f"the {self._what} for rank {self._peer} changed its form from {self._forms[key]} "
                f"to {form} between two steps: freeze or thaw parameters before the first step"
            )
        if tensor is not None and form is not None:
            lies = as_it_lies(tensor, form.strides)
            self._fly(lies if lies.is_contiguous() else lies.contiguous(), tensor)

    def _fly(self, message: Tensor, held: Tensor | None = None) -> None:
        while len(self._flying) >= IN_FLIGHT:
            self._land()
        held = message if held is None else held
        version = 0 if held.is_inference() else held._version
        work = self._call(lambda: dist.isend(message, self._peer, group=self._group))
        self._flying.append((work, held, version))
        self.sent_bytes += message.numel() * message.element_size()

    def _land(self) -> None:
        work, tensor, version = self._flying.popleft()
        self._wait(work)
        if not tensor.is_inference() and tensor._version != version:
            raise LocalgradError(
                f"the {self._what} for rank {self._peer} was changed in place on its way: "
                "a head or loss works in place on its input; let its first operation make a copy"
            )

    def flush(self) -> None:
        """Wait until everything has arrived."""
        while self._flying:
            self._land()


class Incoming(_End):
    """Receives; one may be begun before it is needed."""

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self._begun: deque[tuple[Hashable, Any, Tensor | None]] = deque()

    def begin(self, key: Hashable) -> None:
        """Make room for the next message and let it come, if its form is known."""
        if key in self._forms:
            self._begin(key, self._forms[key])

    def _begin(self, key: Hashable, form: Form | None) -> None:
        room = work = None
        if form is not None:
            room = form.empty(self._device)
            lies = as_it_lies(room, form.strides)
            work = self._call(lambda: dist.irecv(lies, self._peer, group=self._group))
        self._begun.append((key, work, room))

    def take(self, key: Hashable) -> Tensor | None:
        """Return the next message; wait for it where it is not there.

        Raises:
            LocalgradError: another one was begun before; the other process is lost.
        """
        if not self._begun:
            if key not in self._forms:
                header = torch.tensor(NOTHING, device=self._device)
                self._wait(self._call(lambda: dist.irecv(header, self._peer, group=self._group)))
                numbers = header.tolist()
                self._forms[key] = None if numbers == NOTHING else Form.unpack(numbers)
            self._begin(key, self._forms[key])
        begun, work, tensor = self._begun.popleft()
        if begun != key:
            raise LocalgradError(
                f"a batch like {begun} was announced, {key} came: give steps() each batch that "
                "it was told of"
            )
        if work is not None:
            self._wait(work)
        return tensor
