from __future__ import annotations

import doctest
import importlib

import pytest
import torch
from torch import nn

from localgrad import networks
from localgrad.errors import LocalgradError
from localgrad.networks import MEMORY_BALANCED, PUBLISHED, ResidualBlock, resnet_cifar

NAMED = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
MODULES = ("published_cuts", "registry", "residual_block", "resnet_cifar")


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def run_by_units(model: networks.CifarResNet, x: torch.Tensor) -> torch.Tensor:
    for parts in [*model.chain_units().values(), model.chain_tail()]:
        for name in parts:
            x = model.get_submodule(name)(x)
    return x


@pytest.mark.parametrize("module", MODULES)
def test_doctests_run(module):
    result = doctest.testmod(importlib.import_module(f"localgrad.networks.{module}"))
    assert result.failed == 0
    assert result.attempted > 0


# The parameter-free counts are He et al.'s networks, as table 6 rounds them: 0.27, 0.46, 0.66,
# 0.85 and 1.7 million. A projection adds 1x1 convolutions 16-32 and 32-64 with batch norms: 2752.
@pytest.mark.parametrize(
    ("name", "padded"),
    [*zip(NAMED, (269_722, 464_154, 658_586, 853_018, 1_727_962), strict=True)],
)
def test_parameter_counts(name, padded):
    assert count(networks.get(name, shortcut="pad")) == padded
    assert count(networks.get(name)) == padded + 2752


@pytest.mark.parametrize(("name", "units"), [*zip(NAMED, (10, 16, 22, 28, 55), strict=True)])
def test_unit_counts_and_labels(name, units):
    model = networks.get(name)
    labels = list(model.chain_units())
    per_stage = (units - 1) // 3
    assert len(labels) == units
    assert labels[0] == "stem"
    assert labels[1] == "1.0"
    assert labels[-1] == f"3.{per_stage - 1}"


@pytest.mark.parametrize("shortcut", ["projection", "pad"])
@pytest.mark.parametrize("training", [True, False])
def test_units_then_tail_is_forward_bitwise(shortcut, training):
    torch.manual_seed(0)
    model = resnet_cifar(20, shortcut=shortcut).train(training)
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(run_by_units(model, x), model(x))


def test_units_and_tail_hold_every_parameter_once():
    model = networks.resnet32()
    names = [n for parts in model.chain_units().values() for n in parts] + [*model.chain_tail()]
    held = [id(p) for name in names for p in model.get_submodule(name).parameters()]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    ("num_classes", "in_channels", "width", "size"),
    [(10, 3, 16, (32, 32)), (10, 1, 16, (8, 8)), (100, 3, 4, (9, 13)), (2, 5, 1, (1, 1))],
)
@pytest.mark.parametrize("shortcut", ["projection", "pad"])
def test_output_shape(num_classes, in_channels, width, size, shortcut):
    model = networks.resnet20(num_classes, in_channels, width, shortcut)
    assert model(torch.randn(3, in_channels, *size)).shape == (3, num_classes)


def test_state_dict_keys():
    keys = list(resnet_cifar(8).state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def block(name, projection):
        parts = [f"{name}.conv1.weight", *(f"{name}.bn1.{n}" for n in norm)]
        parts += [f"{name}.conv2.weight", *(f"{name}.bn2.{n}" for n in norm)]
        if projection:
            parts += [f"{name}.shortcut.conv.weight", *(f"{name}.shortcut.bn.{n}" for n in norm)]
        return parts

    assert keys == [
        "stem.conv.weight",
        *(f"stem.bn.{n}" for n in norm),
        *block("stage1.0", projection=False),
        *block("stage2.0", projection=True),
        *block("stage3.0", projection=True),
        "head.fc.weight",
        "head.fc.bias",
    ]


@pytest.mark.parametrize("tables", [PUBLISHED, MEMORY_BALANCED], ids=["published", "balanced"])
def test_cut_tables_name_units_in_order(tables):
    for depth, table in tables.items():
        labels = list(resnet_cifar(depth).chain_units())
        for blocks, cuts in table.items():
            places = [labels.index(cut) for cut in cuts]
            assert len(cuts) == blocks - 1
            assert places == sorted(set(places))
            assert places[-1] < len(labels) - 1


def test_chain_cuts_are_the_published_tables():
    assert networks.resnet32().chain_cuts() == PUBLISHED[32]
    assert sorted(networks.resnet32().chain_cuts()) == [2, 3, 4, 8, 16]
    assert sorted(networks.resnet110().chain_cuts()) == [2, 3, 4, 8, 16, 55]
    assert networks.resnet56().chain_cuts() == {}
    for model, blocks in ((networks.resnet32(), 16), (networks.resnet110(), 55)):
        assert model.chain_cuts()[blocks] == tuple(model.chain_units())[:-1]


def test_changing_the_returned_table_leaves_the_published_one():
    networks.resnet32().chain_cuts().clear()
    assert networks.resnet32().chain_cuts()


def test_initial_weights():
    torch.manual_seed(0)
    model = networks.resnet32()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == 1)
            assert torch.all(module.bias == 0)


