"""Similarity, probes and agreement of gradients, each against a slow definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from localgrad import methods as M
from localgrad.analysis.agreement import agreement
from localgrad.analysis.cka import Alignment, grams
from localgrad.analysis.exits import exit_flops, saving
from localgrad.analysis.features import pooled, unit_outputs
from localgrad.analysis.probes import probe
from localgrad.errors import LocalgradError
from localgrad.networks import resnet20


def slow_hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741
    """The U-statistic over all quadruples of different inputs."""
    n, total, count = len(k), 0.0, 0
    for i, j, q, r in itertools.permutations(range(n), 4):
        total += float(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]))
        count += 1
    return total / count


def test_alignment_is_the_mean_of_unbiased_estimates() -> None:
    torch.manual_seed(0)
    batches = [
        [torch.randn(6, *shape).double() for shape in ((4,), (2, 3), (5,))] for _ in range(3)
    ]
    alignment = Alignment()
    for a, b, c in batches:
        alignment.add(grams([a, b]), grams([b, c]))
    products = [[f.flatten(1) @ f.flatten(1).T for f in batch] for batch in batches]

    def mean(i: int, j: int) -> float:
        return sum(slow_hsic(g[i], g[j]) for g in products) / len(products)

    found = alignment.result()
    for row, i in enumerate((0, 1)):
        for column, j in enumerate((1, 2)):
            wanted = mean(i, j) / (mean(i, i) * mean(j, j)) ** 0.5
            assert found[row, column].item() == pytest.approx(wanted, rel=1e-10)


def test_alignment_does_not_see_rotation_scale_or_shift() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 8).double()
    turned = 5 * x @ torch.linalg.qr(torch.randn(8, 8).double())[0] + 3
    other = torch.randn(64, 8).double()
    alignment = Alignment()
    alignment.add(grams([x]), grams([turned, other]))
    same, different = alignment.result()[0].tolist()
    assert same == pytest.approx(1, abs=1e-9)
    assert abs(different) < 0.2


@pytest.mark.parametrize(("first", "second"), [(3, 3), (8, 9)])
def test_alignment_refuses_batches(first: int, second: int) -> None:
    with pytest.raises(LocalgradError, match="the same 4 or more"):
        Alignment().add(grams([torch.randn(first, 2)]), grams([torch.randn(second, 2)]))
    with pytest.raises(LocalgradError, match="no batch"):
        Alignment().result()


def test_unit_outputs_are_those_of_the_forward_pass() -> None:
    torch.manual_seed(0)
    model = resnet20(width=4).eval()
    chain, x = localgrad.Chain.of(model), torch.rand(2, 3, 32, 32)
    outputs = list(unit_outputs(chain, x))
    assert len(outputs) == len(chain)
    assert torch.equal(chain.tail(outputs[-1]), model(x))
    assert pooled(outputs[0]).shape == (2, 4 * 4)
    assert torch.allclose(pooled(outputs[0], side=1), outputs[0].mean(dim=(2, 3)))


def test_a_probe_is_logistic_regression() -> None:
    torch.manual_seed(0)
    y = torch.randint(3, (120,))
    x = torch.randn(120, 4) + torch.eye(3, 4)[y]
    penalty = 0.01
    found = probe((x, y), (x[:30], y[:30]), 3, penalty, iterations=500)
    scaled = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    # its penalty is on the sum of the losses
    wanted = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=5000)
    wanted.fit(scaled, y.numpy())
    assert np.allclose(found.weight.numpy(), wanted.coef_, atol=1e-4)
    assert found.train_accuracy == pytest.approx(wanted.score(scaled, y.numpy()))
    assert found.test_accuracy == pytest.approx(wanted.score(scaled[:30], y[:30].numpy()))


def test_a_probe_takes_constant_features_and_refuses_infinite_ones() -> None:
    x, y = torch.zeros(6, 2), torch.tensor([0, 0, 0, 0, 1, 1])
    assert probe((x, y), (x, y), 2).test_accuracy == pytest.approx(4 / 6)
    with pytest.raises(LocalgradError, match="finite"):
        probe((x / 0, y), (x, y), 2)


def small(method: M.Method, blocks: int) -> localgrad.LocalLearner:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(),
        nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3),
    ).double()  # fmt: skip
    x = torch.randn(2, 6).double()
    return localgrad.decouple(model, method, blocks=blocks, example_input=x)


def test_agreement_by_hand() -> None:
    learner = small(M.Greedy(), 3)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    x, y = torch.randn(16, 6).double(), torch.randint(3, (16,))
    found = agreement(learner, x, y)
    assert [one.unit for one in found] == [*learner.chain.names, "tail"]
    assert all(torch.equal(before[k], v) for k, v in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())
    learner.step(x, y)
    local = [p.grad.clone() for p in learner.backbone[3].parameters()]
    learner.zero_grad()
    F.cross_entropy(learner.backbone(x), y).backward()
    whole = [p.grad for p in learner.backbone[3].parameters()]
    a, b = (torch.cat([g.flatten() for g in each]) for each in (local, whole))
    assert found[1].cosine == pytest.approx(float(F.cosine_similarity(a, b, dim=0)), rel=1e-12)
    assert found[1].ratio == pytest.approx(float(a.norm() / b.norm()), rel=1e-12)
    assert found[1].cosine < 0.999
    # the last block's loss is BP's own, and its input is the same
    assert found[-1].cosine == pytest.approx(1, abs=1e-12)
    assert found[-1].ratio == pytest.approx(1, abs=1e-12)


def test_agreement_of_back_propagation_is_whole() -> None:
    learner = small(M.Backprop(), 1)
    x, y = torch.randn(16, 6).double(), torch.randint(3, (16,))
    assert all(one.cosine == pytest.approx(1, abs=1e-12) for one in agreement(learner, x, y))


def test_agreement_of_frozen_units_is_none_and_gradients_are_not_lost() -> None:
    learner = small(M.Greedy(), 3)
    for parameter in learner.backbone[0].parameters():
        parameter.requires_grad_(False)
    for parameter in learner.backbone[1].parameters():
        parameter.requires_grad_(False)
    x, y = torch.randn(16, 6).double(), torch.randint(3, (16,))
    assert agreement(learner, x, y)[0].cosine is None
    learner.step(x, y)
    with pytest.raises(LocalgradError, match="which comparing would lose"):
        agreement(learner, x, y)


def test_exit_flops_are_those_of_the_units_and_one_head() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 32, 32)
    learner = localgrad.decouple(
        resnet20(width=4), M.BackLink(head="pool_linear"), blocks=4, example_input=x
    )
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    found = exit_flops(learner, x)
    assert all(torch.equal(before[k], v) for k, v in learner.state_dict().items())
    assert found[-1] == localgrad.measure_flops(lambda: learner.backbone(x)) // 2
    stop = learner.decoupling.blocks[1].stop

    def second() -> None:
        border = x
        for unit in learner.chain.units[:stop]:
            border = unit(border)
        learner.heads[1](border)

    assert found[1] == localgrad.measure_flops(second) // 2


def test_an_exit_that_saves() -> None:
    assert saving([0.2, 0.9], [1, 10]) == (1, 0.9, 1.0)
    assert saving([0.89, 0.9], [1, 10], points=0.02) == (0, 0.89, 0.1)
