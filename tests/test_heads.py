"""Auxiliary networks: shapes, published sizes, AugLocal's copies, heads of one's own."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import localgrad
from localgrad import Block, Chain, Decoupling, LocalgradError, Part
from localgrad import methods as M
from localgrad.heads import Site, build
from localgrad.losses import HeadOutput
from localgrad.networks import resnet32, resnet110, resnet_cifar
from localgrad.networks.residual_block import ResidualBlock


def site(
    *shape: int, last: int = 64, classes: int = 10, image: tuple[int, ...] = (3, 32, 32)
) -> Site:
    """Return a place for a head that gets ``shape``; the last unit is ``last`` wide."""
    chain = Chain.of(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)))
    shapes = [torch.Size(shape), torch.Size((last, *shape[1:]))]
    return Site(chain, 0, shapes, classes, torch.Size(image))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


SHAPES = [
    (16, 32, 32), (32, 16, 16), (64, 8, 8), (5, 7, 7), (3, 12, 20), (8, 1, 9), (8, 9, 1),
    (7, 1, 1), (1, 6, 6), (1, 1, 1), (128, 2, 3), (24,), (1,),
]  # fmt: skip


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("head", ["pool_linear", "conv_mlp", "dgl", "predsim"])
def test_logits(head: str, shape: tuple[int, ...], classes: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, *shape)
    module = build(Part(head), site(*shape, classes=classes))
    out = module(x)
    if isinstance(out, HeadOutput):
        assert out.features is not None
        assert out.features.shape == x.shape
        out = out.logits
    assert out.shape == (3, classes)


@pytest.mark.parametrize("mode", ["contrast", "softmax"])
@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) == 3], ids=str)
def test_infopro_outputs(shape: tuple[int, ...], mode: str) -> None:
    image = (1, 9, 13)
    options = {"decode": True, "classify": True, "mode": mode}
    out = build(Part("infopro", options), site(*shape, image=image))(torch.randn(3, *shape))
    assert out.image.shape == (3, *image)
    assert out.image.min() >= 0
    assert out.image.max() <= 1
    if mode == "contrast":
        assert out.logits is None
        assert out.features.shape == (3, 128)
    else:
        assert out.features is None
        assert out.logits.shape == (3, 10)


def test_infopro_leaves_out_what_has_no_weight() -> None:
    x = torch.randn(3, 16, 8, 8)

    def options(decode: bool, classify: bool) -> Part:
        return Part("infopro", {"decode": decode, "classify": classify, "mode": "contrast"})

    only_image = build(options(True, False), site(16, 8, 8))(x)
    assert only_image.features is None
    assert only_image.logits is None
    without = build(options(False, True), site(16, 8, 8))
    assert without.decoder is None
    assert without(x).image is None
    with pytest.raises(LocalgradError, match="decoder needs feature maps and images"):
        build(options(True, True), site(16))


def test_infopro_decoder_is_the_published_one() -> None:
    options = {"decode": True, "classify": False, "mode": "contrast"}
    head = build(Part("infopro", options), site(16, 32, 32))
    # 3x3 convolutions with bias 16 -> 12 -> 3, batch norm between them
    assert count(head) == (16 * 12 * 9 + 12) + 2 * 12 + (12 * 3 * 9 + 3)
    x = torch.randn(2, 16, 8, 8)
    grown = nn.functional.interpolate(x, (32, 32), mode="bilinear", align_corners=True)
    assert torch.equal(head(x).image, head.decoder.layers(grown))


@pytest.mark.parametrize(
    ("shape", "width", "stride", "parameters"),
    [
        ((16, 32, 32), 32, 2, 10186),
        ((32, 16, 16), 64, 2, 28170),
        ((64, 8, 8), 64, 1, 46602),
    ],
)
def test_conv_mlp_is_infopros(
    shape: tuple[int, ...], width: int, stride: int, parameters: int
) -> None:
    head = build(Part("conv_mlp"), site(*shape))
    conv = head[0]
    assert (conv.out_channels, conv.stride, conv.kernel_size) == (width, (stride,) * 2, (3, 3))
    assert conv.bias is None
    assert count(head) == parameters
    assert build(Part("conv_mlp", {"features": 7}), site(*shape))[-1].in_features == 7


def test_conv_mlp_grows_no_wider_than_the_last_unit() -> None:
    assert build(Part("conv_mlp"), site(32, 8, 8, last=48))[0].out_channels == 48
    assert build(Part("conv_mlp"), site(64, 8, 8, last=48))[0].out_channels == 64


@pytest.mark.parametrize(
    ("shape", "pools", "parameters"),
    [
        ((16, 32, 32), [(8, 8), (2, 2)], 9962),
        ((32, 16, 16), [(4, 4), (2, 2)], 37834),
        ((64, 8, 8), [(2, 2), (2, 2)], 147338),
        ((4, 3, 9), [(1, 3), (1, 2)], None),
    ],
)
def test_dgl_is_the_published_one(
    shape: tuple[int, ...], pools: list[tuple[int, int]], parameters: int | None
) -> None:
    head = build(Part("dgl"), site(*shape))
    found = [m.output_size for m in head.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    assert found == pools
    assert parameters in (None, count(head))
    linear = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [m.bias is not None for m in linear] == [False, False, True]


@pytest.mark.parametrize(
    ("shape", "values", "pool"),
    [
        # the authors' networks, then ResNet-32's three widths, at 2048 and at AugLocal's 512
        ((128, 32, 32), 2048, (8, 8)),
        ((256, 32, 32), 2048, (16, 8)),
        ((256, 16, 16), 2048, (8, 4)),
        ((512, 16, 16), 2048, (8, 8)),
        ((512, 8, 8), 2048, (4, 4)),
        ((512, 4, 4), 2048, (2, 2)),
        ((16, 32, 32), 2048, (4, 2)),
        ((32, 16, 16), 2048, (2, 2)),
        ((64, 8, 8), 2048, (2, 1)),
        ((16, 32, 32), 512, (8, 4)),
        ((32, 16, 16), 512, (4, 4)),
        ((64, 8, 8), 512, (4, 2)),
    ],
)
def test_predsim_pools_as_published(
    shape: tuple[int, ...], values: int, pool: tuple[int, int]
) -> None:
    head = build(Part("predsim", {"values": values}), site(*shape))
    average, _, linear = head.classifier
    assert average.kernel_size == pool
    assert linear.in_features == values
    assert torch.equal(linear.weight, torch.zeros(10, values))
    assert head.similarity.bias is None


@pytest.mark.parametrize(
    ("shape", "values"), [((64, 3, 3), 16), ((8, 7, 5), 100), ((4, 1, 30), 20), ((4, 30, 1), 20)]
)
def test_predsim_pools_what_does_not_divide(shape: tuple[int, ...], values: int) -> None:
    head = build(Part("predsim", {"values": values}), site(*shape))
    linear = head.classifier[-1]
    assert linear.in_features <= max(values, shape[0])  # a channel keeps one value at the least
    assert head(torch.randn(2, *shape)).logits.shape == (2, 10)


# --- AugLocal


def formula_depths(n: int, d: int, tau: float) -> list[int]:
    m = n - d
    depths = []
    for u in range(m - 1):
        r = tau * u / (m - 2) if m > 2 else 0.0
        depths.append(max(1, round(d * (1 - r) + r)))
    return depths


def formula_picks(n: int, u: int, d: int) -> list[int]:
    if d >= n - 1 - u:
        return [j for j in range(n) if j > u]
    return [round(u + (n - 1 - u) / d * i) for i in range(1, d + 1)]


def formula_strides(widths: list[int]) -> list[int]:
    """Return the stride of each copy; ``widths`` starts with the width that comes in."""
    strides, pending = [], 0
    for before, now in pairwise(widths):
        pending += int(math.log2(now // before))
        strides.append(2 if pending >= 1 else 1)
        pending -= strides[-1] - 1
    return strides


R32 = [16] * 6 + [32] * 5 + [64] * 5
R110 = [16] * 19 + [32] * 18 + [64] * 18


@pytest.mark.parametrize(
    ("build_model", "widths", "depth", "tau"),
    [
        *((resnet32, R32, d, 0.5) for d in range(1, 7)),
        (resnet32, R32, 4, 0.0),
        (resnet32, R32, 4, 1.0),
        *((resnet110, R110, d, 0.5) for d in (2, 3, 5, 9)),
    ],
)
def test_auglocal_heads_follow_the_formula(
    build_model: Any, widths: list[int], depth: int, tau: float
) -> None:
    n = len(widths)
    model = build_model()
    chain = Chain.of(model)
    decoupling = M.AugLocal(depth, tau)(chain, None)
    shapes, _ = chain.shapes(torch.zeros(2, 3, 32, 32))
    depths = formula_depths(n, depth, tau)
    assert len(decoupling) == n - depth
    assert decoupling.blocks[-1] == Block(n - depth - 1, n)
    # every picked place once: distinct heads are few, and building all would be slow
    built: set[tuple[tuple[int, ...], int]] = set()
    for u, block in enumerate(decoupling.blocks[:-1]):
        assert (block.start, block.stop) == (u, u + 1)
        picks = formula_picks(n, u, depths[u])
        assert block.head == Part("auglocal", {"units": [chain.names[j] for j in picks]})
        around = tuple(widths[j] for j in [u, *picks])
        if (around, shapes[u][1]) in built:
            continue
        built.add((around, shapes[u][1]))
        head = build(block.head, Site(chain, u, shapes, 10, torch.Size((3, 32, 32))))
        copies = [m for m in head.children() if isinstance(m, ResidualBlock)]
        assert [c.out_channels for c in copies] == [widths[j] for j in picks]
        assert [c.stride for c in copies] == formula_strides([widths[j] for j in [u, *picks]])
        assert any(isinstance(m, nn.BatchNorm1d) for m in head.children()) == (len(picks) == 1)
        assert head.eval()(torch.zeros(1, *shapes[u])).shape == (1, 10)


def auglocal_head(depth: int, unit: int) -> list[tuple[int, int, int]]:
    """Return (unit, width, stride) of each copy in the head of ``unit`` of ResNet-32."""
    chain = Chain.of(resnet32())
    shapes, _ = chain.shapes(torch.zeros(2, 3, 32, 32))
    part = M.AugLocal(depth)(chain, None).blocks[unit].head
    assert part is not None
    head = build(part, Site(chain, unit, shapes, 10, torch.Size((3, 32, 32))))
    copies = [m for m in head.children() if isinstance(m, ResidualBlock)]
    picked = [chain.index(name) for name in part.options["units"]]
    return [(j, c.out_channels, c.stride) for j, c in zip(picked, copies, strict=True)]


def test_auglocal_against_values_from_the_released_code() -> None:
    assert auglocal_head(3, 0) == [(5, 16, 1), (10, 32, 2), (15, 64, 2)]
    assert auglocal_head(3, 1) == [(6, 32, 2), (10, 32, 1), (15, 64, 2)]
    assert auglocal_head(3, 5) == [(8, 32, 2), (12, 64, 2), (15, 64, 1)]
    assert auglocal_head(2, 0) == [(8, 32, 2), (15, 64, 2)]
    assert auglocal_head(1, 0) == [(15, 64, 2)]  # one halving for two doublings
    assert auglocal_head(1, 7) == [(15, 64, 2)]
    assert auglocal_head(1, 12) == [(15, 64, 1)]
    assert M.AugLocal(1).depths(16) == [1] * 14
    assert M.AugLocal(2).depths(16) == [2] * 13
    assert M.AugLocal(3).depths(16) == [3] * 6 + [2] * 6
    assert M.AugLocal(5).depths(16) == [5, 5, 5, 4, 4, 4, 4, 3, 3, 3]


def test_auglocal_carries_the_second_halving_to_the_next_copy() -> None:
    chain = Chain.of(resnet32())
    shapes, _ = chain.shapes(torch.zeros(2, 3, 32, 32))
    place = Site(chain, 0, shapes, 10, torch.Size((3, 32, 32)))
    head = build(Part("auglocal", {"units": ["3.0", "3.2", "3.4"]}), place)
    assert [copy.stride for copy in head[:3]] == [2, 2, 1]


@pytest.mark.parametrize(
    ("depth", "losses", "copies"), [(2, 53, 104), (3, 52, 127), (5, 50, 196), (9, 46, 315)]
)
def test_auglocal_on_resnet110(depth: int, losses: int, copies: int) -> None:
    decoupling = M.AugLocal(depth)(Chain.of(resnet110()), None)
    assert len(decoupling) == losses
    heads = [block.head for block in decoupling.blocks if block.head is not None]
    assert sum(len(head.options["units"]) for head in heads) == copies


def test_auglocal_copies_have_weights_of_their_own() -> None:
    torch.manual_seed(0)
    model = resnet_cifar(14, width=4)
    x = torch.zeros(2, 3, 8, 8)
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # frozen units, whose copies learn all the same
    before = [p.clone() for p in model.parameters()]
    learner = localgrad.decouple(model, M.AugLocal(2), example_input=x)
    own = {id(p) for p in model.parameters()}
    for parameter in learner.heads.parameters():
        assert id(parameter) not in own
        assert parameter.requires_grad
    assert learner.heads.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    copied = learner.heads[0][0].conv2.weight
    assert not any(p.shape == copied.shape and torch.equal(p, copied) for p in model.parameters())


def test_copies_of_frozen_norms_learn() -> None:
    layers = [nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.LayerNorm(4)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model.requires_grad_(False)
    x = torch.zeros(2, 4)
    learner = localgrad.decouple(model, M.AugLocal(1), example_input=x)
    copied = learner.heads[0]
    assert [type(m).__name__ for m in copied[0]] == ["Linear", "ReLU"]
    chain = learner.chain
    shapes, _ = chain.shapes(x)
    head = build(Part("auglocal", {"units": ["3"]}), Site(chain, 0, shapes, 2, torch.Size((4,))))
    assert isinstance(head[0][1], nn.LayerNorm)
    assert all(p.requires_grad for p in head.parameters())


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, 2)


class WithPool(nn.Module):
    """Declares a unit without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.pool, self.flat, self.fc = Pool(), nn.Flatten(), nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flat(self.b(self.pool(self.a(x)))))

    def chain_units(self) -> dict[str, tuple[str, ...]]:
        return {"a": ("a",), "pool": ("pool",), "b": ("b",)}

    def chain_tail(self) -> tuple[str, ...]:
        return ("flat", "fc")


