"""Decouplings carried over to other networks: cuts, heads, links, and what they train."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import localgrad
from localgrad import Block, Chain, Decoupling, Link, LocalgradError, Part
from localgrad import methods as M
from localgrad.networks import (
    resnet,
    resnet18,
    resnet20,
    resnet32,
    resnet56,
    vgg11,
    vgg19,
    vit_cifar,
)
from localgrad.search import transfer
from localgrad.search.correspondence import Correspondence
from localgrad.search.spread import spread
from localgrad.site import Site
from localgrad.stages import stages_of

from zoo import batch, build

RULES: list[M.Method] = [
    M.Backprop("sqrt"),
    M.Greedy(),
    M.DGL(),
    M.PredSim(),
    M.InfoPro(),
    M.BackLink(2, keep_error=False),
    M.BackLink(9),
    M.BackLink(length_unit="layer", combine="replace"),
    M.AugLocal(2),
    M.BWBPF(),
    M.DeepSupervision(),
]
X = torch.rand(4, 3, 32, 32)
Y = torch.randint(5, (4,))


def narrow(make: Callable[..., nn.Module]) -> nn.Module:
    return make(num_classes=5, width=4)


class Token(nn.Module):
    """A transformer's layer without its attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(width, width)

    def like(self, tokens: int, stride: int) -> nn.Module:
        return Token(self.width)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(self.norm(x))
        return x + torch.relu(mixed) + 0.1 * x.mean(1, keepdim=True)


class Patches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.unfold(x, 8, stride=8).transpose(1, 2)


class Scores(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(x.mean(1))
        return scores


def tokens(depth: int = 8, width: int = 8) -> nn.Module:
    """ViT-like: patches, layers at one resolution, a mean over tokens."""
    layers = [Token(width) for _ in range(depth)]
    return nn.Sequential(Patches(), nn.Linear(192, width), *layers, Scores(width))


def made(rule: M.Method, model: nn.Module, cuts: Sequence[str] | None = None) -> Decoupling:
    return localgrad.decouple(model, rule, cuts=cuts, example_input=X).decoupling


def ends(decoupling: Decoupling) -> list[str]:
    return [place.unit for place in decoupling.cuts]


# --- stages


@pytest.mark.parametrize(
    ("make", "stages"),
    [
        (lambda: narrow(resnet20), (4, 3, 3)),
        (lambda: narrow(resnet18), (3, 2, 2, 2)),
        (lambda: resnet((1, 2, 1, 1), width=4), (2, 2, 1, 1)),  # the stem is narrower: no matter
        (lambda: resnet((2, 2, 1, 1), stem="imagenet", width=4), (1, 2, 2, 1, 1)),
        (lambda: narrow(vgg11), (1, 1, 2, 2, 2)),  # each ends in a pool
        (lambda: narrow(vgg19), (2, 2, 4, 4, 4)),
        (lambda: tokens(6), (7,)),
    ],
)
def test_stages(make: Callable[[], nn.Module], stages: tuple[int, ...]) -> None:
    chain = Chain.of(make(), X)
    shapes, _ = chain.shapes(X)
    assert stages_of(chain, shapes, X.shape[1:]) == stages
    assert made(M.Greedy(), make()).stages == stages


def test_stages_of_a_traced_network() -> None:
    class Traced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 4, 3, padding=1)
            self.two = nn.Conv2d(4, 4, 3, padding=1)
            self.three = nn.Conv2d(4, 8, 3, padding=1, stride=2)
            self.last = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.two(torch.relu(self.one(x))))
            return self.last(torch.relu(self.three(x)).mean((2, 3)))  # type: ignore[no-any-return]

    assert made(M.Greedy(), Traced()).stages == (2, 1)


# --- where cuts go


def slow_spread(wanted: list[Fraction], low: int, high: int) -> list[int]:
    """Every way to place them, the nearest of all."""
    every = itertools.combinations(range(low, high + 1), len(wanted))
    return list(min(every, key=lambda c: sum(abs(a - b) for a, b in zip(c, wanted, strict=True))))


def test_spread_finds_the_least_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        count, high = (int(torch.randint(1, n, (), generator=generator)) for n in (5, 9))
        high = max(high, count)
        parts = torch.randint(0, 12 * high, (count,), generator=generator).sort().values
        wanted = [Fraction(int(part), 12) for part in parts]
        found, best = spread(wanted, 1, high), slow_spread(wanted, 1, high)
        assert found == sorted(set(found))
        assert 1 <= found[0] <= found[-1] <= high

        def far(ends: list[int], wanted: list[Fraction] = wanted) -> Fraction:
            return sum((abs(a - b) for a, b in zip(ends, wanted, strict=True)), Fraction(0))

        assert far(found) == far(best)


