"""Which images come when, and what is drawn for each: a function of the seed and the epoch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from localgrad.data.augment import Draws
from localgrad.data.validate import check_whole
from localgrad.errors import LocalgradError


@dataclass(frozen=True)
class Order:
    """The batches of every epoch, as rows of a set.

    They depend on ``seed`` and the epoch's number alone: not on earlier epochs, the device, the
    batch size, worker processes or PyTorch's global random state. So a run resumes at any batch
    exactly.

    Args:
        count: images in the set.
        batch_size: images a batch; the last batch of an epoch may have fewer.
        pad: pixels on each side before a random crop.
        flip: mirror each image left to right with probability one half.
        shuffle: draw a new order every epoch.
        seed: a whole number.
        drop_last: leave out a last batch of fewer images.
        of: what they are called, in errors.

    Raises:
        LocalgradError: for a batch size below 1, a negative pad, or no batch at all.
    """

    count: int
    batch_size: int
    pad: int = 0
    flip: bool = False
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False
    of: str = "images"

    def __post_init__(self) -> None:
        check_whole("batch_size", self.batch_size, 1)
        check_whole("pad", self.pad, 0)
        check_whole("seed", self.seed)
        if self.drop_last and self.batch_size > self.count:
            raise LocalgradError(
                f"drop_last leaves no batch: {self.count} {self.of} are fewer than batch_size "
                f"{self.batch_size}; use a smaller batch or keep the last one"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(self.count, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def part(self, batch: int) -> slice:
        """The places of a batch in the epoch's order."""
        return slice(batch * self.batch_size, (batch + 1) * self.batch_size)

    def check(self, epoch: int, start: int) -> None:
        """Raise a ``LocalgradError`` unless there is such an epoch and batch."""
        check_whole("epoch", epoch, 0)
        check_whole("start", start, 0)

    def epoch(self, number: int) -> tuple[Tensor, Draws | None]:
        """The rows of epoch ``number`` in order, int64 ``(count,)``, and what is drawn for each.

        On the CPU, so that they are the same bits whatever the device.
        """
        generator = torch.Generator().manual_seed(seed_of(self.seed, number))
        rows = torch.arange(self.count)
        if self.shuffle:
            rows = torch.randperm(self.count, generator=generator)
        if not (self.pad or self.flip):
            return rows, None
        return rows, Draws.random(self.count, self.pad, self.flip, generator)


def seed_of(*parts: int) -> int:
    """A seed from whole numbers, 0 to 2**64 - 1; hashed, so that neighbours share nothing."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big")
