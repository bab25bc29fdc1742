"""Methods as values: names, options, labels, and the blocks that each makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from localgrad import Block, Chain, Decoupling, Link, LocalgradError, Part
from localgrad import methods as M
from localgrad.methods.blocks import every_unit, local_blocks
from localgrad.networks import resnet32, resnet110


def chain(units: int = 5) -> Chain:
    layers: list[nn.Module] = []
    for _ in range(units):
        layers += [nn.Linear(2, 2), nn.ReLU()]
    return Chain.of(nn.Sequential(*layers, nn.Linear(2, 2)))


ALL = (
    "backprop", "greedy", "dgl", "predsim", "infopro", "backlink", "auglocal", "bwbpf",
    "deep_supervision",
)  # fmt: skip


def test_names() -> None:
    assert M.names() == ALL


@pytest.mark.parametrize("name", ALL)
def test_every_method_is_one(name: str) -> None:
    method = M.get(name)
    assert isinstance(method, M.Method)
    assert method.name == name
    assert method == M.get(name)
    decoupling = method(chain(), None)
    assert isinstance(decoupling, Decoupling)
    assert decoupling.method == name
    assert decoupling.units == chain().names


def test_options() -> None:
    assert M.get("backlink", length=2, combine="replace") == M.BackLink(2, combine="replace")
    assert M.get("infopro", first=(1, 0)) == M.InfoPro(first=(1, 0))
    assert M.BackLink(2, weight=0.5)(chain(), None).options == {
        "length": 2, "length_unit": "unit", "combine": "sum", "weight": 0.5, "head": "conv_mlp",
        "keep_error": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: M.get("auglocl"), "unknown method 'auglocl'; did you mean 'auglocal'"),
        (lambda: M.get("BackLink"), "unknown method 'BackLink'; did you mean 'backlink'"),
        (lambda: M.get("xyz"), "unknown method 'xyz'; choose from backprop, greedy"),
        (lambda: M.get("backlink", lenght=1), "no option 'lenght'; did you mean 'length'"),
        (lambda: M.get("bwbpf", x=1), "method 'bwbpf' has no option 'x'; its options: none"),
        (lambda: M.check("greedy", {"name": "x"}), "method 'greedy' has no option 'name'"),
        (lambda: M.Backprop("layer"), "Backprop checkpoint='layer': must be None, 'unit' or"),
        (lambda: M.BackLink(-1), "BackLink: link length -1 must be a whole number >= 0"),
        (lambda: M.BackLink(1.5), "BackLink: link length 1.5 must be"),
        (lambda: M.BackLink(True), "BackLink: link length True must be"),
        (lambda: M.BackLink(length_unit="block"), "link length_unit 'block' must be 'unit' or"),
        (lambda: M.BackLink(combine="mean"), "link combine 'mean' must be 'sum' or 'replace'"),
        (lambda: M.BackLink(weight="1"), "link weight '1' must be a number"),
        (lambda: M.BackLink(weight=float("inf")), "link weight inf must be finite"),
        (lambda: M.BackLink(-1, combine="x"), "length -1 .*; link combine 'x'"),
        (lambda: M.AugLocal(0), "AugLocal depth=0: must be a whole number >= 1"),
        (lambda: M.AugLocal(2.0), "AugLocal depth=2.0: must be a whole number >= 1"),
        (lambda: M.AugLocal(True), "AugLocal depth=True"),
        (lambda: M.AugLocal(tau=1.5), "AugLocal tau=1.5: must be between 0 and 1"),
        (lambda: M.PredSim(beta=-0.1), "PredSim beta=-0.1: must be between 0 and 1"),
        (lambda: M.PredSim(values=0), "PredSim values=0: must be at least 1"),
        (lambda: M.InfoPro("nce"), "InfoPro mode='nce': must be 'contrast' or 'softmax'"),
        (lambda: M.InfoPro(first=(1,)), "InfoPro first=.1,.: give two numbers >= 0"),
        (lambda: M.InfoPro(last=(1, -1)), "InfoPro last=.1, -1.: give two numbers >= 0"),
        (lambda: M.InfoPro(first=(0, 0)), "InfoPro first=.0, 0.: .* at least one of them > 0"),
        (lambda: M.Greedy(head=lambda site: None), "define it at the top of a module"),
    ],
)
def test_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(LocalgradError, match=message):
        make()


class Mine:
    name = "mine"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (M.Backprop(), "BP"),
        (M.Backprop("sqrt"), "BP + checkpoint sqrt"),
        (M.Greedy(), "Greedy"),
        (M.Greedy("conv_mlp"), "Greedy conv_mlp"),
        (M.BackLink(2, combine="replace", weight=0.5), "BackLink L=2 replace weight=0.5"),
        (M.AugLocal(), "AugLocal d=2"),
        (M.AugLocal(5, tau=0.25), "AugLocal d=5 tau=0.25"),
        (M.PredSim(0.5), "PredSim beta=0.5"),
        (M.DeepSupervision(), "DeepSupervision"),
        (Mine(), "Mine"),
    ],
)
def test_labels(method: Any, expected: str) -> None:
    assert M.label(method) == expected


def test_blocks_of_isolated_rules() -> None:
    head = Part("dgl")
    assert M.DGL()(chain(), (2, 5)).blocks == (Block(0, 2, head), Block(2, 5))
    assert M.DGL()(chain(3), None).blocks == (Block(0, 1, head), Block(1, 2, head), Block(2, 3))
    assert M.Greedy("conv_mlp")(chain(), (2, 5)).blocks[0].head == Part("conv_mlp")
    assert M.PredSim(0.5, 64)(chain(), (2, 5)).blocks == (
        Block(0, 2, Part("predsim", {"values": 64}), Part("predsim", {"beta": 0.5})),
        Block(2, 5),
    )


def test_blocks_of_backlink() -> None:
    head, link = Part("conv_mlp"), Link(2, "layer", "replace", 0.5, False)
    rule = M.BackLink(2, "layer", "replace", 0.5, keep_error=False)
    assert rule(chain(), (2, 3, 5)).blocks == (
        Block(0, 2, head), Block(2, 3, head, link=link), Block(3, 5, link=link),
    )  # fmt: skip
    assert M.BackLink(0)(chain(), (2, 5)).blocks == (Block(0, 2, head), Block(2, 5))


def test_blocks_of_bwbpf_and_deep_supervision() -> None:
    head = Part("pool_linear")
    isolated = M.BWBPF()(chain(), (2, 5)).blocks
    assert isolated == (Block(0, 2, head), Block(2, 5, head), Block(5, 5))
    opened = M.DeepSupervision()(chain(), (2, 5)).blocks
    assert opened == (Block(0, 2, head), Block(2, 5, head, open=True), Block(5, 5, open=True))
    assert len(M.BWBPF()(chain(), None)) == 6


def test_blocks_of_backprop() -> None:
    assert M.Backprop("unit")(chain(), (2, 5)).blocks == (Block(0, 5, checkpoint="unit"),)


def test_auglocal_joins_the_last_blocks() -> None:
    spans = [(b.start, b.stop) for b in M.AugLocal(2)(chain(), None).blocks]
    assert spans == [(0, 1), (1, 2), (2, 5)]
    spans = [(b.start, b.stop) for b in M.AugLocal(1)(chain(), (2, 3, 5)).blocks]
    assert spans == [(0, 2), (2, 5)]
    picked = M.AugLocal(1)(chain(), (2, 3, 5)).blocks[0].head
    assert picked == Part("auglocal", {"units": ["8"]})
    assert len(M.AugLocal(3)(chain(), (5,))) == 1  # one block is back-propagation
    with pytest.raises(
        LocalgradError, match="joins the last 4 blocks and so needs at least 5, not 4"
    ):
        M.AugLocal(3)(chain(), (1, 2, 3, 5))


def test_local_blocks() -> None:
    assert every_unit(chain(3), None) == (1, 2, 3)
    assert every_unit(chain(3), (2, 3)) == (2, 3)
    blocks = local_blocks((1, 3), lambda k: Part(f"h{k}"), lambda k: Part(f"l{k}"), Link(1))
    assert blocks == (Block(0, 1, Part("h0"), Part("l0")), Block(1, 3, link=Link(1)))


# first and last (l1, l2) of the released commands
@pytest.mark.parametrize(
    ("model", "blocks", "first", "last"),
    [
        (resnet32, 2, (5, 1), (5, 1)),
        (resnet32, 4, (6, 0), (1, 2)),
        (resnet32, 8, (5, 0), (0, 2)),
        (resnet32, 16, (5, 0.05), (0.2, 0.5)),
        (resnet110, 2, (5, 0.5), (5, 0.5)),
        (resnet110, 4, (1, 0), (0, 1)),
        (resnet110, 8, (5, 0), (0, 1)),
        (resnet110, 16, (5, 0), (0.5, 1)),
    ],
)
def test_infopro_lambdas(
    model: Any, blocks: int, first: tuple[float, float], last: tuple[float, float]
) -> None:
    network = Chain.of(model())
    decoupling = M.InfoPro()(network, network.cuts(blocks=blocks))
    assert len(decoupling) == blocks
    for k, block in enumerate(decoupling.blocks[:-1]):
        r = k / (blocks - 2) if blocks > 2 else 0.0
        l1, l2 = ((1 - r) * a + r * b for a, b in zip(first, last, strict=True))
        assert block.loss.options["reconstruct"] == pytest.approx(l1)
        assert block.loss.options["classify"] == pytest.approx(l2)
        assert block.head is not None
        assert block.head.options["decode"] == (block.loss.options["reconstruct"] > 0)
        assert block.head.options["classify"] == (block.loss.options["classify"] > 0)
    assert decoupling.blocks[-1].loss == Part("task")


def test_infopro_lambdas_of_ones_own() -> None:
    assert M.InfoPro(first=(1, 0), last=(0, 4)).pairs(7, 5) == [
        (1, 0), (pytest.approx(2 / 3), pytest.approx(4 / 3)),
        (pytest.approx(1 / 3), pytest.approx(8 / 3)), (0, 4),
    ]  # fmt: skip
    assert M.InfoPro(first=(3, 2)).pairs(7, 2) == [(3, 2)]
    # other networks take ResNet-32's pair of the nearest number of blocks
    assert M.InfoPro().pairs(7, 7) == M.InfoPro(first=(5, 0), last=(0, 2)).pairs(7, 7)
