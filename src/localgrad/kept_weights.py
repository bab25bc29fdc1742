"""Weights that a graph keeps as they were in its forward, whatever happens to them since.

Autograd saves a weight by reference and refuses a backward after an update in place. A segment
whose link comes one step late is walked back through after that update, and its gradient is that
of the weights that its activations came from. So each weight that the segment saves is copied once
("weight stashing": PipeDream, Narayanan et al., SOSP 2019, arXiv 1806.03377, section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from localgrad.errors import LocalgradError


def keeping(weights: Iterable[Tensor]) -> saved_tensors_hooks:
    """Return a context: what a graph made in it saves of ``weights`` is a copy.

    Costs the memory of those weights for as long as the graph lives, and no arithmetic. Under
    autocast most are cast, and then the cast ones are saved, which no update touches.

    Raises:
        LocalgradError: during backward, where another tensor that the graph saved was changed in
            place since.

    >>> import torch
    >>> w, x = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    >>> with keeping([w]):
    ...     loss = (w * x).sum()
    >>> with torch.no_grad():
    ...     _ = w.mul_(5)
    >>> loss.backward()
    >>> x.grad
    tensor([1., 1.])
    """
    moving = {weight.untyped_storage().data_ptr() for weight in weights}
    copies: dict[tuple[Any, ...], Tensor] = {}

    def pack(saved: Tensor) -> tuple[Tensor, int]:
        place = saved.untyped_storage().data_ptr()
        if place not in moving:
            return saved, saved._version
        key = (place, saved.storage_offset(), saved.shape, saved.stride(), saved.dtype)
        if key not in copies:
            copies[key] = saved.detach().clone()
        return copies[key], 0

    def unpack(kept: tuple[Tensor, int]) -> Tensor:
        saved, version = kept
        if saved._version != version:
            raise LocalgradError(
                f"a tensor of shape {tuple(saved.shape)} that a late link needs was changed in "
                "place after its forward: build the model with inplace=False there"
            )
        return saved

    return saved_tensors_hooks(pack, unpack)
