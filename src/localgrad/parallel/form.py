"""The form of a tensor that crosses a border: enough to make room for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from localgrad.errors import LocalgradError

DIMENSIONS = 8
PRECISIONS = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.uint8, torch.bool,
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """What a tensor looks like: enough to make an empty one like it."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        """Return the form in which ``tensor`` travels: as it lies, if its memory has no gaps.

        Raises:
            LocalgradError: more dimensions than a message can tell of, or an unusual precision.
        """
        if tensor.dim() > DIMENSIONS or tensor.dtype not in PRECISIONS:
            raise LocalgradError(
                f"a border of {tensor.dim()} dimensions in {tensor.dtype} cannot be sent: expected "
                f"at most {DIMENSIONS} dimensions, in a usual precision; cut elsewhere"
            )
        dense = as_it_lies(tensor, tensor.stride()).is_contiguous()
        strides = tensor.stride() if dense else tensor.contiguous().stride()
        return cls(tuple(tensor.shape), tuple(strides), tensor.dtype)

    def pack(self) -> list[int]:
        """Return the form as numbers, always as many."""
        rest = [0] * (DIMENSIONS - len(self.shape))
        kind = PRECISIONS.index(self.dtype)
        return [len(self.shape), kind, *self.shape, *rest, *self.strides, *rest]

    @classmethod
    def unpack(cls, numbers: list[int]) -> Form:
        """Undo :meth:`pack`."""
        count, kind, *sizes = numbers
        shape, strides = sizes[:count], sizes[DIMENSIONS : DIMENSIONS + count]
        return cls(tuple(shape), tuple(strides), PRECISIONS[kind])

    def empty(self, device: torch.device) -> Tensor:
        """Return room for such a tensor."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=device)


def as_it_lies(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return a view with the dimensions in the order of memory."""
    order = sorted(range(tensor.dim()), key=lambda d: (-strides[d], d))
    return tensor.permute(order)


NOTHING = [-1] * (2 + 2 * DIMENSIONS)  # in place of a form: no tensor crosses
