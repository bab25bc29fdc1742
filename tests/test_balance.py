"""Balanced cuts against every other way to cut."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from localgrad import LocalgradError, losses, predict_memory
from localgrad import methods as M
from localgrad.balance import Balance, balanced
from localgrad.experiment.build import build
from localgrad.experiment.config import build_config
from localgrad.networks import gpt, resnet110
from localgrad.partition import smallest_maximum


@pytest.mark.parametrize("seed", range(8))
def test_the_partition_is_the_best_of_all(seed: int) -> None:
    chance = random.Random(seed)
    count = 9
    weights = [chance.randint(1, 9) for _ in range(count)]
    ends = [chance.randint(0, 9) for _ in range(count)]

    def cost(start: int, stop: int) -> float:
        return sum(weights[start:stop]) + ends[stop - 1]

    for runs, last in itertools.product(range(1, 6), (1, 3)):
        found = smallest_maximum(count, runs, cost, last)
        ways = [
            (*inner, count)
            for inner in itertools.combinations(range(1, count), runs - 1)
            if count - (inner[-1] if inner else 0) >= last
        ]

        def key(way: tuple[int, ...]) -> tuple[float, int]:
            spans = list(zip((0, *way[:-1]), way, strict=True))
            return max(cost(*span) for span in spans), sum((b - a) ** 2 for a, b in spans)

        assert key(found) == min(key(way) for way in ways)


class Residual(nn.Module):
    """A unit whose memory depends on its width and hidden width."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.widths = hidden, outputs
        self.first = nn.Conv2d(inputs, hidden, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.second = nn.Conv2d(hidden, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def like(self, inputs: int, stride: int) -> Residual:
        """Return a new one for another input, as AugLocal asks for."""
        return Residual(inputs, *self.widths, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.norm(self.first(x))))
        return torch.relu(y + self.skip(x))


def uneven() -> nn.Module:
    """Units of quite different sizes."""
    units = [
        Residual(3, 4, 8), Residual(8, 32, 8), Residual(8, 8, 16, 2), Residual(16, 40, 16),
        Residual(16, 16, 16, 2), Residual(16, 90, 8),
    ]  # fmt: skip
    return nn.Sequential(*units, nn.Flatten(), nn.Linear(8 * 16, 5))


RULES = [
    (M.Greedy(), 2), (M.Greedy(), 3), (M.BackLink(), 3), (M.AugLocal(1), 3),
    (M.BackLink(length=2, head="pool_linear", keep_error=False), 2), (M.BWBPF(), 2),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "blocks"), RULES, ids=str)
def test_memory_is_the_least_that_so_many_blocks_allow(rule: M.Method, blocks: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(16, 3, 16, 16)
    chain = localgrad.Chain.of(uneven())
    count = len(chain)

    def peak(**how: object) -> int:
        learner = localgrad.decouple(chain, rule, example_input=x, **how)  # type: ignore[arg-type]
        found = predict_memory(learner, x).activations
        learner.release()
        return found

    best = min(peak(cuts=list(c)) for c in itertools.combinations(range(count - 1), blocks - 1))
    found = peak(blocks=blocks, balance="memory")
    assert best <= found <= best + 1024  # scalars and statistics of norms
    assert found <= peak(blocks=blocks)


def test_what_was_seen_is_kept_for_the_next_question() -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 3, 16, 16)
    chain = localgrad.Chain.of(uneven())
    looks = Balance(chain, x, F.cross_entropy)
    for rule in (M.Greedy(), M.BackLink(), M.DGL(), M.Greedy()):
        for blocks in (2, 3, len(chain)):
            wanted = balanced(chain, rule, blocks, "memory", x, F.cross_entropy)
            assert looks.memory(rule, blocks) == wanted


