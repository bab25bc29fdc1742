"""Recomputed activations inside of blocks: the same bits for every rule, in less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import localgrad
from localgrad import LocalgradError, measure_flops, measure_memory
from localgrad import methods as M
from localgrad.networks import resnet32
from test_gradients import IMAGE_RULES, RULES
from test_ties import Three, X, Y

from zoo import batch, build


def after(learner: localgrad.LocalLearner, x: Tensor, y: Tensor) -> list[Tensor | None]:
    """Return all that two steps leave: gradients, buffers, losses, the random state."""
    torch.manual_seed(13)
    losses = [loss for _ in range(2) for loss in learner.step(x, y).losses]
    gradients = [p.grad for p in learner.parameters()]
    return [*gradients, *learner.buffers(), *losses, torch.get_rng_state()]


def assert_same(first: list[Tensor | None], second: list[Tensor | None]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("how", ["unit", "sqrt"])
@pytest.mark.parametrize("chain", ["residual", "dropout"])
@pytest.mark.parametrize("rule", [*RULES, *IMAGE_RULES], ids=str)
def test_the_same_bits(rule: M.Method, chain: str, how: str) -> None:
    if rule in IMAGE_RULES and chain == "dropout":
        pytest.skip("InfoPro's decoder takes feature maps")
    x, y = batch(chain)
    cuts = None if isinstance(rule, M.Backprop | M.AugLocal) else [0, 3]
    found = []
    for checkpoint in (None, how):
        learner = localgrad.decouple(
            build(chain), rule, cuts=cuts, example_input=x, checkpoint=checkpoint
        )
        found.append(after(learner, x, y))
        if checkpoint is not None:
            assert {block.checkpoint for block in learner.decoupling.blocks} == {how}
    assert_same(*found)


@pytest.mark.parametrize("how", ["unit", "sqrt"])
def test_a_deep_head_is_recomputed_too(how: str) -> None:
    x, y = batch("network")
    found, flops = [], []
    for checkpoint in (None, how):
        learner = localgrad.decouple(
            build("network"), M.AugLocal(4), example_input=x, checkpoint=checkpoint
        )
        found.append(after(learner, x, y))
        learner.zero_grad()
        flops.append(measure_flops(lambda: learner.step(x, y)))  # noqa: B023
        scores = learner.exits(x)
        assert all(score.shape == (8, 5) for score in scores if score is not None)
    assert_same(*found)
    forward_of_units = measure_flops(lambda: learner(x))
    assert flops[1] > flops[0] + forward_of_units  # more than the units alone


@pytest.mark.parametrize("ties", ["first", "last", "untie"])
@pytest.mark.parametrize("rule", [M.Greedy(), M.BackLink(length=2, keep_error=False)], ids=str)
def test_tied_weights(ties: str, rule: M.Method) -> None:
    found = []
    for checkpoint in (None, "unit"):
        torch.manual_seed(0)
        learner = localgrad.decouple(
            Three().double(), rule, cuts=["b"], example_input=X, ties=ties, checkpoint=checkpoint
        )
        found.append(after(learner, X, Y))
    assert_same(*found)


def test_under_autocast() -> None:
    x, y = batch("residual")
    x = x.float()
    found = []
    for checkpoint in (None, "unit"):
        learner = localgrad.decouple(
            build("residual").float(), M.BackLink(), cuts=[0, 3], example_input=x,
            checkpoint=checkpoint,
        )  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16):
            found.append(after(learner, x, y))
    assert_same(*found)


def test_it_is_the_blocks_and_overrides_the_rule_only_when_given() -> None:
    def held(rule: M.Method, checkpoint: str | None) -> set[str | None]:
        learner = localgrad.decouple(build("mlp"), rule, example_input=x, checkpoint=checkpoint)
        return {block.checkpoint for block in learner.decoupling.blocks}

    x, _ = batch("mlp")
    assert held(M.Backprop("sqrt"), None) == {"sqrt"}
    assert held(M.Backprop("sqrt"), "unit") == {"unit"}
    assert held(M.Greedy(), None) == {None}
    learner = localgrad.decouple(build("mlp"), M.Greedy(), example_input=x, checkpoint="unit")
    kept = learner.decoupling
    learner.release()
    again = localgrad.decouple(learner.backbone, kept, example_input=x)
    assert again.decoupling == kept
    model = build("mlp")
    with pytest.raises(LocalgradError, match="checkpoint='all': must be None, 'unit' or 'sqrt'"):
        localgrad.decouple(model, M.Greedy(), example_input=x, checkpoint="all")
    localgrad.decouple(model, M.Greedy(), example_input=x)  # it was left as it was


def test_a_unit_that_writes_on_its_input_is_refused() -> None:
    """Run on the changed input again, it would give other numbers without a word."""

    class AddsOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.add_(1))

    model = nn.Sequential(nn.Linear(6, 6), AddsOne(), nn.Linear(6, 3))
    learner = localgrad.decouple(
        copy.deepcopy(model), M.Backprop("unit"), example_input=torch.rand(4, 6)
    )
    with pytest.raises(LocalgradError, match="unit '1' changes its input in place"):
        learner.step(torch.rand(4, 6), torch.zeros(4, dtype=torch.long))


def activations(rule: M.Method, blocks: int, how: str | None) -> int:
    """Bytes that a step takes for an image more, parameters and gradients aside."""
    peaks = []
    for size in (2, 4):
        torch.manual_seed(0)
        x, y = torch.rand(size, 3, 32, 32), torch.randint(10, (size,))
        learner = localgrad.decouple(
            resnet32(), rule, blocks=blocks, example_input=x, checkpoint=how
        )
        peaks.append(measure_memory(lambda: learner.step(x, y), learner).activations)  # noqa: B023
    return (peaks[1] - peaks[0]) // 2


MAP = 16 * 32 * 32 * 4  # bytes of a feature map of the first stage


@pytest.mark.parametrize(
    ("rule", "blocks", "plain", "unit", "sqrt"),
    [
        (M.Greedy(), 4, 16 * MAP, 10 * MAP, 12 * MAP),
        (M.Greedy(), 16, 7 * MAP, 8 * MAP, 8 * MAP),  # one unit a block: nothing to gain
        (M.BackLink(), 4, 21 * MAP, 12 * MAP, 15 * MAP),
        (M.AugLocal(6), 16, 1_196_032, 8 * MAP, 11 * MAP),
    ],
    ids=str,
)
def test_peak_activations(rule: M.Method, blocks: int, plain: int, unit: int, sqrt: int) -> None:
    found = [activations(rule, blocks, how) for how in (None, "unit", "sqrt")]
    assert found == [plain, unit, sqrt]
