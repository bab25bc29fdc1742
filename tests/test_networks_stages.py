"""ResNet-18 to 152 and the VGGs: sizes, names, splits, and local steps on narrow ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import localgrad
from localgrad import methods as M
from localgrad import networks as N
from localgrad.chain import Chain
from localgrad.errors import LocalgradError
from localgrad.networks.stage_splits import even
from localgrad.renewal import like
from test_gradients import compare

Builder = Callable[..., nn.Module]


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def on_meta(build: Builder, **options: Any) -> nn.Module:
    """Build without weights: the largest have 140 million."""
    with torch.device("meta"):
        return build(**options)


# ImageNet: torchvision's documentation, "num_params" of its weights. CIFAR: the same networks
# with a 3x3 stem and ten classes; the VGGs end in one linear layer from 512 features.
IMAGENET = {
    N.resnet18: 11_689_512,
    N.resnet34: 21_797_672,
    N.resnet50: 25_557_032,
    N.resnet101: 44_549_160,
    N.resnet152: 60_192_808,
}
CIFAR = {
    N.resnet18: 11_173_962,
    N.resnet34: 21_282_122,
    N.resnet50: 23_520_842,
    N.resnet101: 42_512_970,
    N.resnet152: 58_156_618,
    N.vgg11: 9_231_114,
    N.vgg13: 9_416_010,
    N.vgg16: 14_728_266,
    N.vgg19: 20_040_522,
}
WITH_MLP = {
    N.vgg11: (132_863_336, 132_868_840),
    N.vgg13: (133_047_848, 133_053_736),
    N.vgg16: (138_357_544, 138_365_992),
    N.vgg19: (143_667_240, 143_678_248),
}


@pytest.mark.parametrize("build", CIFAR)
def test_parameters_with_the_small_stem(build: Builder) -> None:
    assert count(on_meta(build)) == CIFAR[build]


@pytest.mark.parametrize("build", IMAGENET)
def test_parameters_with_the_imagenet_stem(build: Builder) -> None:
    assert count(on_meta(build, num_classes=1000, stem="imagenet")) == IMAGENET[build]


@pytest.mark.parametrize("build", WITH_MLP)
@pytest.mark.parametrize("norm", [False, True])
def test_parameters_with_the_papers_classifier(build: Builder, norm: bool) -> None:
    model = on_meta(build, num_classes=1000, classifier="mlp", batch_norm=norm)
    assert count(model) == WITH_MLP[build][norm]


# --- torchvision's weights load


def named_shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


TWINS: list[tuple[str, Builder, dict[str, Any]]] = [
    *((build.__name__, build, {"stem": "imagenet"}) for build in IMAGENET),
    *((f"{build.__name__}_bn", build, {"classifier": "mlp"}) for build in WITH_MLP),
    ("vgg11", N.vgg11, {"classifier": "mlp", "batch_norm": False}),
]


@pytest.mark.parametrize(("name", "build", "options"), TWINS, ids=[twin[0] for twin in TWINS])
def test_names_and_shapes_are_torchvisions(
    name: str, build: Builder, options: dict[str, Any]
) -> None:
    models = pytest.importorskip("torchvision").models
    theirs = on_meta(lambda: models.get_model(name, weights=None))
    assert named_shapes(on_meta(build, num_classes=1000, **options)) == named_shapes(theirs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_is_torchvisions_bitwise(name: str, training: bool) -> None:
    models = pytest.importorskip("torchvision").models
    theirs = models.get_model(name, weights=None, num_classes=7)
    ours = N.get(name, num_classes=7, stem="imagenet")
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours.train(training)(x), theirs.train(training)(x))
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))


@pytest.mark.parametrize("norm", [False, True])
def test_vgg_is_torchvisions_bitwise(norm: bool) -> None:
    vgg = pytest.importorskip("torchvision").models.vgg
    ours = N.vgg13(num_classes=5, width=4, classifier="mlp", batch_norm=norm, hidden=16)
    narrow = [size if size == "M" else size // 16 for size in vgg.cfgs["B"]]
    theirs = on_meta(lambda: vgg.VGG(nn.Identity()))  # its forward; the full classifier is large
    theirs.features = vgg.make_layers(narrow, batch_norm=norm)
    theirs.classifier = nn.Sequential(
        *(nn.Linear(32 * 49, 16), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5)),
    )
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 40, 48)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    torch.manual_seed(1)
    trained = ours.train()(x)
    torch.manual_seed(1)
    assert torch.equal(trained, theirs.train()(x))


# --- units and cuts

NARROW: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: N.resnet18(5, width=4),
    "resnet50": lambda: N.resnet50(5, width=2),
    "imagenet": lambda: N.resnet18(5, "imagenet", width=4),
    "vgg11": lambda: N.vgg11(5, width=4),
    "mlp": lambda: N.vgg11(5, width=2, classifier="mlp", hidden=8),
    "plain": lambda: N.vgg13(5, width=2, batch_norm=False),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NARROW)
def test_chain_is_forward_bitwise(name: str, training: bool) -> None:
    torch.manual_seed(0)
    model = NARROW[name]().train(training)
    x = torch.randn(4, 3, 32, 32)
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    assert torch.equal(Chain.of(model)(x), expected)
    assert expected.shape == (4, 5)


@pytest.mark.parametrize(
    ("build", "units", "first", "last"),
    [
        (N.resnet18, 9, "stem", "4.1"),
        (N.resnet34, 17, "stem", "4.2"),
        (N.resnet50, 17, "stem", "4.2"),
        (N.resnet101, 34, "stem", "4.2"),
        (N.resnet152, 51, "stem", "4.2"),
        (N.vgg11, 8, "1.0", "5.1"),
        (N.vgg13, 10, "1.0", "5.1"),
        (N.vgg16, 13, "1.0", "5.2"),
        (N.vgg19, 16, "1.0", "5.3"),
    ],
)
def test_units(build: Builder, units: int, first: str, last: str) -> None:
    names = Chain.of(on_meta(build)).names
    assert (len(names), names[0], names[-1]) == (units, first, last)


def sizes(model: nn.Module, blocks: int) -> list[int]:
    """The residual blocks (or convolutions) in each block of the split; the stem is not one."""
    chain = Chain.of(model)
    ends = chain.cuts(blocks=blocks)
    assert ends is not None
    starts = [chain.names.count("stem"), *ends[:-1]]
    return [stop - start for start, stop in zip(starts, ends, strict=True)]


@pytest.mark.parametrize(
    ("build", "split"),
    [
        # BWBPF's released code: ResNet_4out.py, ResNet_8out.py, ResNet_12out.py, VGG.py
        (N.resnet50, [3, 4, 6, 3]),
        (N.resnet101, [3, 4, 23, 3]),
        (N.resnet152, [3, 8, 36, 3]),
        (N.resnet101, [3, 4, 5, 4, 5, 4, 5, 3]),
        (N.resnet152, [3, 8, 7, 7, 7, 7, 8, 3]),
        (lambda: N.resnet([3, 4, 19, 3]), [3, 4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 3]),
        (lambda: N.resnet([3, 8, 30, 3]), [3, 8, 5, 4, 3, 3, 3, 3, 3, 3, 3, 3]),
        (N.vgg19, [2, 2, 4, 4, 4]),
        # the third stage cut evenly, where nothing is published
        (N.resnet50, [3, 4, 2, 1, 1, 1, 1, 3]),
        (N.resnet50, [1] * 16),
        (N.resnet101, [3, 4, *[3] * 5, *[2] * 4, 3]),
        (N.resnet152, [3, 8, *[4] * 9, 3]),
        (N.resnet101, [3, 4, *[2] * 10, *[1] * 3, 3]),
        (N.resnet152, [3, 8, *[3] * 10, *[2] * 3, 3]),
        (N.resnet18, [2, 2, 2, 2]),
        (N.resnet18, [1] * 8),
        (N.vgg11, [1, 1, 2, 2, 2]),
        (N.vgg13, [1] * 10),
    ],
)
def test_splits(build: Builder, split: list[int]) -> None:
    assert sizes(on_meta(build), len(split)) == split


def test_splits_hold_every_residual_block() -> None:
    for stages, table in N.PUBLISHED_SPLITS.items():
        for blocks, split in table.items():
            assert (len(split), sum(split)) == (blocks, sum(stages))
        for blocks, split in N.stage_splits(stages).items():
            assert (len(split), sum(split), min(split) > 0) == (blocks, sum(stages), True)
    assert 12 not in N.stage_splits((3, 4, 6, 3))  # nine parts of six residual blocks
    for total in range(1, 12):
        for parts in range(1, total + 1):
            assert sum(even(total, parts)) == total
            assert len(even(total, parts)) == parts
            assert max(even(total, parts)) - min(even(total, parts)) <= 1


# --- learning in blocks

RULES = [M.Greedy(), M.BackLink(), M.BackLink(length_unit="layer"), M.AugLocal(depth=2), M.BWBPF()]
BLOCKS = {"resnet18": 4, "resnet50": 8, "imagenet": 4, "vgg11": 5, "mlp": 5, "plain": 5}


def example(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    size = 64 if name == "imagenet" else 32
    x = torch.rand(4, 3, size, size, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (4,), generator=generator)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", NARROW)
def test_a_step_reaches_what_is_declared(name: str, rule: M.Method) -> None:
    torch.manual_seed(0)
    x, y = example(name)
    model = NARROW[name]().double()
    learner = localgrad.decouple(model, rule, blocks=BLOCKS[name], example_input=x)
    reach = localgrad.audit(lambda: learner.step(x, y), learner)
    assert reach.violations == []
    assert reach.matrix.tolist() == learner.reach()
    assert len(reach.matrix) == len(learner.decoupling)


@pytest.mark.parametrize("rule", [M.Greedy(), M.BackLink(), M.AugLocal(depth=2)], ids=str)
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11", "plain"])
def test_gradients_equal_the_oracles(name: str, rule: M.Method) -> None:
    torch.manual_seed(0)
    x, y = example(name)
    model = NARROW[name]().double()
    compare(localgrad.decouple(model, rule, blocks=BLOCKS[name], example_input=x), x, y)


# --- fresh copies (AugLocal's heads)


def test_a_vgg_unit_copies_its_pool_as_a_stride() -> None:
    chain = Chain.of(N.vgg11(width=4))
    unit = chain.units[chain.index("2.0")]
    assert isinstance(unit.parts[-1], nn.MaxPool2d)
    copy = like(unit, (6, 16, 16), stride=2)
    kinds = [type(part) for part in copy]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert copy(torch.randn(2, 6, 16, 16)).shape == unit(torch.randn(2, 4, 16, 16)).shape
    again = like(unit, (4, 16, 16))
    assert not torch.equal(again[0].weight, unit.parts[0].weight)


def test_vgg_heads_stride_where_maps_shrink() -> None:
    x = torch.rand(2, 3, 32, 32)
    learner = localgrad.decouple(N.vgg11(5, width=4), M.AugLocal(depth=2), example_input=x)
    heads = {}
    for block, head in zip(learner.decoupling.blocks, learner.heads, strict=False):
        assert block.head is not None
        convolutions = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
        assert not any(isinstance(m, nn.MaxPool2d) for m in head.modules())
        heads[learner.chain.names[block.stop - 1]] = [
            (name, conv.in_channels, conv.out_channels, conv.stride[0])
            for name, conv in zip(block.head.options["units"], convolutions, strict=True)
        ]
    assert heads == {
        "1.0": [("4.0", 4, 32, 2), ("5.1", 32, 32, 2)],
        "2.0": [("4.0", 8, 32, 2), ("5.1", 32, 32, 2)],
        "3.0": [("4.0", 16, 32, 2), ("5.1", 32, 32, 2)],
        "3.1": [("4.1", 16, 32, 2), ("5.1", 32, 32, 2)],
        "4.0": [("5.0", 32, 32, 2), ("5.1", 32, 32, 2)],
    }


@pytest.mark.parametrize("block", [N.BasicBlock, N.Bottleneck])
@pytest.mark.parametrize(("in_channels", "stride"), [(8, 1), (32, 1), (6, 2), (32, 2)])
def test_residual_copies(block: type, in_channels: int, stride: int) -> None:
    unit = block(16, 8).double().eval()
    copy = unit.like(in_channels, stride)
    width = 8 * block.expansion
    x = torch.randn(2, in_channels, 6, 6, dtype=torch.float64)
    assert copy(x).shape == (2, width, 6 // stride, 6 // stride)
    assert copy.training
    assert (copy.downsample is None) == (stride == 1 and in_channels == width)
    mine = {p.data_ptr() for p in unit.parameters()}
    assert not mine & {p.data_ptr() for p in copy.parameters()}


def test_a_unit_leaves_its_input_alone() -> None:
    for unit in (N.BasicBlock(4, 4), N.Bottleneck(8, 2), N.Bottleneck(4, 2, 2)):
        x = torch.randn(2, unit.in_channels, 6, 6)
        kept = x.clone()
        unit(x)
        assert torch.equal(x, kept)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11"])
def test_channels_last_survives_the_backward(name: str) -> None:
    model = NARROW[name]().to(memory_format=torch.channels_last)
    layouts = []
    first = model.features[0] if name == "vgg11" else model.layer1[0]
    first.register_full_backward_pre_hook(
        lambda _, grads: layouts.append(grads[0].is_contiguous(memory_format=torch.channels_last))
    )
    x = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
    model(x).sum().backward()
    assert layouts == [True]


def test_initial_weights() -> None:
    torch.manual_seed(0)
    for model in (N.resnet50(width=32), N.vgg11(width=32)):
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
                fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                expected = pytest.approx((2 / fan_out) ** 0.5, rel=0.06)
                assert module.weight.std().item() == expected
                assert module.bias is None or torch.all(module.bias == 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: N.resnet18(stem="big"), "stem must be one of cifar, imagenet; got 'big'"),
        (lambda: N.resnet18(width=0), "width must be a whole number of at least 1; got 0"),
        (lambda: N.resnet([]), r"stages must be a list such as \[3, 4, 6, 3\]; got \[\]"),
        (lambda: N.resnet("3463"), "stages must be a list .* got '3463'"),
        (lambda: N.resnet([3, 0]), r"stages\[1\] must be a whole number"),
        (lambda: N.resnet([1], "plain"), "block must be one of basic, bottleneck; got 'plain'"),
        (lambda: N.vgg(12), "depth must be one of 11, 13, 16, 19; got 12"),
        (lambda: N.vgg11(classifier="fc"), "classifier must be one of linear, mlp; got 'fc'"),
        (lambda: N.vgg11(hidden=True), "hidden must be a whole number"),
        (lambda: N.get("resnet51"), "unknown network 'resnet51': did you mean 'resnet50'"),
        (lambda: N.get("vgg11", depth=3), "its options are num_classes, in_channels, width"),
    ],
)
def test_mistakes_get_one_clear_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(LocalgradError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_small_images_name_the_unit_that_cannot_run() -> None:
    with pytest.raises(LocalgradError, match=r"unit '4\.1' cannot take an input of shape"):
        Chain.of(N.vgg11(width=2)).shapes(torch.zeros(2, 3, 8, 8))
