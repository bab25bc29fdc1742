"""Nothing is copied at a border: a step's only large copies are those of its pools' backward."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import localgrad
from localgrad import methods as M
from localgrad.networks import resnet32

COPIES = {"aten.clone.default", "aten._to_copy.default", "aten.copy_.default"}


class Copied(TorchDispatchMode):
    """Counts copies of tensors of 256 numbers and more."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.numel() >= 256 and str(func) in COPIES:
            self.found[str(func)] += 1
        return out


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("rule", "pools"),
    [
        (M.Backprop(), 1),
        (M.Greedy(), 16),
        (M.BackLink(), 16),
        (M.BackLink(combine="replace", weight=0.5), 16),
        (M.BackLink(length_unit="layer"), 16),
        (M.BackLink(keep_error=False), 16 + 15),  # every head is walked back through twice
        (M.AugLocal(2), 14),
    ],
    ids=str,
)
def test_no_copy_but_of_the_pools(rule: M.Method, pools: int, channels_last: bool) -> None:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = resnet32().to(memory_format=layout)
    x = torch.rand(4, 3, 32, 32).contiguous(memory_format=layout)
    learner = localgrad.decouple(
        model, rule, blocks=None if isinstance(rule, M.Backprop) else 16, example_input=x
    )
    with Copied() as copied:
        learner.step(x, torch.randint(10, (4,)))
    assert copied.found == {"aten.clone.default": pools}