def test_cuts_keep_their_stage() -> None:
    found = made(M.DGL(), narrow(resnet20), ["1.0", "1.2", "2.2", "3.0"])
    deeper, report = transfer(found, narrow(resnet56), X)
    assert ends(deeper) == ["1.3", "1.8", "2.8", "3.2"]
    assert [row.cut for row in report.blocks] == ["kept", "kept", "kept", "kept", "end"]
    assert report.by == "stage"
    assert report.notes == ()
    assert {row.head_is for row in report.blocks} == {"kept", "tail"}


def test_published_cuts_of_stages_stay_stages() -> None:
    found = made(M.BWBPF(), vgg19(width=4), ["1.1", "2.1", "3.3", "4.3"])
    assert ends(transfer(found, vgg11(width=4), X).decoupling) == [
        *("1.0", "2.0", "3.1", "4.1", "5.1"),
    ]
    # a stem of a stage of its own, as for large images
    found = made(M.BWBPF(), narrow(resnet18), ["1.1", "2.1", "3.1"])
    imagenet = resnet((1, 3, 1, 2), stem="imagenet", width=4)
    back, report = transfer(found, imagenet, torch.rand(2, 3, 64, 64))
    assert ends(back) == ["1.0", "2.2", "3.0", "4.1"]
    assert report.by == "stage"


def test_relative_depth_where_stages_differ() -> None:
    found = made(M.Greedy(), narrow(resnet20), ["1.0", "2.0", "3.1"])  # 2, 5, 9 of 10
    other, report = transfer(found, tokens(9), X)  # 10 units, one stage
    assert [block.stop for block in other.blocks] == [2, 5, 9, 10]
    assert report.by == "depth"
    assert "3 and 1 stages" in report.notes[0]
    assert [row.cut for row in report.blocks] == ["kept", "kept", "kept", "end"]


def test_a_file_without_stages_keeps_relative_depth() -> None:
    found = made(M.Greedy(), narrow(resnet20), ["1.2", "2.2"])
    old = Decoupling.from_dict(
        {k: v for k, v in found.to_dict().items() if k not in ("stages", "cuts", "source")}
    )
    assert old == found
    assert old.stages == ()
    there, report = transfer(old, narrow(resnet32), X)
    assert [block.stop for block in there.blocks] == [6, 11, 16]  # 4/10 and 7/10 of 16
    assert "does not say its stages" in report.notes[0]
    assert "stage" not in str(report.blocks[0].source)


def test_cuts_that_meet_take_the_nearest_free_places() -> None:
    found = made(M.Greedy(), narrow(resnet56), ["2.0", "2.1", "2.2", "3.7"])
    small, report = transfer(found, narrow(resnet20), X)
    # 1/9, 2/9 and 3/9 of stage 2 are all its first unit of three
    stops = [block.stop for block in small.blocks]
    assert stops == sorted(set(stops))
    assert len(small) == len(found)
    assert [row.cut for row in report.blocks].count("moved") == 2
    assert stops[-2] <= 9  # never after the last unit
    localgrad.decouple(narrow(resnet20), small, example_input=X).step(X, Y)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", ["resnet20", "vgg11", "plain_conv", "mlp"])
def test_the_same_network_gives_the_same_decoupling(rule: M.Method, name: str) -> None:
    x, network = X, {"resnet20": resnet20, "vgg11": vgg11}.get(name)
    if network is None:
        x = batch(name)[0].float()
    if name == "mlp" and isinstance(rule, M.InfoPro):
        rule = M.InfoPro("softmax", first=(0, 1), last=(0, 1))  # there is no map to decode
    if name == "mlp" and isinstance(rule, M.AugLocal):
        rule = M.AugLocal(1)

    def model() -> nn.Module:
        return build(name).float() if network is None else narrow(network)

    for blocks in (None, 4):
        found = localgrad.decouple(model(), rule, blocks, example_input=x).decoupling
        again, report = transfer(found, model(), x)
        assert again == found
        assert (again.stages, again.source) == (found.stages, found.source)
        assert {row.cut for row in report.blocks} <= {"kept", "end"}
        assert {row.head_is for row in report.blocks} <= {"kept", "tail"}
        assert {row.link_is for row in report.blocks} <= {"kept", None}


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("deeper", [resnet32, resnet56])
def test_deeper_and_back_is_where_it_began(
    rule: M.Method, deeper: Callable[..., nn.Module]
) -> None:
    for blocks in (None, 4):
        found = localgrad.decouple(narrow(resnet20), rule, blocks, example_input=X).decoupling
        there = transfer(found, narrow(deeper), X).decoupling
        back = transfer(there, narrow(resnet20), X).decoupling
        assert back == found
        assert len(there) == len(found)
        assert there.source == f"transferred from 10 units to {len(there.units)}"


