"""Decouplings as data: text, files, hand-edited files, declared reach."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import localgrad
from localgrad import Block, Chain, Decoupling, Link, LocalgradError, Part
from localgrad import methods as M
from localgrad.networks import resnet_cifar

from zoo import batch, build

RULES = [
    M.Backprop(checkpoint="unit"),
    M.Greedy(),
    M.DGL(),
    M.PredSim(beta=0.1),
    M.InfoPro(
        mode="softmax", first=(1, 0), last=(0.5, 1), mean=(0.1, 0.1, 0.1), std=(0.5, 0.6, 0.7)
    ),
    M.BackLink(length=2, weight=0.5, keep_error=False),
    M.BackLink(length_unit="layer", combine="replace"),
    M.AugLocal(2),
    M.BWBPF(),
    M.DeepSupervision(),
]
LINEAR = Part("pool_linear")


def plan(rule: M.Method, cuts: tuple[int, ...] | None = None) -> Decoupling:
    return rule(Chain.of(build("plain_conv")), cuts)


def test_text() -> None:
    assert str(plan(M.BackLink(length=2), (2, 5))) == (
        "backlink: 5 units, 2 losses\n"
        "  loss  units    head      local loss  reaches\n"
        "  0     0, 2     conv_mlp  task        0, 2\n"
        "  1     5, 7, 9  tail      task        0 .. tail"
    )
    assert str(plan(M.PredSim())) == (
        "predsim: 5 units, 5 losses\n"
        "  loss  units  head                  local loss          reaches\n"
        "  0     0      predsim(values=2048)  predsim(beta=0.01)  0\n"
        "  1     2      predsim(values=2048)  predsim(beta=0.01)  2\n"
        "  2     5      predsim(values=2048)  predsim(beta=0.01)  5\n"
        "  3     7      predsim(values=2048)  predsim(beta=0.01)  7\n"
        "  4     9      tail                  task                9, tail"
    )
    assert str(plan(M.BWBPF(), (5,))) == (
        "bwbpf: 5 units, 2 losses\n"
        "  loss  units   head         local loss  reaches\n"
        "  0     0 .. 9  pool_linear  task        0 .. 9\n"
        "  1     -       tail         task        tail"
    )


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_round_trip(rule: M.Method, tmp_path: Path) -> None:
    decoupling = plan(rule)
    data = decoupling.to_dict()
    assert Decoupling.from_dict(data) == decoupling
    assert json.loads(json.dumps(data)) == data  # nothing but lists, dicts, strings and numbers
    decoupling.save(tmp_path / "d.json")
    assert Decoupling.load(tmp_path / "d.json") == decoupling
    assert json.loads((tmp_path / "d.json").read_text()) == data


def test_the_dict_is_a_copy() -> None:
    decoupling = plan(M.InfoPro())
    data = decoupling.to_dict()
    data["options"]["mean"].append(1.0)
    data["blocks"][0]["loss"]["options"]["mean"].append(1.0)
    assert decoupling == plan(M.InfoPro())


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_loaded_decoupling_gives_the_same_gradients(rule: M.Method, tmp_path: Path) -> None:
    x, y = batch("plain_conv")
    first = localgrad.decouple(build("plain_conv"), rule, example_input=x)
    first.decoupling.save(tmp_path / "d.json")
    loaded = Decoupling.load(tmp_path / "d.json")
    second = localgrad.decouple(build("plain_conv"), loaded, example_input=x)
    for learner in (first, second):
        torch.manual_seed(1)
        learner.step(x, y)
    assert [n for n, _ in first.named_parameters()] == [n for n, _ in second.named_parameters()]
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a.grad, b.grad) if a.grad is not None else b.grad is None


def edited(*path: Any, value: Any = None, remove: bool = False) -> dict[str, Any]:
    data = json.loads(json.dumps(plan(M.BackLink()).to_dict()))
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (edited("format", value=2), "decoupling format 2: expected 1"),
        (edited("format", remove=True), "decoupling format None: expected 1"),
        (edited("blocks", remove=True), "the decoupling has no key 'blocks'"),
        (edited("units", remove=True), "the decoupling has no key 'units'"),
        (edited("blocks", 1, "stop", remove=True), "the decoupling: blocks 1 has no key 'stop'"),
        (edited("blocks", 0, "head", "name", remove=True), "blocks 0: head has no key 'name'"),
        (edited("method", value=3), "method is 3: expected a text"),
        (edited("unit", value=[]), "unknown key 'unit': known are method, units, blocks, options"),
        (edited("blocks", 0, "heads", value=None), "blocks 0 has an unknown key 'heads'"),
        (edited("blocks", 1, "link", "len", value=1), "link has an unknown key 'len'"),
        (edited("units", value="02579"), "units is '02579': expected a list"),
        (edited("units", 0, value=0), "units 0 is 0: expected a text"),
        (edited("blocks", value={"start": 0}), "blocks is .*: expected a list"),
        (edited("blocks", value=["start"]), "blocks 0 is 'start': expected an object"),
        (edited("blocks", 0, "start", value="0"), "start is '0': expected a whole number"),
        (edited("blocks", 0, "start", value=0.0), "start is 0.0: expected a whole number"),
        (edited("blocks", 0, "start", value=False), "start is False: expected a whole number"),
        (edited("blocks", 1, "open", value="no"), "open is 'no': expected true or false"),
        (edited("blocks", 1, "head", value="dgl"), "head is 'dgl': expected an object"),
        (edited("blocks", 1, "link", "weight", value="1"), "weight is '1': expected a number"),
        (edited("blocks", 1, "link", "keep_error", value=1), "keep_error is 1: expected true or"),
        (edited("options", value=[]), r"options is \[\]: expected an object"),
        (edited("blocks", value=[]), "it has no block"),
        (edited("blocks", 1, "start", value=2), "block 1 starts at unit 2, expected 1"),
        (edited("blocks", 1, "start", value=0), "block 1 starts at unit 0, expected 1"),
        (edited("blocks", 1, "stop", value=1), "block 1 is empty; block 2 starts at unit 2"),
        (edited("blocks", 4, "stop", value=6), "the blocks end at unit 6, the network at 5"),
        (edited("blocks", 4, "head", value={"name": "dgl"}), "block 4 is the last: .* without a"),
        (edited("blocks", 2, "head", value=None), "block 2 has no head"),
        (edited("blocks", 0, "link", value={"length": 1}), "block 0 has no block before it"),
        (edited("blocks", 0, "open", value=True), "block 0 has no block before it"),
        (edited("blocks", 1, "open", value=True), "block 1 has a link and an open border"),
        (edited("blocks", 1, "checkpoint", value="all"), "block 1: checkpoint 'all' must be"),
        (edited("blocks", 1, "link", "length", value=-1), "block 1: link length -1 must be a"),
        (edited("blocks", 1, "link", "length_unit", value="x"), "link length_unit 'x' must be"),
        (edited("blocks", 1, "link", "combine", value="mean"), "link combine 'mean' must be"),
        (edited("blocks", 1, "link", "weight", value=float("nan")), "link weight nan must be fin"),
    ],
)
def test_hand_edited(data: dict[str, Any], message: str) -> None:
    with pytest.raises(LocalgradError, match=message):
        Decoupling.from_dict(data)


def test_optional_keys_may_be_left_out() -> None:
    data = {
        "format": 1,
        "method": "mine",
        "units": ["a", "b"],
        "blocks": [
            {"start": 0, "stop": 1, "head": {"name": "dgl"}},
            {"start": 1, "stop": 2, "link": {"length": 1, "weight": 2}},
        ],
    }
    blocks = (Block(0, 1, Part("dgl")), Block(1, 2, link=Link(1, weight=2)))
    assert Decoupling.from_dict(data) == Decoupling("mine", ("a", "b"), blocks)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(LocalgradError) as caught:
        Decoupling("x", ("a", "b", "c"), (Block(0, 1), Block(2, 3, LINEAR)))
    for text in ("block 0 has no head", "block 1 starts at unit 2", "block 1 is the last"):
        assert text in str(caught.value)


def test_files_that_are_no_decoupling(tmp_path: Path) -> None:
    with pytest.raises(LocalgradError, match=r"cannot read .*none.json: No such file"):
        Decoupling.load(tmp_path / "none.json")
    for text, message in [("{", "is not a decoupling file"), ("[]", "expected an object")]:
        path = tmp_path / "d.json"
        path.write_text(text)
        with pytest.raises(LocalgradError, match=message):
            Decoupling.load(path)


def test_a_decoupling_for_another_network() -> None:
    x, _ = batch("plain_conv")
    with pytest.raises(
        LocalgradError, match=r"is for 5 units \(0 \.\. 9\), the network has 7 \(stem"
    ):
        localgrad.decouple(resnet_cifar(14), plan(M.Greedy()), example_input=x.float())


def test_a_finished_decoupling_has_its_cuts() -> None:
    x, _ = batch("plain_conv")
    with pytest.raises(LocalgradError, match="has its cuts"):
        localgrad.decouple(build("plain_conv"), plan(M.Greedy()), blocks=2, example_input=x)


class Outer:
    @staticmethod
    def builder(site: Any) -> nn.Module:
        return nn.Identity()


def test_parts_name_what_can_be_imported() -> None:
    assert Part.of("dgl") == Part("dgl")
    assert Part.of("dgl", a=1) == Part("dgl", {"a": 1})
    assert Part.of(Part("x", {"a": 1})) == Part("x", {"a": 1})
    assert Part.of(nn.Linear, bias=False) == Part("torch.nn.modules.linear:Linear", {"bias": False})
    assert Part.of(Outer.builder).name == f"{__name__}:Outer.builder"
    assert str(Part("x", {"a": 1, "b": "c"})) == "x(a=1, b=c)"

    def local(site: Any) -> nn.Module:
        return nn.Identity()

    for nameless in (lambda site: nn.Identity(), local, functools.partial(Outer.builder)):
        with pytest.raises(LocalgradError, match="define it at the top of a module"):
            Part.of(nameless)


def rows(text: str) -> list[list[bool]]:
    return [[mark == "#" for mark in line] for line in re.findall(r"[#.]+", text)]


# five units (the last column is the tail)
@pytest.mark.parametrize(
    ("rule", "cuts", "expected"),
    [
        (M.Backprop(), (2, 5), "######"),
        (M.Greedy(), None, "#..... .#.... ..#... ...#.. ....##"),
        (M.Greedy(), (2, 5), "##.... ..####"),
        (M.DGL(), (2, 5), "##.... ..####"),
        (M.PredSim(), (2, 5), "##.... ..####"),
        (M.InfoPro(), (2, 5), "##.... ..####"),
        (M.AugLocal(2), None, "#..... .#.... ..####"),
        (M.AugLocal(1), (1, 3, 5), "#..... .#####"),
        (M.BWBPF(), (2, 5), "##.... ..###. .....#"),
        (M.DeepSupervision(), (2, 5), "##.... #####. ######"),
        (M.DeepSupervision(), (1, 3, 5), "#..... ###... #####. ######"),
        (M.BackLink(), None, "#..... ##.... .##... ..##.. ...###"),
        (M.BackLink(), (1, 3, 5), "#..... ###... ..####"),
        (M.BackLink(length=0), (2, 5), "##.... ..####"),
        (M.BackLink(length=2), (3, 5), "###... .#####"),
        (M.BackLink(length=9), (1, 3, 5), "#..... ###... .#####"),
        (M.BackLink(combine="replace"), (2, 5), "#..... .#####"),
        (M.BackLink(combine="replace"), None, "...... #..... .#.... ..#... ...###"),
        (M.BackLink(length=9, combine="replace"), (1, 3, 5), "...... #..... .#####"),
        (M.BackLink(length_unit="layer"), (2, 5), "##.... .#####"),
    ],
    ids=str,
)
def test_declared_reach(rule: M.Method, cuts: tuple[int, ...] | None, expected: str) -> None:
    assert plan(rule, cuts).reach() == rows(expected)


def test_declared_reach_in_layers() -> None:
    decoupling = Decoupling(
        "x",
        ("a", "b", "c"),
        (Block(0, 2, LINEAR), Block(2, 3, link=Link(2, length_unit="layer"))),
    )
    assert decoupling.reach([1, 2, 1]) == rows("##.. .###")
    assert decoupling.reach([1, 1, 1]) == rows("##.. ####")
    assert decoupling.reach([1, 3, 1]) == rows("##.. .###")  # the link ends inside unit b
    replaced = Decoupling(
        "x",
        ("a", "b", "c"),
        (Block(0, 2, LINEAR), Block(2, 3, link=Link(2, "layer", "replace"))),
    )
    assert replaced.reach([1, 2, 1]) == rows("#... .###")
    assert replaced.reach([1, 3, 1]) == rows("##.. .###")  # b's first layer stays local


def test_declared_reach_of_a_link_behind_an_open_border() -> None:
    decoupling = Decoupling(
        "x",
        ("a", "b", "c", "d"),
        (
            Block(0, 2, LINEAR),
            Block(2, 3, LINEAR, link=Link(1)),
            Block(3, 4, open=True),
        ),
    )
    assert decoupling.reach() == rows("##... .##.. .####")
