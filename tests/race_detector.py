"""Streams without a device: which operation happens before which, by vector clocks.

Every operation reads and writes storages at a time on the lane that is current. Two uses of one
storage on different lanes, of which at least one writes, need an event between them. The memory of
a storage that dies belongs to the lane that made it, whose next operation may write there: by then
that lane must have waited for every other lane's last use.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Time = tuple[int, int]  # lane, and how many operations it had run


class FakeStream:
    """Has the methods of ``torch.cuda.Stream`` that the lanes use."""

    def __init__(self, index: int, count: int) -> None:
        self.index, self.clock = index, [0] * count
        self.deaf: set[int] = set()  # streams whose events it does not wait for

    def tick(self) -> Time:
        self.clock[self.index] += 1
        return self.index, self.clock[self.index]

    def record_event(self) -> tuple[int, list[int]]:
        return self.index, list(self.clock)

    def wait_event(self, event: tuple[int, list[int]]) -> None:
        source, clock = event
        if source not in self.deaf:
            self.clock = [max(a, b) for a, b in zip(self.clock, clock, strict=True)]

    def wait_stream(self, stream: FakeStream) -> None:
        self.wait_event(stream.record_event())

    def knows(self, time: Time) -> bool:
        return self.clock[time[0]] >= time[1]


class _Uses:
    def __init__(self, owner: int, born: Time | None) -> None:
        self.owner, self.write = owner, born
        self.reads: dict[int, Time] = {}

    def all(self) -> list[Time]:
        return [*self.reads.values(), *([self.write] if self.write else [])]


class RaceDetector(TorchDispatchMode):
    """Runs operations on fake streams; ``races`` says what is not ordered."""

    def __init__(self, lanes: int) -> None:
        super().__init__()
        self.main, *self.lanes = (FakeStream(i, lanes + 1) for i in range(lanes + 1))
        self.current = self.main
        self.used: dict[int, _Uses] = {}
        self.free: list[list[Time]] = [[] for _ in range(lanes + 1)]  # uses of dead storages
        self.races: list[str] = []
        self.crossed = 0  # uses of what another lane wrote

    @contextmanager
    def use(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = func._schema
        written = [
            value
            for argument, value in [
                *zip(schema.arguments, args, strict=False),
                *((a, kwargs[a.name]) for a in schema.arguments if a.name in kwargs),
            ]
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        given = {t.untyped_storage()._cdata: t for t in _tensors((args, kwargs))}
        for key, tensor in given.items():
            if key not in self.used:  # it was there before
                self._see(key, tensor, 0, None)
        is_view = not written and any(r.alias_info is not None for r in schema.returns)
        if not is_view:
            self._reuse()
            time = self.current.tick()
            changed = {t.untyped_storage()._cdata for t in _tensors(written)}
            for key in given:
                self._use(self.used[key], time, key in changed, str(func))
        out = func(*args, **kwargs)
        for tensor in _tensors(out):
            key = tensor.untyped_storage()._cdata
            if key not in self.used:
                self._see(key, tensor, self.current.index, self.current.tick())
        return out

    def _see(self, key: int, tensor: Tensor, owner: int, born: Time | None) -> None:
        uses = self.used[key] = _Uses(owner, born)
        weakref.finalize(tensor.untyped_storage(), self._gone, key, uses)

    def _use(self, uses: _Uses, time: Time, writes: bool, name: str) -> None:
        before = uses.all() if writes else [uses.write] if uses.write else []
        self.crossed += any(t[0] != time[0] for t in before)
        for earlier in before:
            if not self.current.knows(earlier):
                self.races.append(f"{name} on lane {time[0]} does not wait for {earlier}")
        if writes:
            uses.write, uses.reads = time, {}
        else:
            uses.reads[time[0]] = time

    def _gone(self, key: int, uses: _Uses) -> None:
        if self.used.get(key) is uses:
            del self.used[key]
        self.free[uses.owner] += uses.all()

    def _reuse(self) -> None:
        """The current lane runs an operation, which may take memory that was given back to it."""
        free, self.free[self.current.index] = self.free[self.current.index], []
        for time in free:
            if not self.current.knows(time):
                self.races.append(f"memory of lane {self.current.index} is reused before {time}")


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