def test_auglocal_copies_a_unit_without_parameters() -> None:
    chain = Chain.of(WithPool())
    shapes, _ = chain.shapes(torch.zeros(2, 3, 8, 8))
    place = Site(chain, 0, shapes, 5, torch.Size((3, 8, 8)))
    head = build(Part("auglocal", {"units": ["pool", "b"]}), place)
    assert head(torch.zeros(2, 4, 8, 8)).shape == (2, 5)


def test_auglocal_says_which_unit_cannot_be_copied() -> None:
    layers = [nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 5))
    with pytest.raises(
        LocalgradError, match=r"unit '3' cannot be copied .* give its Conv1d a method"
    ):
        localgrad.decouple(model, M.AugLocal(1), example_input=torch.zeros(2, 3, 8))


# --- every head


@pytest.mark.parametrize("head", ["conv_mlp", "dgl", "predsim", "auglocal"])
def test_convolutions_start_he_normal_fan_out(head: str) -> None:
    torch.manual_seed(0)
    chain = Chain.of(resnet32())
    shapes, _ = chain.shapes(torch.zeros(2, 3, 32, 32))
    options = {"units": ["2.3", "3.4"]} if head == "auglocal" else {}
    module = build(Part(head, options), Site(chain, 10, shapes, 10, torch.Size((3, 32, 32))))
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert convs
    for conv in convs:
        fan_out = conv.out_channels * math.prod(conv.kernel_size)
        expected = math.sqrt(2 / fan_out)
        # the standard error of a sample's standard deviation is sigma / sqrt(2n)
        tolerance = 5 * expected / math.sqrt(2 * conv.weight.numel())
        weight = conv.weight.detach()
        assert abs(float(weight.std()) - expected) < tolerance
        assert abs(float(weight.mean())) < 5 * expected / math.sqrt(weight.numel())