def test_a_deep_network_is_cut_better_than_published_or_evenly() -> None:
    """The figures of docs/memory-and-speed.md."""
    x = torch.rand(2, 3, 32, 32)
    chain = localgrad.Chain.of(resnet110())
    even = [55 * (k + 1) // 16 - 1 for k in range(15)]

    def peak(rule: M.Method, **how: Any) -> int:
        learner = localgrad.decouple(chain, rule, example_input=x, **how)
        found = predict_memory(learner, x, batch=128).activations
        learner.release()
        return found

    whole = peak(M.Backprop())
    for rule, shares in (
        (M.Greedy(), [0.085, 0.116, 0.147]),
        (M.BackLink(head="pool_linear"), [0.139, 0.170, 0.201]),
    ):
        found = [
            peak(rule, blocks=16, balance="memory"), peak(rule, blocks=16), peak(rule, cuts=even)
        ]  # fmt: skip
        assert [round(size / whole, 3) for size in found] == shares


def test_time_is_shared_by_units_that_take_it() -> None:
    """One unit does far more work than all the others: it ends up alone."""
    layers = [nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(6)]
    heavy = nn.Sequential(nn.Linear(32, 2000), nn.Linear(2000, 2000), nn.Linear(2000, 32))
    model = nn.Sequential(*layers[:2], heavy, *layers[2:], nn.Linear(32, 4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.rand(64, 32)
    learner = localgrad.decouple(
        localgrad.Chain.of(model), "greedy", 3, example_input=x, balance="time"
    )
    assert [(b.start, b.stop) for b in learner.decoupling.blocks][1] == (3, 4)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(p.grad is None for p in model.parameters())


def test_a_language_model() -> None:
    torch.manual_seed(0)
    x = torch.randint(17, (2, 12))
    model = gpt(vocabulary=17, context=12, layers=5, width=16, heads=2)
    learner = localgrad.decouple(
        model, "backlink", 3, example_input=x, loss=losses.next_token, ties="first",
        balance="memory",
    )  # fmt: skip
    assert len(learner.decoupling) == 3
    learner.step(x, x)


def test_a_run_is_cut_so() -> None:
    tree = {"network": {"name": "resnet20"}, "method": {"name": "greedy"}, "blocks": 4,
            "balance": "memory", "data": {"limit": 64, "test_limit": 64}}  # fmt: skip
    experiment = build(build_config(tree))
    x = experiment.train.first()[0]
    wanted = balanced(
        experiment.learner.chain, experiment.method, 4, "memory", x[:2], experiment.loss
    )
    blocks = experiment.learner.decoupling.blocks
    assert tuple(block.stop for block in blocks) == wanted != (2, 5, 7, 10)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"balance": "flops", "blocks": 2}, "balance='flops' must be 'memory' or 'time'"),
        ({"balance": "memory"}, "give that, and no cuts="),
        ({"balance": "memory", "blocks": 2, "cuts": [1]}, "give that, and no cuts="),
        ({"balance": "memory", "blocks": 99}, "from 1 to 6, the number of units"),
        ({"balance": "memory", "blocks": 0}, "from 1 to 6, the number of units"),
    ],
)
def test_bad_input(how: dict[str, object], message: str) -> None:
    chain = localgrad.Chain.of(uneven())
    with pytest.raises(LocalgradError, match=message):
        localgrad.decouple(chain, example_input=torch.rand(2, 3, 16, 16), **how)  # type: ignore[arg-type]
    with pytest.raises(LocalgradError, match="give example_input=x"):
        localgrad.decouple(chain, blocks=2, balance="memory")
    localgrad.decouple(chain, blocks=2, example_input=torch.rand(2, 3, 16, 16))


def test_a_finished_decoupling_is_cut_already() -> None:
    x = torch.rand(2, 3, 16, 16)
    model = uneven()
    learner = localgrad.decouple(model, "greedy", 2, example_input=x, balance="memory")
    learner.release()
    with pytest.raises(LocalgradError, match="give neither blocks nor cuts"):
        localgrad.decouple(model, learner.decoupling, balance="memory", example_input=x)
