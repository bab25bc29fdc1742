"""Windows of consecutive tokens, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from localgrad.data.device import on_device
from localgrad.data.order import Order, seed_of


@dataclass(frozen=True, eq=False)
class Windows:
    """Tokens in windows, one after the other.

    Attributes:
        tokens: whole numbers, ``(number,)``, of the smallest dtype that holds them.
        context: tokens in a window; one more follows, the last one's target.
        count: number of windows.

    >>> Windows(torch.arange(10), context=4, count=2).rows(torch.tensor([1]))
    (tensor([[4, 5, 6, 7]]), tensor([[5, 6, 7, 8]]))
    """

    tokens: Tensor
    context: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"Windows({self.count} of {self.context} tokens on {self.tokens.device})"

    def first(self, limit: int | None) -> Windows:
        """The first ``limit`` windows, at most all."""
        return self if limit is None else replace(self, count=min(limit, self.count))

    def rows(self, index: Tensor, shift: int = 0) -> tuple[Tensor, Tensor]:
        """Return windows and their targets, each the token that follows.

        Args:
            index: which windows, ``(batch,)``.
            shift: by how many tokens all windows start later.

        Returns:
            Two int64 tensors, ``(batch, context)``.
        """
        starts = index * self.context + shift
        places = starts[:, None] + torch.arange(self.context + 1, device=index.device)
        rows = self.tokens[places].long()
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


class TokenBatches:
    """Batches of windows, ``(tokens, targets)``, repeatable from a seed and an epoch's number.

    The order of an epoch, and where its windows start, depend on ``seed`` and the epoch's number
    alone: not on earlier epochs, the device or PyTorch's global random state. So a run resumes at
    any batch exactly.

    Args:
        windows: the tokens.
        batch_size: windows a batch; the last batch of an epoch may have fewer.
        shuffle: draw a new order every epoch.
        shift: let the first window of an epoch start at a random token among the first
            ``context``, so that not every epoch cuts the text at the same places; there must be
            as many tokens more.
        seed: a whole number.
        drop_last: leave out a last batch of fewer windows.
        device: where the tokens are moved, once; None leaves them where they are.

    Raises:
        LocalgradError: a batch size below 1, no batch at all, or a device that cannot be used.
    """

    #: Inputs left out, by name: none.
    skipped: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        *,
        shuffle: bool = False,
        shift: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        self.order = Order(
            len(windows), batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last, of="windows"
        )
        if device is not None:
            tokens = on_device("the text", device, lambda: windows.tokens.to(device))
            windows = replace(windows, tokens=tokens)
        self._windows, self.shift = windows, shift

    @property
    def device(self) -> torch.device:
        """Where the tokens and the batches are."""
        return self._windows.tokens.device

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.order)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch ``number``, counted from 0, from batch ``start`` on.

        Yields:
            Tokens and the tokens that follow them, int64 ``(batch, context)`` each.

        Raises:
            LocalgradError: for a number that is negative or not whole.
        """
        self.order.check(number, start)
        return self._epoch(number, start)

    def first(self) -> tuple[Tensor, Tensor]:
        """The first batch of epoch 0."""
        return next(self.epoch(0))

    def _epoch(self, number: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        rows = self.order.epoch(number)[0].to(self.device)
        shift = 0
        if self.shift:
            generator = torch.Generator().manual_seed(seed_of(self.order.seed, number, 1))
            shift = int(torch.randint(self._windows.context, (), generator=generator))
        for batch in range(start, len(self)):
            yield self._windows.rows(rows[self.order.part(batch)], shift)

    def evaluation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every window once, in the text's order, whatever the options say.

        Yields:
            As :meth:`epoch`; the last batch may have fewer windows.
        """
        for part in torch.arange(len(self._windows), device=self.device).split(
            self.order.batch_size
        ):
            yield self._windows.rows(part)
