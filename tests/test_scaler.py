"""A gradient scaler in the step: exact where scaling is exact, and fp16 that learns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import localgrad
from localgrad import methods as M
from test_gradients import IMAGE_RULES, RULES

from zoo import batch, build

Found = dict[str, Tensor]


def gradients(learner: localgrad.LocalLearner, x: Tensor, y: Tensor, scaler: Any = None) -> Found:
    learner = copy.deepcopy(learner)
    torch.manual_seed(3)
    out = learner.step(x, y, scaler=scaler)
    if scaler is not None:
        scaler.unscale_(torch.optim.SGD(learner.parameters(), 0.1))
    found = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    return {**found, **{str(k): loss for k, loss in enumerate(out.losses)}}


@pytest.mark.parametrize("chain", ["residual", "dropout"])
@pytest.mark.parametrize("rule", [*RULES, *IMAGE_RULES], ids=str)
def test_a_power_of_two_changes_no_bit(rule: M.Method, chain: str) -> None:
    if rule in IMAGE_RULES and chain == "dropout":
        pytest.skip("InfoPro's decoder takes feature maps")
    x, y = batch(chain)
    x, model = x.float(), build(chain).float()
    learner = localgrad.decouple(model, rule, example_input=x)
    plain = gradients(learner, x, y)
    scaled = gradients(learner, x, y, torch.amp.GradScaler("cpu", init_scale=2.0**10))
    assert scaled.keys() == plain.keys()
    for name, value in plain.items():
        assert torch.equal(scaled[name], value), name


@pytest.mark.parametrize("rule", [M.BackLink(weight=0.5), M.Greedy()], ids=str)
def test_anything_with_scale_will_do_and_is_asked_for_each_loss(rule: M.Method) -> None:
    class Times:
        def __init__(self) -> None:
            self.seen: list[Tensor] = []

        def scale(self, loss: Tensor) -> Tensor:
            self.seen.append(loss.detach())
            return loss * 4.0

    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), rule, example_input=x)
    times = Times()
    out = learner.step(x, y, scaler=times)
    scaled = [p.grad.clone() for p in learner.parameters()]
    learner.zero_grad()
    learner.step(x, y)
    assert torch.equal(torch.stack(times.seen), torch.stack(out.losses))
    for p, g in zip(learner.parameters(), scaled, strict=True):
        assert torch.equal(4 * p.grad, g)


def test_the_audit_sees_the_same_reach() -> None:
    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), M.BackLink(), example_input=x)
    scaler = torch.amp.GradScaler("cpu")
    reach = localgrad.audit(lambda: learner.step(x, y, scaler=scaler), learner)
    assert reach.violations == []


HALF = [
    M.Backprop("unit"), M.Greedy(), M.BackLink(), M.BackLink(keep_error=False),
    M.BackLink(length=9, combine="replace"), M.AugLocal(2), M.PredSim(), M.DeepSupervision(),
]  # fmt: skip


def in_fp16(rule: M.Method, chain: str) -> tuple[Found, Found]:
    x, y = batch(chain)
    x = x.float()
    learner = localgrad.decouple(build(chain).float(), rule, example_input=x)
    plain = gradients(learner, x, y)
    with torch.autocast("cpu", torch.float16):
        half = gradients(learner, x, y, torch.amp.GradScaler("cpu", init_scale=2.0**8))
    assert half.keys() == plain.keys()
    assert all(value.dtype == torch.float32 for value in half.values())
    return plain, half


@pytest.mark.parametrize("rule", HALF, ids=str)
def test_fp16_approximates_fp32(rule: M.Method) -> None:
    """11 bits of mantissa, and a few dozen smooth operations."""
    for name, (a, b) in paired(*in_fp16(rule, "mlp")).items():
        assert float((a - b).norm()) < 0.02 * float(a.norm()), name


@pytest.mark.parametrize("rule", [*HALF, M.DGL(), M.InfoPro(mode="softmax")], ids=str)
def test_fp16_points_where_fp32_does(rule: M.Method) -> None:
    """With ReLU and batch norm over a few numbers, single gradients may jump."""
    pairs = paired(*in_fp16(rule, "residual")).values()
    a, b = (torch.cat([pair[k].flatten() for pair in pairs]) for k in (0, 1))
    assert float(nn.functional.cosine_similarity(a, b, dim=0)) > 0.99


def paired(first: Found, second: Found) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: (first[name], second[name]) for name in first}


class Small(nn.Module):
    """Losses small enough that fp16 alone loses their gradients."""

    def forward(self, scores: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores, y) * 2.0**-20


def test_scaling_keeps_what_fp16_would_lose() -> None:
    x, y = batch("mlp")
    x = x.float()
    learner = localgrad.decouple(build("mlp").float(), M.BackLink(), example_input=x, loss=Small())
    plain = gradients(learner, x, y)
    with torch.autocast("cpu", torch.float16):
        lost = gradients(learner, x, y)
        kept = gradients(learner, x, y, torch.amp.GradScaler("cpu", init_scale=2.0**20))
    name = "backbone.1.weight"
    assert float(plain[name].norm()) > 0
    assert float((lost[name] - plain[name]).norm()) > 0.5 * float(plain[name].norm())
    assert float((kept[name] - plain[name]).norm()) < 0.01 * float(plain[name].norm())


@pytest.mark.parametrize("rule", [M.BackLink(), M.Greedy(), M.AugLocal(1)], ids=str)
def test_an_overflow_skips_the_step_of_every_parameter(rule: M.Method) -> None:
    x, y = batch("residual")
    x = x.float()
    learner = localgrad.decouple(build("residual").float(), rule, example_input=x)
    optimizer = torch.optim.SGD(learner.parameters(), 0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    before = [p.detach().clone() for p in learner.parameters()]
    skipped = 0
    for _ in range(30):
        with torch.autocast("cpu", torch.float16):
            learner.step(x, y, scaler=scaler)
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if scaler.get_scale() == scale:
            break
        skipped += 1
        assert all(torch.equal(a, p) for a, p in zip(before, learner.parameters(), strict=True))
        assert not optimizer.state
    assert 0 < skipped < 30
    assert all(p in optimizer.state for p in learner.parameters())
    assert all(bool(p.isfinite().all()) for p in learner.parameters())


def test_nothing_waits_for_the_device() -> None:
    """The scale stays a tensor: under fake tensors, reading a number would fail."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), M.BackLink(), example_input=x)
    with FakeTensorMode(allow_non_fake_inputs=True):
        scaler = torch.amp.GradScaler("cpu")
        out = learner.step(torch.rand(x.shape, dtype=x.dtype), torch.zeros_like(y), scaler=scaler)
    assert len(out.losses) == 5
