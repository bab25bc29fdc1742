"""A model as units: grouping, order, cuts, shapes, and what is refused."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from localgrad import Chain, LocalgradError
from localgrad.networks import resnet20, resnet32, resnet110

from zoo import CHAINS, batch, build


def kinds(chain: Chain) -> list[list[str]]:
    return [[type(part).__name__ for part in unit.parts] for unit in (*chain.units, chain.tail)]


def linear_chain(units: int) -> Chain:
    layers: list[nn.Module] = []
    for _ in range(units):
        layers += [nn.Linear(2, 2), nn.ReLU()]
    return Chain.of(nn.Sequential(*layers, nn.Linear(2, 2)))


def test_layers_keep_the_norms_activations_and_pools_that_follow() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.Dropout(),
        nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(),
        nn.Linear(4, 2), nn.LogSoftmax(dim=1),
    )  # fmt: skip
    chain = Chain.of(model)
    assert chain.names == ("0", "4", "8")
    assert kinds(chain) == [
        ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"],
        ["Conv2d", "GroupNorm", "GELU", "Dropout"],
        ["Conv2d", "ReLU"],
        ["AdaptiveAvgPool2d", "Flatten", "Dropout", "Linear", "LogSoftmax"],
    ]
    assert len(chain) == 3


def test_a_norm_before_the_first_layer_joins_it() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    chain = Chain.of(model)
    assert chain.names == ("1",)
    assert kinds(chain)[0] == ["BatchNorm1d", "Linear", "ReLU"]


def test_nested_sequentials_are_opened_and_named_by_their_path() -> None:
    model = nn.Sequential(
        OrderedDict(
            features=nn.Sequential(
                nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Sequential(nn.Linear(4, 3), nn.ReLU())
            ),
            classifier=nn.Linear(3, 2),
        )
    )
    chain = Chain.of(model)
    assert chain.names == ("features.0.0", "features.1.0")
    x = torch.randn(5, 4)
    assert torch.equal(chain(x), model(x))


def test_one_relu_object_used_many_times_runs_each_time() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 2), relu)
    chain = Chain.of(model)
    assert kinds(chain) == [["Linear", "ReLU"], ["Linear", "ReLU"], ["Linear", "ReLU"]]
    x = torch.randn(5, 4)
    assert torch.equal(chain(x), model(x))


def test_built_in_networks_declare_their_units() -> None:
    model = resnet32()
    chain = Chain.of(model)
    assert chain.names == ("stem", *(f"{s}.{i}" for s in (1, 2, 3) for i in range(5)))
    assert len(Chain.of(resnet110())) == 55
    assert chain.units[0].parts == (model.stem,)
    assert chain.units[6].parts == (model.stage2[0],)
    assert chain.tail.parts == (model.head.pool, model.head.fc)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CHAINS)
def test_running_the_chain_is_running_the_model(name: str, training: bool) -> None:
    x, _ = batch(name)
    model, twin = build(name).train(training), build(name).train(training)
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    assert torch.equal(Chain.of(twin)(x), expected)
    for (_, a), (_, b) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("units", [1, 2, 5, 7, 16])
def test_balanced_blocks(units: int) -> None:
    chain = linear_chain(units)
    for blocks in range(1, units + 1):
        ends = chain.cuts(blocks=blocks)
        assert ends is not None
        sizes = [b - a for a, b in zip((0, *ends), ends, strict=False)]
        assert len(sizes) == blocks
        assert sum(sizes) == units
        assert max(sizes) - min(sizes) <= 1
    assert chain.cuts(blocks=units) == tuple(range(1, units + 1))
    assert chain.cuts() is None


@pytest.mark.parametrize(
    ("model", "blocks", "ends"),
    [
        (resnet32, 1, (16,)),
        (resnet32, 2, (8, 16)),
        (resnet32, 3, (6, 11, 16)),
        (resnet32, 4, (4, 8, 12, 16)),
        (resnet32, 8, (2, 4, 6, 8, 10, 12, 14, 16)),
        (resnet32, 16, tuple(range(1, 17))),
        (resnet110, 2, (28, 55)),
        (resnet110, 3, (19, 37, 55)),
        (resnet110, 4, (13, 27, 41, 55)),
        (resnet110, 8, (6, 13, 20, 27, 34, 41, 48, 55)),
        (resnet110, 16, (3, 6, 9, 12, 15, 18, 21, 24, 27, 31, 35, 39, 43, 47, 51, 55)),
        (resnet110, 55, tuple(range(1, 56))),
        (resnet20, 3, (3, 6, 10)),
    ],
)  # fmt: skip
def test_published_cuts(model: type, blocks: int, ends: tuple[int, ...]) -> None:
    assert Chain.of(model()).cuts(blocks=blocks) == ends


def test_cuts_by_label_and_index() -> None:
    chain = Chain.of(resnet20())
    assert chain.cuts(cuts=["1.0", "2.2"]) == (2, 7, 10)
    assert chain.cuts(cuts=[1, 6]) == (2, 7, 10)
    assert chain.cuts(cuts=["stem", 6]) == (1, 7, 10)
    assert chain.cuts(cuts=[]) == (10,)


@pytest.mark.parametrize("blocks", [0, -1, 11, True, 2.5, "2"])
def test_blocks_out_of_range(blocks: object) -> None:
    with pytest.raises(LocalgradError, match=r"must be a whole number from 1 to 10"):
        Chain.of(resnet20()).cuts(blocks=blocks)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        (["stem", "2,0"], r"no unit is called '2,0'; did you mean '2\.0'\?"),
        (["zzz"], r"no unit is called 'zzz' \(units: stem, 1\.0, "),
        ([True], "no unit is called 'True'"),
        ([2.5], r"no unit is called '2\.5'"),
        (["2.0", "1.0"], "cut '1.0' is out of order"),
        (["2.0", "2.0"], "cut '2.0' is out of order"),
        (
            ["3.2"],
            r"cut '3\.2': a block but the final one must end at a unit from 'stem' to '3\.1'",
        ),
        ([9], "cut 9: a block but the final one"),
        ([-1], "cut -1: a block but the final one"),
        ("2.0", "give a list of unit labels"),
    ],
)
def test_wrong_cuts(cuts: object, message: str) -> None:
    with pytest.raises(LocalgradError, match=message):
        Chain.of(resnet20()).cuts(cuts=cuts)  # type: ignore[arg-type]


def test_blocks_and_cuts_together() -> None:
    with pytest.raises(LocalgradError, match="not both"):
        Chain.of(resnet20()).cuts(blocks=2, cuts=["1.0"])


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


class Declared(Branching):
    """Says what its units are; ``b`` is in none of them unless told so."""

    def __init__(self, units: dict[str, tuple[str, ...]], tail: tuple[str, ...]) -> None:
        super().__init__()
        self.units, self.tail = units, tail

    def chain_units(self) -> dict[str, tuple[str, ...]]:
        return self.units

    def chain_tail(self) -> tuple[str, ...]:
        return self.tail


class OwnForward(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Branching(), "Branching cannot be cut"),
        # its layers in a row would be another network
        (OwnForward(nn.Linear(2, 2), nn.Linear(2, 2)), "OwnForward cannot be cut"),
        (nn.Sequential(), "no unit before its last layer"),
        (nn.Sequential(nn.ReLU()), "no unit before its last layer"),
        (nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), "no unit before its last layer"),
        (Declared({"a": ("a",)}, ()), "parameter 'b.weight' is in no unit"),
        (Declared({"a": ("a",)}, ("c",)), "Declared: .* has no attribute"),
        (Declared({"tail": ("a",)}, ("b",)), "no unit may be called 'tail'"),
    ],
    ids=["branching", "own_forward", "empty", "no_layer", "one_layer", "outside", "typo", "tail"],
)
def test_models_that_cannot_be_cut(model: nn.Module, message: str) -> None:
    with pytest.raises(LocalgradError, match=message):
        Chain.of(model)


def test_a_model_that_declares_no_cut_table() -> None:
    chain = Chain.of(Declared({"a": ("a",)}, ("b",)))
    assert chain.published_cuts == {}
    assert chain.cuts(blocks=1) == (1,)


def test_shapes() -> None:
    shapes, out = Chain.of(build("plain_conv")).shapes(batch("plain_conv")[0])
    assert [tuple(s) for s in shapes] == [(4, 8, 8), (4, 4, 4), (6, 4, 4), (6, 4, 4), (8, 4, 4)]
    assert tuple(out) == (5,)


@pytest.mark.parametrize("name", CHAINS)
def test_shapes_leaves_everything_as_it_was(name: str) -> None:
    x, _ = batch(name)
    model = build(name)
    chain = Chain.of(model)
    chain.units[1].parts[0].eval()  # modes that are not all the same come back too
    modes = [m.training for m in model.modules()]
    buffers = {k: v.clone() for k, v in model.named_buffers()}
    image, state = x.clone(), torch.get_rng_state()
    chain.shapes(x)
    assert [m.training for m in model.modules()] == modes
    assert len(set(modes)) == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, image)
    for key, value in model.named_buffers():
        assert torch.equal(value, buffers[key])


def test_shapes_does_not_write_into_the_example() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    x = -torch.ones(2, 4)
    Chain.of(model).shapes(x)
    assert torch.equal(x, -torch.ones(2, 4))


def test_shapes_takes_token_numbers_and_other_precisions() -> None:
    model = nn.Sequential(
        nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    shapes, out = Chain.of(model).shapes(torch.randint(7, (4, 3)))
    assert [tuple(s) for s in shapes] == [(12,), (5,)]
    assert tuple(out) == (2,)
    assert tuple(Chain.of(build("mlp")).shapes(torch.zeros(1, 12))[1]) == (5,)  # float64 model


def test_a_wrong_input_shape_names_the_unit() -> None:
    chain = Chain.of(resnet20())
    with pytest.raises(
        LocalgradError, match=r"unit 'stem' cannot take an input of shape \(1, 8, 8\)"
    ):
        chain.shapes(torch.zeros(2, 1, 8, 8))
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(LocalgradError, match=r"unit '2' cannot take an input of shape \(4,\)"):
        Chain.of(model).shapes(torch.zeros(2, 4))
    assert model.training


def test_a_unit_must_return_one_tensor() -> None:
    model = nn.Sequential(nn.LSTM(4, 4), nn.Linear(4, 2))
    with pytest.raises(LocalgradError, match="unit '0' returns a tuple"):
        Chain.of(model).shapes(torch.zeros(2, 4))
