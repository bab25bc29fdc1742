"""Local losses against slow loops, and against differences in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from localgrad import Decoupling, LocalgradError, Part
from localgrad import methods as M
from localgrad.losses import (
    Goal,
    HeadOutput,
    InfoProLoss,
    PredSimLoss,
    Task,
    build,
    logits_of,
    similarity_matrix,
    supervised_contrast,
)
from localgrad.methods.blocks import local_blocks
from localgrad.networks import resnet_cifar


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_similarity(features: Tensor) -> Tensor:
    rows = []
    for sample in features:
        if sample.dim() == 3 and sample.shape[0] > 3 and sample[0].numel() > 1:
            values = []
            for channel in sample:
                flat = [float(v) for v in channel.flatten()]
                mean = sum(flat) / len(flat)
                values.append(math.sqrt(sum((v - mean) ** 2 for v in flat) / (len(flat) - 1)))
        else:
            values = [float(v) for v in sample.flatten()]
        mean = sum(values) / len(values)
        values = [v - mean for v in values]
        norm = 1e-8 + math.sqrt(sum(v * v for v in values))
        rows.append([v / norm for v in values])
    entries = [
        [min(1.0, max(-1.0, sum(p * q for p, q in zip(a, b, strict=True)))) for b in rows]
        for a in rows
    ]
    return torch.tensor(entries, dtype=torch.float64)


@pytest.mark.parametrize(
    "shape", [(5, 6, 4, 4), (5, 6, 1, 3), (5, 6, 1, 1), (5, 3, 2, 2), (5, 1, 2, 2), (4, 7), (1, 7)]
)
def test_similarity_matrix(shape: tuple[int, ...]) -> None:
    x = randn(*shape)
    x[-1] = -x[0]  # as far apart as rows of values can be
    torch.testing.assert_close(similarity_matrix(x), slow_similarity(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5, 2, 3), (3, 4)])
def test_similarity_gradient(shape: tuple[int, ...]) -> None:
    x = randn(*shape).requires_grad_()
    # the diagonal is clamped at 1: its gradient is zero from one side only
    above = torch.triu(torch.ones(3, 3, dtype=torch.bool), diagonal=1)
    assert torch.autograd.gradcheck(lambda x: similarity_matrix(x)[above], (x,))


@pytest.mark.parametrize("shape", [(3, 5), (3, 1), (3, 5, 2, 2), (3, 1, 1, 1)])
def test_similarity_of_rows_without_contrast_has_a_finite_gradient(shape: tuple[int, ...]) -> None:
    """Dead features, or a single one, once made NaN of the block's weights."""
    x = randn(*shape)
    x[1] = 0.0
    x.requires_grad_()
    target = similarity_matrix(torch.eye(3, dtype=torch.float64))
    F.mse_loss(similarity_matrix(x), target).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_predsim_loss() -> None:
    x, logits, y = randn(4, 5, 3, 3), randn(4, 3, seed=1), torch.tensor([0, 2, 2, 1])
    onehot = torch.eye(3, dtype=torch.float64)[y]
    a, b = slow_similarity(x), slow_similarity(onehot)
    similar = sum(float((a[i, j] - b[i, j]) ** 2) for i in range(4) for j in range(4)) / 16
    task = sum(-math.log(float(logits[i].softmax(0)[y[i]])) for i in range(4)) / 4
    for beta in (0.0, 0.01, 1.0):
        loss = PredSimLoss(Goal(F.cross_entropy, 3), beta)(HeadOutput(logits, x), y, x)
        assert float(loss) == pytest.approx((1 - beta) * similar + beta * task, rel=1e-9)


def slow_contrast(features: Tensor, target: Tensor, temperature: float) -> float:
    n = len(target)
    z = [[float(v) / float(row.norm()) for v in row] for row in features]
    total = 0.0
    for i in range(n):
        scores = {
            j: sum(a * b for a, b in zip(z[i], z[j], strict=True)) / temperature
            for j in range(n)
            if j != i
        }
        positives = [j for j in scores if target[j] == target[i]]
        if positives:
            log_sum = math.log(sum(math.exp(s) for s in scores.values()))
            total -= sum(scores[j] - log_sum for j in positives) / len(positives)
    return total / n


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize(
    "labels", [[0, 0, 1, 1, 1, 2], [0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0], [3, 1, 1, 4, 5, 6], [0]]
)
def test_supervised_contrast(labels: list[int], temperature: float) -> None:
    x, y = randn(len(labels), 8), torch.tensor(labels)
    loss = supervised_contrast(x, y, temperature)
    assert float(loss) == pytest.approx(slow_contrast(x, y, temperature), rel=1e-9, abs=1e-15)


def test_supervised_contrast_gradient() -> None:
    y = torch.tensor([0, 1, 0, 2])
    x = randn(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: supervised_contrast(x, y, 0.5), (x,))


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]])
def test_supervised_contrast_without_positives_is_zero(labels: list[int]) -> None:
    x = randn(len(labels), 4).requires_grad_()
    loss = supervised_contrast(x, torch.tensor(labels))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert x.grad is not None
    assert float(x.grad.abs().max()) == 0.0


MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def test_infopro_loss_reconstructs_the_image_before_normalisation() -> None:
    pixels = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    image = torch.stack([(pixels[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    decoded = randn(2, 3, 4, 4).sigmoid()
    features, y = randn(2, 8, seed=2), torch.tensor([1, 1])
    logits = randn(2, 3, seed=3)
    bce = -(pixels * decoded.log() + (1 - pixels) * (1 - decoded).log()).mean()
    contrast = slow_contrast(features, y, 0.07)

    loss = InfoProLoss(Goal(F.cross_entropy), 0.5, 2.0, MEAN, STD)
    torch.testing.assert_close(loss.pixels(image), pixels)
    both = loss(HeadOutput(features=features, image=decoded), y, image)
    assert float(both) == pytest.approx(0.5 * float(bce) + 2.0 * contrast, rel=1e-9)
    softmax = loss(HeadOutput(logits=logits, image=decoded), y, image)
    task = float(F.cross_entropy(logits, y))
    assert float(softmax) == pytest.approx(0.5 * float(bce) + 2.0 * task, rel=1e-9)
    assert float(loss(HeadOutput(image=decoded), y, image)) == pytest.approx(0.5 * float(bce))
    assert float(loss(HeadOutput(features=features), y, image)) == pytest.approx(2.0 * contrast)


def test_infopro_check() -> None:
    loss = InfoProLoss(Goal(F.cross_entropy), 1.0, 1.0, MEAN, STD)
    black = torch.stack([torch.full((4, 4), -m / s) for m, s in zip(MEAN, STD, strict=True)])
    white = torch.stack([torch.full((4, 4), (1 - m) / s) for m, s in zip(MEAN, STD, strict=True)])
    loss.check(torch.stack([black, white]))
    with pytest.raises(
        LocalgradError, match=r"range from -2\.10 to -1\.40: give InfoPro the mean= and"
    ):
        loss.check(torch.full((1, 3, 4, 4), -9.0))
    with pytest.raises(LocalgradError, match="must have 4 values, one a channel"):
        loss.check(torch.zeros(1, 4, 2, 2))
    without = InfoProLoss(Goal(F.cross_entropy), 0.0, 1.0, (0.0,), (1.0,))
    without.check(torch.full((1, 3, 4, 4), -9.0))


def test_infopro_refuses_images_that_are_not_normalised_as_it_was_told() -> None:
    x = torch.rand(4, 3, 8, 8) * 4 - 2
    with pytest.raises(LocalgradError, match="InfoPro reconstructs images"):
        localgrad.decouple(resnet_cifar(14, width=4), M.InfoPro(), blocks=2, example_input=x)
    told = M.InfoPro(mean=(0.5,), std=(0.25,))
    localgrad.decouple(resnet_cifar(14, width=4), told, blocks=2, example_input=x)


def test_task_takes_logits_from_either_kind_of_head() -> None:
    logits, y = randn(4, 3), torch.tensor([0, 1, 2, 0])
    task = Task(Goal(F.cross_entropy))
    expected = F.cross_entropy(logits, y)
    assert torch.equal(task(logits, y, logits), expected)
    assert torch.equal(task(HeadOutput(logits=logits), y, logits), expected)
    assert logits_of(HeadOutput(features=logits)) is None


def per_class(goal: Goal, strength: float) -> Any:
    """A loss of one's own: the task's, less when there are more classes."""
    return lambda output, target, image: strength * goal.loss(output, target) / goal.classes


def nothing(goal: Goal) -> None:
    """A builder that forgets to return its loss."""


class PerClass:
    """A rule with it."""

    name = "per_class"

    def __call__(self, chain: localgrad.Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        head, loss = Part("pool_linear"), Part.of(per_class, strength=3.0)
        blocks = local_blocks(cuts or (), lambda _: head, lambda _: loss)
        return Decoupling(self.name, chain.names, blocks)


def test_a_loss_of_ones_own_knows_the_task_and_the_classes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    x, y = torch.randn(6, 4), torch.randn(6, 2)
    learner = localgrad.decouple(model, PerClass(), blocks=2, example_input=x, loss=F.mse_loss)
    out = learner.step(x, y)
    expected = 3.0 * F.mse_loss(learner.exits(x)[0], y) / 2
    assert torch.equal(out.losses[0], expected.detach())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part("tsk"), "unknown loss 'tsk': use one of task, predsim, infopro, or package.module:"),
        (Part("nowhere_at_all:f"), "loss 'nowhere_at_all:f' cannot be imported"),
        (Part("predsim"), "loss predsim: .*missing 1 required positional argument: 'beta'"),
        (Part.of(per_class), "per_class: .*missing 1 required positional argument: 'strength'"),
        (Part.of(nothing), "nothing is a NoneType: a builder makes a loss"),
        (Part("task", {"x": 1}), r"loss task\(x=1\): .*unexpected keyword argument 'x'"),
    ],
    ids=str,
)
def test_losses_that_cannot_be_built(part: Part, message: str) -> None:
    with pytest.raises(LocalgradError, match=message):
        build(part, Goal(F.cross_entropy, 3))


def test_the_task_loss_is_the_users() -> None:
    """Regression with mean squared error: every block and the network itself use it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    x, y = torch.randn(6, 4), torch.randn(6, 2)
    learner = localgrad.decouple(model, "greedy", example_input=x, loss=F.mse_loss)
    out = learner.step(x, y)
    assert torch.equal(out.losses[-1], F.mse_loss(model(x), y).detach())
    assert torch.equal(out.losses[0], F.mse_loss(learner.exits(x)[0], y).detach())


def test_infopro_without_reconstruction_is_greedy_with_its_head() -> None:
    x, y = torch.rand(6, 3, 16, 16), torch.randint(10, (6,))
    found = []
    for rule in (
        M.InfoPro("softmax", first=(0, 1), last=(0, 1)),
        M.Greedy(head="conv_mlp"),
    ):
        torch.manual_seed(0)
        learner = localgrad.decouple(resnet_cifar(8, width=4), rule, example_input=x)
        out = learner.step(x, y)
        found.append([*out.losses, *(parameter.grad for parameter in learner.parameters())])
    assert len(found[0]) == len(found[1])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