RULES = [M.Greedy(), M.Greedy("conv_mlp"), M.DGL(), M.PredSim(), M.AugLocal(2), M.InfoPro()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_heads_take_the_models_precision(rule: M.Method, dtype: torch.dtype) -> None:
    model = resnet_cifar(14, width=4).to(dtype)
    learner = localgrad.decouple(model, rule, example_input=torch.rand(2, 3, 8, 8))
    assert {p.dtype for p in learner.heads.parameters()} == {dtype}


@pytest.mark.parametrize("rule", RULES[1:], ids=str)
def test_heads_take_the_models_layout(rule: M.Method) -> None:
    last = torch.channels_last
    for layout in (last, torch.contiguous_format):
        model = resnet_cifar(14, width=4).to(memory_format=layout)
        learner = localgrad.decouple(model, rule, example_input=torch.rand(2, 3, 8, 8))
        wide = [p for p in learner.heads.parameters() if p.dim() == 4 and p.shape[-1] > 1]
        for p in wide:
            assert p.is_contiguous(memory_format=layout)
            assert p.is_contiguous() == (layout is not last)


def test_pooling_keeps_the_layout_of_the_gradient() -> None:
    head = build(Part("pool_linear"), site(6, 4, 4))
    for layout in (torch.channels_last, torch.contiguous_format):
        seen: list[Tensor] = []
        x = torch.randn(2, 6, 4, 4).contiguous(memory_format=layout).requires_grad_() * 1
        x.register_hook(seen.append)  # a leaf's gradient would take the leaf's layout anyway
        head(x).sum().backward()
        assert seen[0].is_contiguous(memory_format=layout)
        assert not seen[0].is_contiguous() or layout is torch.contiguous_format


def test_pooling_is_the_mean() -> None:
    pool = localgrad.layers.GlobalAvgPool()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(pool(x), x.mean((2, 3)))
    assert torch.autograd.gradcheck(pool, (x,))


# --- a head of one's own


def tiny(site: Site, hidden: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(site.width, hidden), nn.Tanh(),
        nn.Linear(hidden, site.classes),
    )  # fmt: skip


def not_a_module(site: Site) -> Any:
    return lambda x: x


@pytest.mark.parametrize("head", [f"{__name__}:tiny", tiny], ids=["name", "callable"])
def test_a_head_of_ones_own(head: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(4, 3, 8, 8), torch.randint(10, (4,))
    learner = localgrad.decouple(
        resnet_cifar(14, width=4), M.Greedy(head=head), blocks=3, example_input=x
    )
    assert [h[2].out_features for h in learner.heads] == [4, 4]
    learner.step(x, y)
    assert all(p.grad is not None for p in learner.heads.parameters())
    learner.decoupling.save(tmp_path / "d.json")
    assert Decoupling.load(tmp_path / "d.json") == learner.decoupling
    assert learner.decoupling.blocks[0].head == Part(f"{__name__}:tiny")


def test_options_reach_the_builder() -> None:
    assert build(Part(f"{__name__}:tiny", {"hidden": 9}), site(6, 4, 4))[2].out_features == 9


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part("dlg"), "unknown head 'dlg': use one of pool_linear, conv_mlp, dgl, predsim"),
        (Part("nowhere_at_all:f"), "head 'nowhere_at_all:f' cannot be imported: No module"),
        (Part("math:nothing"), "head 'math:nothing' cannot be imported: module 'math' has no"),
        (Part(":f"), "head ':f' cannot be imported"),
        (Part("dgl", {"depth": 2}), r"head dgl\(depth=2\): .*unexpected keyword argument 'depth'"),
        (Part(f"{__name__}:not_a_module"), "a builder returns a module"),
    ],
    ids=str,
)
def test_heads_that_cannot_be_built(part: Part, message: str) -> None:
    with pytest.raises(LocalgradError, match=message):
        build(part, site(6, 4, 4))


def test_a_sequence_is_pooled_over_its_tokens() -> None:
    layers = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 2))
    x = torch.randn(2, 3, 4)
    learner = localgrad.decouple(model, "greedy", cuts=["0"], example_input=x)
    hidden = torch.relu(model[0](x))
    assert torch.equal(learner.exits(x)[0], learner.heads[0][1](hidden.mean(1)))