@pytest.mark.parametrize("shortcut", ["projection", "pad"])
@pytest.mark.parametrize(("in_channels", "stride"), [(32, 1), (32, 2), (16, 1), (16, 2), (48, 2)])
def test_like_takes_the_new_shape(shortcut, in_channels, stride):
    block = ResidualBlock(32, 32, shortcut=shortcut)
    fresh = block.like(in_channels, stride)
    assert (fresh.in_channels, fresh.out_channels, fresh.stride) == (in_channels, 32, stride)
    size = 8 // stride
    assert fresh(torch.randn(2, in_channels, 8, 8)).shape == (2, 32, size, size)
    has_projection = any(name.startswith("shortcut") for name, _ in fresh.named_parameters())
    changes = stride != 1 or in_channels != 32
    assert has_projection == (changes and (shortcut == "projection" or in_channels > 32))


def test_like_is_fresh_and_keeps_dtype():
    block = ResidualBlock(8, 8).double().eval()
    fresh = block.like(8, 1)
    assert fresh.conv1.weight.dtype == torch.float64
    assert fresh.training
    assert list(fresh.state_dict()) == list(block.state_dict())
    assert not torch.equal(fresh.conv1.weight, block.conv1.weight)
    assert not {p.data_ptr() for p in fresh.parameters()} & {
        p.data_ptr() for p in block.parameters()
    }


@pytest.mark.parametrize("size", [7, 8])
def test_pad_shortcut_is_slicing_and_zeros(size):
    block = ResidualBlock(3, 8, stride=2, shortcut="pad")
    x = torch.randn(2, 3, size, size, requires_grad=True)
    oracle = torch.zeros(2, 8, (size + 1) // 2, (size + 1) // 2)
    oracle[:, 2:5] = x[:, :, ::2, ::2]
    out = block.shortcut(x)
    assert torch.equal(out, oracle)
    seed = torch.randn_like(out)
    ours = torch.autograd.grad(out, x, seed)[0]
    assert torch.equal(ours, torch.autograd.grad(oracle, x, seed)[0])


@pytest.mark.parametrize("shortcut", ["projection", "pad"])
def test_channels_last_survives_the_backward(shortcut):
    model = resnet_cifar(8, shortcut=shortcut).to(memory_format=torch.channels_last)
    layouts = []
    for block in (model.stage1[0], model.stage2[0], model.stage3[0]):
        block.register_full_backward_pre_hook(
            lambda _, grads: layouts.append(
                grads[0].is_contiguous(memory_format=torch.channels_last)
            )
        )
    x = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    model(x).sum().backward()
    assert layouts == [True, True, True]


def test_a_unit_leaves_its_input_alone():
    for block in (ResidualBlock(4, 4), ResidualBlock(4, 8, 2), ResidualBlock(4, 8, 2, "pad")):
        x = torch.randn(2, 4, 6, 6)
        kept = x.clone()
        block(x)
        assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resnet_cifar(21), r"6n \+ 2 .* got 21; the nearest are 20 and 26"),
        (lambda: resnet_cifar(2), r"6n \+ 2 .* got 2$"),
        (lambda: resnet_cifar("20"), r"got '20'$"),
        (lambda: networks.resnet20(num_classes=0), "num_classes .* at least 1; got 0"),
        (lambda: networks.resnet20(in_channels=1.5), "in_channels .* got 1.5"),
        (lambda: networks.resnet20(width=True), "width .* got True"),
        (lambda: networks.resnet20(shortcut="conv"), "projection, pad; got 'conv'"),
        (lambda: networks.get("resnet33"), "unknown network 'resnet33': did you mean 'resnet32'"),
        (lambda: networks.get("zebra"), "unknown network 'zebra': known are resnet20, "),
        (lambda: networks.get("resnet20", classes=5), "'classes'; its options are num_classes"),
        (lambda: networks.get("resnet_cifar"), "'depth'; its options are depth"),
    ],
)
def test_mistakes_get_one_clear_line(call, message):
    with pytest.raises(LocalgradError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_names_build():
    assert set(NAMED) <= set(networks.names())
    assert count(networks.get("resnet_cifar", depth=20)) == count(networks.resnet20())
