"""A step never waits for the device: no number goes from it to the host, no list the other way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import localgrad
from localgrad import methods as M
from localgrad.networks import gpt
from test_gradients import IMAGE_RULES, RULES

from zoo import batch, build

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense,  # item(), bool(), float()
    aten.nonzero,
    aten.is_nonzero,
    aten.equal,
    aten.masked_select,
    aten.unique_dim,
    aten._unique2,
    aten.repeat_interleave,
    aten.lift_fresh,  # torch.tensor([..]) and new_tensor([..]): a copy from the host's memory
}


class Waits(TorchDispatchMode):
    """Notes every operation that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if func.overloadpacket in (aten.index, aten.index_put) else ()
        masks = [i for i in tree_leaves(indices) if isinstance(i, Tensor)]
        if func.overloadpacket in WAITS or any(i.dtype == torch.bool for i in masks):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: x.new_tensor([1.0]),
        lambda x: F.one_hot(x.long(), 4),
    ],
)
def test_what_waits_is_found(run: Any) -> None:
    with Waits() as waits:
        run(torch.arange(4.0))
    assert waits.found


@pytest.mark.parametrize("rule", [*RULES, *IMAGE_RULES], ids=str)
@pytest.mark.parametrize("chain", ["dropout", "network"])
def test_a_step_never_waits(chain: str, rule: M.Method) -> None:
    if chain == "dropout" and rule in IMAGE_RULES:
        pytest.skip("InfoPro decodes images from maps")
    x, y = batch(chain)
    learner = localgrad.decouple(build(chain), rule, example_input=x)
    learner.step(x, y)
    with Waits() as waits:
        learner.step(x, y)
    assert not waits.found


@pytest.mark.filterwarnings("ignore")  # the package's own
def test_a_step_on_text_never_waits() -> None:
    pytest.importorskip("transformers")
    model = gpt(vocabulary=11, context=8, layers=2, width=8, heads=2)
    x = torch.randint(11, (4, 8))
    learner = localgrad.decouple(
        model, M.BackLink(), ties="first", example_input=x, loss=localgrad.losses.next_token
    )
    learner.step(x, x)
    with Waits() as waits:
        learner.step(x, x)
    assert not waits.found
