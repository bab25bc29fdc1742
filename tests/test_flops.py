"""FLOPs counted by hand, then what a step of each rule costs beside back-propagation."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import localgrad
from localgrad import measure_flops
from localgrad import methods as M
from localgrad.networks import resnet32, resnet110


def test_matrix_products_and_convolutions() -> None:
    a, b = torch.ones(2, 3), torch.ones(3, 5)
    assert measure_flops(lambda: a @ b) == 2 * 2 * 3 * 5
    x, w = torch.ones(2, 3, 8, 8), torch.ones(4, 3, 3, 3)
    assert measure_flops(lambda: F.conv2d(x, w, padding=1)) == 2 * (2 * 8 * 8 * 4) * (3 * 9)
    assert measure_flops(lambda: F.conv2d(x, w, stride=2)) == 2 * (2 * 3 * 3 * 4) * (3 * 9)
    assert measure_flops(lambda: x.relu() + 1) == 0


def test_backward_costs_twice_but_for_the_input() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.randn(5, 4), torch.randint(3, (5,))
    first, second = 2 * 5 * 4 * 6, 2 * 5 * 6 * 3
    assert measure_flops(lambda: model(x)) == first + second
    full = measure_flops(lambda: F.cross_entropy(model(x), y).backward())
    assert full == 2 * first + 3 * second


def convolution(channels: int, out: int, size: int, kernel: int = 3) -> int:
    """FLOPs of one image's convolution that gives a map ``size`` pixels wide."""
    return 2 * channels * out * kernel**2 * size**2


def resnet(blocks_per_stage: int) -> tuple[int, int, int]:
    """Return FLOPs of the stem, of the units after it, and of the classifier, for one image."""
    stem = convolution(3, 16, 32)
    units = blocks_per_stage * 2 * convolution(16, 16, 32)
    for width, size in ((32, 16), (64, 8)):
        units += convolution(width // 2, width, size) + convolution(width // 2, width, size, 1)
        units += (2 * blocks_per_stage - 1) * convolution(width, width, size)
    return stem, units, 2 * 64 * 10


@functools.cache
def flops(network: str, rule: M.Method, every_unit: bool = True) -> int:
    """Return FLOPs of a step an image.

    Every product that is counted has the batch size as a factor, so a batch of 2 tells that of 128.
    """
    model: nn.Module = {"resnet32": resnet32, "resnet110": resnet110}[network]()
    x, y = torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
    blocks = {"resnet32": 16, "resnet110": 55}[network] if every_unit else None
    learner = localgrad.decouple(model, rule, blocks=blocks, example_input=x)
    total = measure_flops(lambda: learner.step(x, y))
    assert total % 2 == 0
    return total // 2


def test_flops_are_proportional_to_the_batch() -> None:
    for size in (2, 3, 5):
        x, y = torch.zeros(size, 3, 32, 32), torch.zeros(size, dtype=torch.long)
        learner = localgrad.decouple(resnet32(), M.BackLink(), example_input=x)
        assert measure_flops(lambda: learner.step(x, y)) == size * flops("resnet32", M.BackLink())  # noqa: B023


@pytest.mark.parametrize(("network", "per_stage"), [("resnet32", 5), ("resnet110", 18)])
def test_step_counted_by_hand(network: str, per_stage: int) -> None:
    stem, units, classifier = resnet(per_stage)
    bp = flops(network, M.Backprop(), every_unit=False)
    assert bp == 2 * stem + 3 * units + 3 * classifier
    # checkpointing runs every unit's forward twice
    assert flops(network, M.Backprop("unit"), every_unit=False) == bp + stem + units
    # isolated units: no error at a unit's input, but inside a residual block one, from its second
    # convolution to its first; heads are linear layers, whose error at the pool is asked for
    inner = per_stage * sum(convolution(w, w, s) for w, s in ((16, 32), (32, 16), (64, 8)))
    heads = 2 * 10 * (16 * (1 + per_stage) + 32 * per_stage + 64 * (per_stage - 1))
    greedy = flops(network, M.Greedy())
    assert greedy == 2 * (stem + units) + inner + 3 * (heads + classifier)
    # a link asks every unit but the first for the error at its input, and twice for the error
    # inside every block that is also linked: once with the local error, once with both
    inputs = units - inner
    linked = inner - convolution(64, 64, 8)  # the last unit receives no link
    backlink = flops(network, M.BackLink(head="pool_linear"))
    assert backlink == greedy + inputs + linked


@pytest.mark.parametrize(
    ("network", "rule", "every_unit", "per_image", "bound"),
    [
        ("resnet32", M.Backprop(), False, 413_863_680, 1.0),
        ("resnet32", M.Backprop("unit"), False, 552_111_872, 1.34),
        ("resnet32", M.Greedy(), True, 347_309_824, 0.84),
        ("resnet32", M.BackLink(head="pool_linear"), True, 479_954_688, 1.17),
        ("resnet32", M.AugLocal(2), True, 985_911_808, 2.39),
        ("resnet110", M.Greedy(), True, 1_267_522_624, 0.84),
        ("resnet110", M.BackLink(head="pool_linear"), True, 1_768_217_664, 1.17),
    ],
    ids=str,
)
def test_cost_beside_backprop(
    network: str, rule: M.Method, every_unit: bool, per_image: int, bound: float
) -> None:
    assert flops(network, rule, every_unit) == per_image
    assert per_image <= bound * flops(network, M.Backprop(), every_unit=False)