# --- heads and links


def test_auglocal_copies_units_of_the_new_network() -> None:
    found = made(M.AugLocal(2), narrow(resnet20))
    deeper, report = transfer(found, narrow(resnet56), X)
    for block in deeper.blocks[:-1]:
        assert block.head is not None
        picks = M.AugLocal().picks(block.stop - 1, 28, 2)
        assert block.head.options["units"] == [deeper.units[i] for i in picks]
    assert report.blocks[0].head_is == "redone"
    assert "redone, 2.0, 3.2 -> " in str(report)


def test_units_that_someone_chose_go_where_they_belong() -> None:
    head = Part("auglocal", {"units": ["2.0", "3.0", "3.1"]})
    found = made(M.Greedy(), narrow(resnet20), ["1.2"])
    found = replace(found, blocks=(replace(found.blocks[0], head=head), found.blocks[1]))
    deeper, report = transfer(found, narrow(resnet56), X)
    assert deeper.blocks[0].head == Part("auglocal", {"units": ["2.2", "3.2", "3.5"]})
    assert report.blocks[0].head_is == "mapped"
    # fewer are left than it names
    last = replace(found, blocks=(Block(0, 7, head), Block(7, 10)))
    small, report = transfer(last, nn.Sequential(*resnet_pieces(4)), X)
    assert small.blocks[0].head is not None
    assert len(small.blocks[0].head.options["units"]) == 1
    assert report.blocks[0].head_is == "clipped"


def resnet_pieces(count: int) -> list[nn.Module]:
    first: list[nn.Module] = [nn.Conv2d(3, 4, 3, padding=1)]
    rest = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(count - 1)]
    return [*first, *rest, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]


def test_links_are_kept_and_end_with_their_block() -> None:
    found = made(M.BackLink(3), narrow(resnet56), ["1.5", "2.3", "3.1"])
    _, report = transfer(found, narrow(resnet32), X)
    assert [row.link_is for row in report.blocks] == [None, "kept", "kept", "kept"]
    small, report = transfer(found, narrow(resnet20), X)  # 3, 2, 3 and 2 units a block
    assert [block.link and block.link.length for block in small.blocks] == [None, 3, 3, 3]
    clipped = "clipped to 2, the whole block"
    assert [row.link_is for row in report.blocks] == [None, "kept", clipped, "kept"]
    assert f"3 unit: {clipped}" in str(report)
    whole = made(M.BackLink(99), narrow(resnet56), ["1.5", "2.3", "3.1"])  # was all of them
    _, report = transfer(whole, narrow(resnet20), X)
    assert [row.link_is for row in report.blocks] == [None, "kept", "kept", "kept"]


def test_what_belongs_to_a_block_stays_with_it() -> None:
    blocks = (
        Block(0, 4, Part("conv_mlp", {"features": 7}), checkpoint="unit"),
        Block(4, 7, Part("predsim"), Part("predsim", {"beta": 0.3}), Link(1, "layer", "replace")),
        Block(7, 10, open=True, checkpoint="sqrt"),
    )
    names = Chain.of(narrow(resnet20)).names
    found = Decoupling("mine", names, blocks, {"a": 1}, stages=(4, 3, 3))
    there = transfer(found, narrow(resnet56), X).decoupling
    for before, after in zip(blocks, there.blocks, strict=True):
        assert replace(before, start=0, stop=1) == replace(after, start=0, stop=1)
    assert (there.method, there.options) == ("mine", {"a": 1})


