"""Depth in layers of every parameter, on structures where it can be counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import localgrad
from localgrad import Chain, Unit
from localgrad import methods as M
from localgrad.layer_depth import chain_depths, layer_counts, layer_depths
from localgrad.networks.residual_block import ResidualBlock

from zoo import batch, build


def depths(module: nn.Module, x: Tensor) -> dict[str, int]:
    found = layer_depths(Unit("u", (module,)), x)
    return {name: found[p] for name, p in module.named_parameters() if p in found}


def grouped(found: dict[str, int]) -> dict[int, set[str]]:
    """Return the modules at each depth; a module's parameters must agree."""
    modules: dict[str, set[int]] = {}
    for name, depth in found.items():
        modules.setdefault(name.rpartition(".")[0], set()).add(depth)
    assert all(len(d) == 1 for d in modules.values()), found
    return {d: {m for m, ds in modules.items() if ds == {d}} for d in set(found.values())}


def test_mlp() -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    assert grouped(depths(module, torch.randn(3, 4))) == {3: {"0"}, 2: {"2"}, 1: {"4"}}


@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_take_the_batch_norm_that_follows(bias: bool) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, bias=bias), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 1, bias=bias),
    )  # fmt: skip
    found = grouped(depths(module, torch.randn(2, 3, 9, 9)))
    assert found == {3: {"0", "1"}, 2: {"3", "4"}, 1: {"7"}}


def test_a_norm_before_the_first_layer_is_crossed_after_it() -> None:
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))
    assert grouped(depths(module, torch.randn(3, 4))) == {1: {"1"}, 2: {"0"}}


def test_residual_block_with_identity() -> None:
    found = grouped(depths(ResidualBlock(4, 4), torch.randn(2, 4, 6, 6)))
    assert found == {1: {"conv2", "bn2"}, 2: {"conv1", "bn1"}}


def test_residual_block_with_projection() -> None:
    found = grouped(depths(ResidualBlock(4, 6, 2), torch.randn(2, 4, 6, 6)))
    # the projection stands beside the two convolutions: one layer from the end
    assert found == {1: {"conv2", "bn2", "shortcut.conv", "shortcut.bn"}, 2: {"conv1", "bn1"}}


class Skipping(nn.Module):
    """Two residual additions: the shortest path to ``first`` jumps over ``second``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.second(x).relu()
        return x + self.third(x)


def test_the_shortest_path_counts() -> None:
    found = grouped(depths(Skipping(), torch.randn(3, 4)))
    # third is 1 away; second skips third by the addition; first skips both
    assert found == {1: {"first", "second", "third"}}


def test_what_the_output_does_not_depend_on_is_left_out() -> None:
    assert not any(name.startswith("unused") for name in depths(Skipping(), torch.randn(3, 4)))


def test_frozen_layers_count() -> None:
    """An error crosses a frozen layer like any other; once it was free."""
    module = ResidualBlock(4, 4)
    module.conv2.weight.requires_grad_(False)
    module.bn1.requires_grad_(False)
    found = grouped(depths(module, torch.randn(2, 4, 6, 6)))
    assert found == {1: {"conv2", "bn2"}, 2: {"conv1", "bn1"}}
    assert [n for n, p in module.named_parameters() if not p.requires_grad] == [
        "bn1.weight", "bn1.bias", "conv2.weight",
    ]  # fmt: skip


def test_a_link_does_not_jump_over_frozen_units() -> None:
    x, y = batch("mlp")
    model = build("mlp")
    model[5].requires_grad_(False)  # the third of the five units
    rule = M.BackLink(length=1, length_unit="layer", head="pool_linear")
    learner = localgrad.decouple(model, rule, cuts=["5"], example_input=x)
    greedy = localgrad.decouple(build("mlp"), M.Greedy(), cuts=["5"], example_input=x)
    greedy.backbone[5].requires_grad_(False)
    for each in (learner, greedy):
        each.step(x, y)
    for name, p in model.named_parameters():  # all that the link may train is frozen
        other = greedy.backbone.get_parameter(name).grad
        assert torch.equal(p.grad, other) if p.grad is not None else other is None


def test_depths_of_a_chain() -> None:
    model = build("residual")
    chain = Chain.of(model)
    modes = [m.training for m in model.modules()]
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    found = chain_depths(chain, batch("residual")[0])
    assert layer_counts(found) == [1, 2, 2, 2, 2]
    assert [m.training for m in model.modules()] == modes
    for name, b in model.named_buffers():
        assert torch.equal(b, buffers[name])
    assert all(p.grad is None for p in model.parameters())


def test_layer_links_on_token_numbers() -> None:
    torch.manual_seed(0)
    layers = [nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 6)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.randint(7, (5, 3)), torch.randint(3, (5,))
    rule = M.BackLink(length_unit="layer", head="pool_linear")
    learner = localgrad.decouple(model, rule, example_input=x)
    assert learner.layers == [1, 1, 1]
    learner.step(x, y)
    assert all(p.grad is not None for p in learner.parameters())
