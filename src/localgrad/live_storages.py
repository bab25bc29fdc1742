"""A log of every storage that operations make, from its birth to its death."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveStorages(TorchDispatchMode):
    """Logs the birth and death of every storage made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, int | None] = {}  # storage -> its number; None: was there before
        self.bytes: list[int] = []
        self.log: list[int] = []  # number born, or ~number died

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tensors_in((args, kwargs)):
            self._see(tensor, new=False)
        out = func(*args, **kwargs)
        for tensor in tensors_in(out):
            self._see(tensor, new=True)
        return out

    def start_with(self, tensors: Iterable[Tensor]) -> None:
        """Count what is alive already, and holds memory until the call frees it."""
        for tensor in tensors:
            self._see(tensor, new=True)

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Do not count what was there before."""
        for tensor in tensors:
            self._see(tensor, new=False)

    def _see(self, tensor: Tensor, new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        number = len(self.bytes) if new else None
        self.known[key] = number
        weakref.finalize(storage, self._gone, key, number)
        if number is not None:
            self.bytes.append(storage.nbytes())
            self.log.append(number)

    def _gone(self, key: int, number: int | None) -> None:
        if self.known.get(key, -1) == number:
            del self.known[key]
        if number is not None:
            self.log.append(~number)

    def peak(self, without: set[int], since: int = 0, until: int | None = None) -> int:
        """Return the most bytes alive at once, leaving out the storages numbered in ``without``.

        Args:
            without: numbers of storages.
            since, until: entries of the log to look at; what was alive before them counts.
        """
        live = most = self.alive(without, since)
        for entry in self.log[since:until]:
            live += self._change(entry, without)
            most = max(most, live)
        return most

    def alive(self, without: set[int], until: int | None = None) -> int:
        """Return the bytes alive after so many entries of the log, by default now."""
        return sum(self._change(entry, without) for entry in self.log[:until])

    def _change(self, entry: int, without: set[int]) -> int:
        number = entry if entry >= 0 else ~entry
        if number in without:
            return 0
        return self.bytes[number] if entry >= 0 else -self.bytes[number]


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors anywhere in a structure of lists, dicts and the like."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
