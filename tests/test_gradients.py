"""Every rule's gradients against the oracle: float64, relative 1e-9, and None outside the reach."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import localgrad
from localgrad import methods as M

from oracle import oracle_gradients
from zoo import CHAINS, batch, build

IMAGE_RULES = [
    M.InfoPro(first=(1, 0.5), last=(0.5, 1)),
    M.InfoPro(mode="softmax", first=(1, 0), last=(0, 1)),
]
RULES = [
    M.Backprop(),
    M.Backprop(checkpoint="unit"),
    M.Backprop(checkpoint="sqrt"),
    M.Greedy(),
    M.Greedy(head="conv_mlp"),
    M.DGL(),
    M.PredSim(),
    M.AugLocal(depth=1),
    M.AugLocal(depth=2),
    M.BWBPF(),
    M.DeepSupervision(),
    M.BackLink(),
    M.BackLink(length=0),
    M.BackLink(length=2, weight=0.5, head="pool_linear"),
    M.BackLink(length=9, head="pool_linear", keep_error=False),
    M.BackLink(combine="replace", weight=0.7),
    M.BackLink(length=9, combine="replace"),
    M.BackLink(length_unit="layer", head="pool_linear"),
    M.BackLink(length=2, length_unit="layer", weight=2.0),
    M.BackLink(length=3, length_unit="layer", combine="replace"),
]
CUTS: dict[str, dict[str, object]] = {
    "all": {},
    "two": {"blocks": 2},
    "uneven": {"cuts": [0, 3]},
}


def compare(learner: localgrad.LocalLearner, x: torch.Tensor, y: torch.Tensor) -> None:
    torch.manual_seed(7)
    expected = oracle_gradients(learner, x, y)
    torch.manual_seed(7)
    learner.step(x, y)
    for name, parameter in learner.named_parameters():
        if name not in expected:
            assert parameter.grad is None, f"{name} has a gradient and no loss reaches it"
            continue
        assert parameter.grad is not None, f"{name} has no gradient"
        scale = expected[name].norm() + 1e-12
        error = float((parameter.grad - expected[name]).norm() / scale)
        # the bound is relative, above a floor for gradients that are zero but for rounding
        # (a bias before a batch norm)
        assert error < 1e-9 or float(expected[name].norm()) < 1e-12, f"{name}: {error}"


BLOCKS = {"all": 5, "two": 2, "uneven": 3}
CASES = [
    (rule, cut)
    for rule in RULES
    for cut in CUTS
    if not isinstance(rule, M.AugLocal) or BLOCKS[cut] >= rule.depth + 2
]


@pytest.mark.parametrize(("rule", "cut"), CASES, ids=str)
@pytest.mark.parametrize("chain", CHAINS)
def test_equals_oracle(chain: str, rule: M.Method, cut: str) -> None:
    x, y = batch(chain)
    model = build(chain)
    learner = localgrad.decouple(model, rule, example_input=x, **CUTS[cut])  # type: ignore[arg-type]
    compare(learner, x, y)
    learner.zero_grad()
    compare(learner, x[:3], y[:3])  # the last, short batch


@pytest.mark.parametrize("rule", IMAGE_RULES, ids=str)
@pytest.mark.parametrize("chain", ["plain_conv", "residual", "network"])
def test_infopro_equals_oracle(chain: str, rule: M.Method) -> None:
    x, y = batch(chain)
    learner = localgrad.decouple(build(chain), rule, example_input=x)
    compare(learner, x, y)


@pytest.mark.parametrize(
    "rule",
    [M.Greedy(), M.BackLink(head="pool_linear"), M.AugLocal(2), M.PredSim(), M.BWBPF()],
    ids=str,
)
def test_batch_of_one(rule: M.Method) -> None:
    x, y = batch("plain_conv", size=1)
    compare(localgrad.decouple(build("plain_conv"), rule, example_input=x), x, y)


@pytest.mark.parametrize("chain", CHAINS)
def test_one_block_is_backprop_bitwise(chain: str) -> None:
    x, y = batch(chain)
    plain = build(chain)
    torch.manual_seed(3)
    nn.functional.cross_entropy(plain(x), y).backward()
    expected = {name: p.grad for name, p in plain.named_parameters()}
    buffers = dict(plain.named_buffers())
    rules = [M.Backprop(), M.Backprop("unit"), M.Backprop("sqrt"), M.Greedy(), M.BackLink()]
    for rule in rules:
        model = build(chain)
        learner = localgrad.decouple(model, rule, blocks=1, example_input=x)
        torch.manual_seed(3)
        learner.step(x, y)
        for name, p in model.named_parameters():
            assert torch.equal(p.grad, expected[name]), (rule, name)
        for name, value in model.named_buffers():  # checkpointing counts no batch twice
            assert torch.equal(value, buffers[name]), (rule, name)


def gradients(chain: str, rule: M.Method, **options: object) -> list[torch.Tensor | None]:
    x, y = batch(chain)
    learner = localgrad.decouple(build(chain), rule, example_input=x, **options)  # type: ignore[arg-type]
    torch.manual_seed(5)
    learner.step(x, y)
    return [p.grad for p in learner.parameters()]


def assert_same_bits(a: list[torch.Tensor | None], b: list[torch.Tensor | None]) -> None:
    assert len(a) == len(b)
    for first, second in zip(a, b, strict=True):
        if first is None or second is None:
            assert first is second
        else:
            assert torch.equal(first, second)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("rule", [M.Greedy(), M.BackLink(), M.AugLocal(2), M.DGL()], ids=str)
def test_same_seed_same_bits(chain: str, rule: M.Method) -> None:
    assert_same_bits(gradients(chain, rule), gradients(chain, rule))


@pytest.mark.parametrize("head", ["pool_linear", "conv_mlp"])
@pytest.mark.parametrize("chain", CHAINS)
def test_backlink_of_length_zero_is_greedy(chain: str, head: str) -> None:
    assert_same_bits(
        gradients(chain, M.BackLink(length=0, head=head)), gradients(chain, M.Greedy(head=head))
    )


@pytest.mark.parametrize("chain", CHAINS)
def test_asking_the_head_again_changes_no_bit(chain: str) -> None:
    assert_same_bits(gradients(chain, M.BackLink(keep_error=False)), gradients(chain, M.BackLink()))


@pytest.mark.parametrize("chain", ["mlp", "plain_conv", "residual"])
def test_replace_with_whole_block_is_pairwise_interlocking(chain: str) -> None:
    """Gomez et al.: block k is trained by loss k+1 alone, through two blocks; head k by loss k."""
    x, y = batch(chain)
    learner = localgrad.decouple(
        build(chain), M.BackLink(length=99, combine="replace"), blocks=3, example_input=x
    )
    learner.step(x, y)
    stages, border = learner._stages, x
    for k in range(3):
        leaf = border.detach()
        for unit in stages[k].units:
            leaf = unit(leaf)
        border = leaf.detach()
        following = stages[min(k + 1, 2)]
        through = leaf
        if k < 2:
            for unit in following.units:
                through = unit(through)
        loss = nn.functional.cross_entropy(following.head(through), y)
        parameters = [p for unit in stages[k].units for p in unit.parameters()]
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-9, atol=1e-12)


def test_gradients_add_up_over_steps() -> None:
    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), M.BackLink(), example_input=x)
    learner.step(x, y)
    once = [p.grad.clone() for p in learner.parameters()]
    learner.step(x, y)
    for p, g in zip(learner.parameters(), once, strict=True):
        assert torch.equal(p.grad, 2 * g)


def test_frozen_parameters_keep_no_gradient() -> None:
    x, y = batch("residual")
    for frozen in ("0.weight", "4.conv2.weight"):
        for rule in (M.Greedy(), M.BackLink(), M.BackLink(length_unit="layer"), M.Backprop()):
            model = build("residual")
            model.get_parameter(frozen).requires_grad_(False)
            learner = localgrad.decouple(model, rule, example_input=x)
            learner.step(x, y)
            for name, p in model.named_parameters():
                assert (p.grad is None) == (name == frozen), (rule, name)
