"""The byte counter on cases that can be counted by hand, then the peaks that are promised."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import foreign
import localgrad
from localgrad import measure_memory
from localgrad import methods as M
from localgrad.live_storages import LiveStorages
from localgrad.memory import Memory
from localgrad.networks import resnet32, resnet110
from test_gradients import RULES

from zoo import batch, build

KIB = 1024


def kib(n: int = 1) -> Tensor:
    return torch.ones(n * KIB // 4)


def peak(fn: Callable[[], Any]) -> int:
    memory = measure_memory(fn)
    assert memory.total == memory.activations
    assert memory.parameters == memory.gradients == memory.optimizer == 0
    return memory.activations


OLD = kib(8)


def one_after_the_other() -> None:
    for _ in range(3):
        OLD * 2


def views() -> Any:
    a = OLD * 2
    return a.view(2, -1).t(), a[5:], a.expand(3, -1), a.detach(), OLD.view(-1, 2)


def in_place() -> None:
    OLD.add_(1).sub_(1)
    a = OLD * 2
    a.relu_().add_(OLD)
    a[:7] = 1


def freed_by_hand() -> None:
    a = kib(3)
    b = a * 2
    del a
    c = torch.cat([b, b])
    del b
    c * 2


def written_to_an_argument() -> None:
    out = kib(8)
    torch.mul(OLD, 2, out=out)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda: OLD * 2, 8),
        (lambda: (OLD * 2) * 3, 16),  # a product and, for a moment, what it is made from
        (lambda: ((OLD * 2) * 3) * 4, 16),
        (lambda: [OLD * 2, OLD * 3, OLD * 4], 24),
        (lambda: OLD.view(-1, 4), 0),
        (lambda: None, 0),
        (lambda: kib(5), 5),
        (lambda: OLD.chunk(4), 0),
        (lambda: OLD.double(), 16),
        (lambda: OLD > 0, 2),
        (lambda: torch.stack([OLD, OLD]).max(0).values, 16 + 8 + 16),  # values and int64 indices
        (one_after_the_other, 8),
        (views, 8),
        (in_place, 8),
        (freed_by_hand, 12),
        (written_to_an_argument, 8),
    ],
)
def test_counted_by_hand(fn: Callable[[], Any], expected: int) -> None:
    assert peak(fn) == expected * KIB


def test_the_same_storage_is_counted_once_whichever_way_it_comes() -> None:
    def fn() -> None:
        a = kib(2)
        held = [a.view(4, -1), a.t(), nn.Parameter(a), a.data]
        b = held[0] + 1  # the same bytes again as an argument
        del a, held
        b + 1

    assert peak(fn) == 4 * KIB


def test_what_autograd_saves_is_counted_while_it_is_saved() -> None:
    x = kib(4).requires_grad_()

    def fn() -> None:
        y = x.exp()  # kept for its own backward
        z = y.exp()
        del y
        del z

    assert peak(fn) == 8 * KIB
    with torch.no_grad():
        assert peak(lambda: x.exp().exp()) == 8 * KIB
        assert peak(lambda: x.exp().exp().exp()) == 8 * KIB
    assert peak(lambda: x.exp().exp().exp()) == 12 * KIB


def test_gradients_and_state_are_told_apart() -> None:
    model = nn.Linear(256, 4, bias=False)  # 4 KiB
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def make_gradient() -> None:
        model.weight.grad = torch.ones_like(model.weight)

    first = measure_memory(make_gradient, model, optimizer)
    assert first == Memory(0, 4 * KIB, 4 * KIB, 0, total=8 * KIB)
    step = measure_memory(optimizer.step, model, optimizer)
    assert step == Memory(0, 4 * KIB, 4 * KIB, 4 * KIB, total=12 * KIB)
    again = measure_memory(optimizer.step, model, optimizer)  # all of it was there before
    assert again == step
    assert step.to_dict()["total"] == 12 * KIB
    assert str(step) == (
        "activations 0.00 MiB, parameters 0.00 MiB, gradients 0.00 MiB, optimizer 0.00 MiB, "
        "total 0.01 MiB"
    )


def test_gradients_that_are_freed_on_the_way_make_room() -> None:
    model = nn.Linear(256, 4, bias=False)
    model.weight.grad = torch.ones_like(model.weight)

    def replace() -> None:
        model.weight.grad = None
        model.weight.grad = torch.ones_like(model.weight)

    assert measure_memory(replace, model) == Memory(0, 4 * KIB, 4 * KIB, 0, total=8 * KIB)

    def free() -> None:
        model.weight.grad = None

    assert measure_memory(free, model) == Memory(0, 4 * KIB, 0, 0, total=8 * KIB)


def test_tied_parameters_count_once() -> None:
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
    model[1].weight = model[0].weight
    assert measure_memory(lambda: None, model).parameters == KIB


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_step_leaves_nothing_behind_but_gradients(rule: M.Method) -> None:
    x, y = batch("residual")
    learner = localgrad.decouple(build("residual"), rule, example_input=x)
    with LiveStorages() as counter:
        learner.step(x, y)
    alive = sum(counter.bytes[n] for n in counter.known.values() if n is not None)
    assert alive == sum(p.grad.nbytes for p in learner.parameters() if p.grad is not None)


# --- the promised peaks
#
# The peak of a step is a sum of tensors that are each so many bytes an image, and of a few
# (batch-norm statistics, scalars) that no batch size changes: it is a line in the batch size, as
# long as it falls on the same moment of the step. Two small batches give the line; its slope is
# exact. test_the_peak_is_a_line_in_the_batch_size holds it against a real batch of 128.

SETUPS: dict[str, tuple[M.Method, bool]] = {  # rule, one block a unit
    "bp": (M.Backprop(), False),
    "checkpoint": (M.Backprop("unit"), False),
    "sqrt": (M.Backprop("sqrt"), False),
    "greedy": (M.Greedy(), True),
    "backlink": (M.BackLink(head="pool_linear"), True),
    "backlink, asks again": (M.BackLink(head="pool_linear", keep_error=False), True),
    "auglocal": (M.AugLocal(2), True),
}
MAP = 16 * 32 * 32 * 4  # bytes of a feature map of the first stage


@functools.cache
def activations(network: str, setup: str, size: int, channels_last: bool) -> int:
    torch.manual_seed(0)
    model: nn.Module = {"resnet32": resnet32, "resnet110": resnet110}[network]()
    x, y = torch.randn(size, 3, 32, 32), torch.randint(10, (size,))
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    rule, every_unit = SETUPS[setup]
    blocks = {"resnet32": 16, "resnet110": 55}[network] if every_unit else None
    learner = localgrad.decouple(model, rule, blocks=blocks, example_input=x)
    return measure_memory(lambda: learner.step(x, y), learner).activations


def line(network: str, setup: str, channels_last: bool = False) -> tuple[int, int]:
    """Return bytes an image, and bytes that no batch size changes."""
    two, four = (activations(network, setup, size, channels_last) for size in (2, 4))
    slope = (four - two) // 2
    return slope, two - 2 * slope


def at_128(network: str, setup: str, channels_last: bool = False) -> int:
    slope, rest = line(network, setup, channels_last)
    return 128 * slope + rest


@pytest.mark.parametrize("setup", ["bp", "greedy", "backlink"])
def test_the_peak_is_a_line_in_the_batch_size(setup: str) -> None:
    assert activations("resnet32", setup, 128, True) == at_128("resnet32", setup, True)


@pytest.mark.parametrize(
    ("network", "setup", "per_image", "bound"),
    [
        ("resnet32", "bp", 2_506_792, 1.0),
        ("resnet32", "checkpoint", 737_320, 0.31),
        ("resnet32", "sqrt", 1_065_000, 0.44),
        ("resnet32", "greedy", 7 * MAP, 0.20),
        ("resnet32", "backlink", 14 * MAP, 0.38),
        ("resnet32", "backlink, asks again", 13 * MAP + 208, 0.35),
        ("resnet32", "auglocal", 606_208, 0.30),
        ("resnet110", "bp", 8_470_568, 1.0),
        ("resnet110", "greedy", 7 * MAP, 0.07),
        ("resnet110", "backlink", 14 * MAP, 0.11),
        ("resnet110", "auglocal", 606_208, 0.14),
    ],
)
def test_peak_activations(network: str, setup: str, per_image: int, bound: float) -> None:
    slope, rest = line(network, setup)
    assert slope == per_image
    assert 0 <= rest < 64 * KIB
    assert at_128(network, setup) <= bound * at_128(network, "bp")


@pytest.mark.parametrize("setup", SETUPS)
def test_the_layout_makes_no_difference(setup: str) -> None:
    for size in (2, 4):
        contiguous = activations("resnet32", setup, size, False)
        assert activations("resnet32", setup, size, True) == contiguous


FAKE: dict[str, Callable[[], nn.Module]] = {
    "resnet": foreign.small_resnet,
    "vit": foreign.small_vit,
    "convnext": lambda: foreign.timm("convnext_atto"),
    "skips": foreign.Skips,
}


@pytest.mark.filterwarnings("ignore")  # timm's own
@pytest.mark.parametrize("method", [M.Backprop(), M.Greedy(), M.BackLink(), M.AugLocal(1)], ids=str)
@pytest.mark.parametrize("name", FAKE)
def test_fake_tensors_take_as_many_bytes(name: str, method: M.Method) -> None:
    """What is counted where no number is computed is what real tensors take."""
    torch.manual_seed(0)
    model = FAKE[name]()
    if name == "skips":
        model.eval()  # a fake dropout's mask has another size
    x = torch.rand(4, *((3, 8, 8) if name == "skips" else foreign.IMAGES))
    blocks = None if isinstance(method, M.Backprop) else 3
    learner = localgrad.decouple(model, method, blocks=blocks, example_input=x[:2])
    found = []
    for mode in (contextlib.nullcontext(), FakeTensorMode(allow_non_fake_inputs=True)):
        with mode:
            inputs, y = torch.rand(x.shape), torch.zeros(4, dtype=torch.long)
            found.append(measure_memory(lambda: learner.step(inputs, y), learner))  # noqa: B023
            learner.zero_grad()
            found[-1] = (found[-1], localgrad.measure_flops(lambda: learner.step(inputs, y)))  # noqa: B023
            learner.zero_grad()
    assert found[0] == found[1]