# --- what is transferred trains


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", ["resnet32", "vgg19", "tokens"])
def test_a_transferred_decoupling_trains_what_it_declares(rule: M.Method, name: str) -> None:
    if name == "tokens" and isinstance(rule, M.InfoPro):
        rule = M.InfoPro("softmax", first=(0, 1), last=(0, 1))
    found = localgrad.decouple(narrow(resnet20), rule, 4, example_input=X).decoupling
    makes = {"resnet32": lambda: narrow(resnet32), "vgg19": lambda: narrow(vgg19)}
    model = makes.get(name, tokens)()
    there = transfer(found, model, X).decoupling
    learner = localgrad.decouple(model, there, example_input=X)
    assert len(learner.step(X, Y).losses) == len(found)
    learner.zero_grad()
    assert localgrad.audit(lambda: learner.step(X, Y), learner).violations == []


def test_a_learner_and_a_chain_are_networks_too() -> None:
    found = made(M.Greedy(), narrow(resnet20), ["1.2"])
    model = narrow(resnet32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(3)
    chain = Chain.of(model)
    learner = localgrad.decouple(model, "greedy", blocks=2, example_input=X)
    state = torch.get_rng_state()
    expected = transfer(found, narrow(resnet32), X)
    torch.set_rng_state(state)
    assert transfer(found, chain, X) == expected
    assert transfer(found, learner, X) == expected
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn, nothing changes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_to_a_real_vit_and_back() -> None:
    found = made(M.Greedy("conv_mlp"), narrow(resnet20), ["1.2", "2.2"])
    pytest.importorskip("timm")
    vit = vit_cifar(5, depth=5, width=16, heads=2)
    there = transfer(found, vit, X).decoupling
    learner = localgrad.decouple(vit, there, example_input=X)
    assert len(learner.step(X, Y).losses) == 3


# --- mistakes


def test_only_a_decoupling_is_transferred() -> None:
    with pytest.raises(LocalgradError, match=r"not 'found.yaml': read a file with"):
        transfer("found.yaml", narrow(resnet32), X)  # type: ignore[arg-type]


def test_fewer_units_than_blocks() -> None:
    found = made(M.Greedy(), narrow(resnet20))
    with pytest.raises(LocalgradError, match=r"has 10 blocks, the network 8 units: at most K=8"):
        transfer(found, narrow(vgg11), X)
    with_tail = made(M.BWBPF(), narrow(resnet20))
    with pytest.raises(LocalgradError, match="has 10 blocks, the network 8 units"):
        transfer(with_tail, narrow(vgg11), X)
    assert len(transfer(made(M.BWBPF(), narrow(vgg11)), tokens(7), X).decoupling) == 9


def test_a_head_that_does_not_fit_its_new_place() -> None:
    found = made(M.InfoPro(), narrow(resnet20), ["1.2", "2.2"])
    message = (
        r"block 0: its head 'infopro' does not fit where it comes to stand, after unit '4' with "
        r"shape \(16, 8\): InfoPro's decoder needs feature maps and images; give the block another"
    )
    with pytest.raises(LocalgradError, match=message):
        transfer(found, tokens(), X)


def two_outputs(site: Site) -> nn.Module:
    return nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": Part("pool_liner")}, "block 0: unknown head 'pool_liner': use one of"),
        ({"head": Part("no.such:thing")}, "block 0: head 'no.such:thing' cannot be imported"),
        ({"loss": Part("tusk")}, "block 0: unknown loss 'tusk'"),
        ({"loss": Part("task", {"beta": 1})}, "block 0: loss task.beta=1.:"),
        ({"head": Part("conv_mlp", {"width": 1})}, "block 0: its head 'conv_mlp' does not fit"),
        ({"head": Part(f"{__name__}:two_outputs")}, "block 0: its head .*does not fit"),
        ({"head": Part("auglocal", {"units": ["1.9"]})}, "block 0: .* names unit '1.9', which"),
    ],
)
def test_parts_that_nobody_can_build(changes: dict[str, Part], message: str) -> None:
    found = made(M.Greedy(), narrow(resnet20), ["1.2"])
    edited = replace(found, blocks=(replace(found.blocks[0], **changes), found.blocks[1]))  # type: ignore[arg-type]
    with pytest.raises(LocalgradError, match=message):
        transfer(edited, narrow(resnet32), X)


def test_correspondence_of_stages() -> None:
    same = Correspondence.of(10, (4, 3, 3), 16, (6, 5, 5))
    assert [same.wanted(end) for end in (4, 7, 10)] == [6, 11, 16]
    assert same.wanted(1) == Fraction(3, 2)
    shrunk = Correspondence((9, 9), (3, 3))
    assert shrunk.wanted(10) == 4  # not before the stage's first unit
