"""Decoupling files: places in them, damage by hand, those that ship; transfer and train by them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import localgrad
from command import SMALL, error_line, metrics, train, words
from command import read as read_json
from localgrad import Block, Decoupling, LocalgradError, Part
from localgrad import methods as M
from localgrad.cli import main
from localgrad.experiment.build import build
from localgrad.experiment.config import build_config
from localgrad.experiment.decoupling_file import FOLDER, for_data, label, names, read
from localgrad.experiment.saved import load_run
from localgrad.networks import resnet20, resnet32
from localgrad.places import Place
from published_table import SEARCHED, TABLE, searched

X = torch.rand(2, 3, 32, 32)
FOUND = localgrad.decouple(
    resnet20(width=4), M.AugLocal(1), cuts=["1.1", "2.0", "2.2"], example_input=X
).decoupling


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """A file of a decoupling of resnet20."""
    path = tmp_path / "found.yaml"
    FOUND.save(path)
    return path


# --- what a file says


def test_a_file_names_cuts_by_place(found: Path) -> None:
    data = json.loads(found.read_text())
    assert data["stages"] == [4, 3, 3]
    assert data["cuts"] == [
        {"unit": "1.1", "depth": 0.3, "stage": 1, "number": 3, "of": 4},
        {"unit": "2.0", "depth": 0.5, "stage": 2, "number": 1, "of": 3},
    ]
    assert len(found.read_text().splitlines()) < 25  # a line for each cut and block
    assert str(FOUND.cuts[0]) == "1.1 (0.30; stage 1, 3 of 4)"
    assert Decoupling.load(found) == read(found) == FOUND
    assert Decoupling.load(found).stages == FOUND.stages


def test_old_files_load(found: Path) -> None:
    data = json.loads(found.read_text())
    for key in ("source", "stages", "cuts", "ties"):
        del data[key]
    old = Decoupling.from_dict(data)
    assert old == FOUND
    assert old.cuts[0] == Place("1.1", 0.3)
    again = Decoupling.from_dict(old.to_dict())
    assert again.cuts == old.cuts


def test_stages_and_source_are_no_difference() -> None:
    plain = Decoupling("a", ("x", "y"), (Block(0, 2),))
    assert plain == Decoupling("a", ("x", "y"), (Block(0, 2),), stages=(1, 1), source="a paper")


def test_yaml_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "# two blocks\n"
        "format: 1\n"
        "method: mine\n"
        "units: ['a', 'b', 'c']\n"
        "blocks:\n"
        "- {start: 0, stop: 2, head: {name: pool_linear}}\n"
        "- {start: 2, stop: 3}\n"
    )
    blocks = (Block(0, 2, Part("pool_linear")), Block(2, 3))
    assert read(path) == Decoupling("mine", ("a", "b", "c"), blocks)


def edited(*path: Any, value: Any = None, remove: bool = False) -> dict[str, Any]:
    data = copy.deepcopy(FOUND.to_dict())
    inner: Any = data
    for key in path[:-1]:
        inner = inner[key]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


DAMAGE: list[tuple[Any, str]] = [
    (edited("method", remove=True), "the decoupling has no key 'method'"),
    (edited("blocks", 1, "start", remove=True), "blocks 1 has no key 'start'"),
    (edited("blocks", 0, "stop", value=4), "block 1 starts at unit 3, expected 4"),
    (edited("blocks", 0, "stop", value=-1), "block 0 is empty"),
    (edited("blocks", 1, "stop", value=3), "block 1 is empty"),
    (edited("blocks", 2, "stop", value=11), "the blocks end at unit 11, the network at 10"),
    (edited("units", 3, value="1.1"), "two units are called '1.1'"),
    (edited("units", value=[1.0, 1.1]), "units 0 is 1.0: expected a text"),
    (edited("stages", value=[4, 3]), r"stages \[4, 3\] must be .* add up to 10 units"),
    (edited("stages", value=[11, -1]), r"stages \[11, -1\] must be"),
    (edited("stages", 0, value="4"), "stages 0 is '4': expected a whole number"),
    (edited("stages", value=3), "stages is 3: expected a list"),
    (edited("source", value=1), "source is 1: expected a text"),
    (edited("cuts", value="1.1"), "cuts is '1.1': expected a list"),
    (edited("cuts", 0, value="1.1"), "cuts 0 is '1.1': expected an object"),
    (edited("cuts", 0, "unit", remove=True), "cuts 0 has no key 'unit'"),
    (edited("cuts", 0, "when", value=1), "cuts 0 has an unknown key 'when'"),
    (edited("cuts", 0, "depth", value="0.3"), "cuts 0: depth is '0.3': expected a number"),
    (edited("cuts", 0, "depth", value=1.3), "cuts 0: depth 1.3 must be above 0 and at most 1"),
    (edited("cuts", 0, "depth", value=-0.1), "cuts 0: depth -0.1 must be above 0"),
    (edited("cuts", 0, "depth", value=0.4), "cuts 0: depth is 0.4, but block 0 ends at unit '1.1'"),
    (edited("cuts", 0, "unit", value="9.9"), "unit is '9.9', but block 0 ends at unit '1.1'"),
    (edited("cuts", 0, "stage", value=2), "stage is 2, but block 0 ends .* where it is 1"),
    (edited("cuts", 1, "of", value=None), "of is None, but block 1 ends"),
    (edited("cuts", value=FOUND.to_dict()["cuts"][::-1]), "cuts 0: unit is '2.0', but block 0"),
    (edited("cuts", 1, remove=True), "cuts has 1, blocks make 2"),
    ([1, 2], "expected options .* got a list"),
    ("", "expected options .* got nothing"),
    ("{", "is not YAML"),
]


@pytest.mark.parametrize(("data", "message"), DAMAGE)
def test_damage_is_one_line(
    data: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "damaged.yaml"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(LocalgradError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    for command in (["transfer", str(path)], ["train", "--decoupling", str(path)]):
        assert main(command) == 2
        assert str(caught.value) in error_line(capsys)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (edited("blocks", 0, "head", "name", value="pool_liner"), "unknown head 'pool_liner'"),
        (edited("blocks", 0, "head", "options", value={"units": ["9.9"]}), "'9.9'"),
        (edited("blocks", 0, "head", "options", value={"units": 3}), "3"),
        (edited("blocks", 0, "head", "options", value={"unit": []}), "unit"),
        (edited("blocks", 1, "loss", "name", value="tusk"), "unknown loss 'tusk'"),
    ],
)
def test_parts_in_a_file_that_do_not_exist(
    data: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "damaged.yaml"
    path.write_text(json.dumps(data))
    assert main(["transfer", str(path), "--network.width", "4"]) == 2
    assert message in error_line(capsys)
    assert train(tmp_path / "x", decoupling=path) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "x").exists()


def test_no_such_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["transfer", "dgl-resnet32-k5"]) == 2
    assert "did you mean 'dgl-resnet32-k" in error_line(capsys)
    assert main(["transfer", "nothing.yaml"]) == 2
    assert "no decoupling file 'nothing.yaml'" in error_line(capsys)
    assert main(["transfer", str(tmp_path)]) == 2  # a folder that is no run's
    assert "cannot read" in error_line(capsys)
    assert main(["transfer"]) == 2
    assert "transfer needs DECOUPLING" in error_line(capsys)
    assert main(["transfer", "a", "b"]) == 2
    assert "transfer takes one decoupling: what is 'b'?" in error_line(capsys)


# --- those that ship


def test_what_ships_is_in_the_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"names": [], "error": "not asked"}  # other libraries take their time
    monkeypatch.setattr("localgrad.cli.listing._family", lambda library: nothing)
    assert set(names()) == set(TABLE) | set(SEARCHED)
    path = tmp_path / "all.json"
    assert main(["list", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names())
    sources = read_json(path)["decouplings"]
    published = {name: shipped.source for name, shipped in TABLE.items()}
    assert sources == published | {name: searched(name).source for name in SEARCHED}


_SLOW = {name for name in TABLE if "152" in name}  # alike resnet101's, and larger


@pytest.mark.parametrize("name", sorted(set(TABLE) - _SLOW))
def test_what_ships_is_what_the_rule_makes(name: str, tmp_path: Path) -> None:
    shipped, kept = TABLE[name].made(width=4), read(name)
    assert kept == shipped
    assert (kept.stages, kept.source) == (shipped.stages, shipped.source)
    assert FOLDER / f"{name}.yaml" in FOLDER.iterdir()
    shipped.save(tmp_path / "made.yaml")
    assert (tmp_path / "made.yaml").read_bytes() == (FOLDER / f"{name}.yaml").read_bytes()


@pytest.mark.parametrize("name", SEARCHED)
def test_what_ships_is_what_the_search_found(name: str, tmp_path: Path) -> None:
    kept = searched(name)
    kept.save(tmp_path / "made.yaml")
    assert (tmp_path / "made.yaml").read_bytes() == (FOLDER / f"{name}.yaml").read_bytes()
    localgrad.decouple(
        localgrad.networks.resnet20(), read(name), example_input=torch.rand(2, 3, 32, 32)
    )


@pytest.mark.parametrize("name", sorted(_SLOW))
def test_what_ships_for_the_largest(name: str) -> None:
    chain = localgrad.Chain.of(localgrad.networks.get(TABLE[name].network, None, width=2))
    ends = chain.cuts(TABLE[name].blocks)
    assert TABLE[name].rule(chain, ends) == read(name)


# --- transfer on the command line


def test_transfer_prints_and_writes(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, path = tmp_path / "new.yaml", tmp_path / "new.json"
    options = words({"network.name": "resnet32", "network.width": 4, "out": out, "json": path})
    assert main(["transfer", str(found), *options, "--predict", "--batch", "4"]) == 0
    text = capsys.readouterr().out
    assert "auglocal: 10 units to resnet32's 16, 3 losses" in text
    assert "1.1 (0.30; stage 1, 3 of 4)  1.2 (0.25; stage 1, 4 of 6)" in text
    assert "auglocal: redone, 3.2 -> 3.4" in text
    assert "predicted at batch 4: activations 0." in text
    assert f"localgrad train --decoupling {out} --network.name resnet32 --network.width 4" in text
    record = read_json(path)
    again = Decoupling.load(out)
    assert Decoupling.from_dict(record["decoupling"]) == again
    assert record["by"] == "stage"
    assert [block["target"]["unit"] for block in record["blocks"]] == ["1.2", "2.1", "3.4"]
    assert 0 < record["predicted"]["activations_ratio"] < 1
    expected = localgrad.search.transfer(FOUND, resnet32(width=4), X)
    assert again == expected.decoupling
    assert again.source == "transferred from 10 units to 16"


def test_transfer_without_out_writes_nothing(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(["transfer", str(found), "--network.name", "resnet20", "--network.width", "4"]) == 0
    assert "kept" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--out", "no/where.yaml"], "there is no folder no"),
        (["--batch", "4"], "--batch with --predict"),
        (["--epochs", "3"], "transfer takes no --epochs"),
        (["--input", "3x32"], "network 'resnet20' takes a shape"),
        (["--granularity", "blocks"], "granularity: must be"),
    ],
)
def test_mistakes(
    given: list[str], message: str, found: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transfer", str(found), *given]) == 2
    assert message in error_line(capsys)


def test_fewer_units_than_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", "dgl-resnet32-k16", "--network.name", "vgg11"]) == 2
    line = error_line(capsys)
    assert "has 16 blocks, the network 8 units: at most K=8 blocks fit" in line


# --- training by a file


def test_train_by_a_file(found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "x", decoupling=found) == 0
    assert capsys.readouterr().out.startswith("found  epoch 1/1")
    summary = read_json(tmp_path / "x" / "summary.json")
    assert summary["label"] == "found"
    assert summary["method"] == "auglocal"
    assert summary["method_options"] == FOUND.options
    assert summary["decoupling"] == str(found)
    assert summary["blocks"] == 3
    assert f"decoupling: {found}" in (tmp_path / "x" / "config.yaml").read_text()
    assert read(tmp_path / "x") == FOUND
    # the very run that the rule gives
    given: dict[str, Any] = {"method.name": "auglocal", "method.depth": 1}
    assert train(tmp_path / "y", cuts="[1.1, 2.0, 2.2]", **given) == 0
    assert metrics(tmp_path / "x") == metrics(tmp_path / "y")
    found.unlink()  # the run's folder holds its own
    assert load_run(tmp_path / "x").experiment.learner.decoupling == FOUND


def test_a_run_goes_on_with_the_blocks_that_it_began_with(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stopped: Any
) -> None:
    out = tmp_path / "x"
    stopped(out, found)
    assert "stopped" in error_line(capsys)
    kept = read(out)
    other = localgrad.decouple(resnet20(width=4), "dgl", blocks=3, example_input=X).decoupling
    other.save(found)
    assert train(out, "--resume", decoupling=found, epochs=2) == 2
    assert "has changed since the run" in error_line(capsys)
    found.unlink()
    assert train(out, "--resume", decoupling=found, epochs=2) == 0
    assert read(out) == kept
    assert len(metrics(out)) == 2


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], None]:
    """Begin a run and stop it after the first epoch."""

    def begin(out: Path, file: Path) -> None:
        from localgrad.experiment import loop

        close = loop._close_epoch
        with monkeypatch.context() as patch:

            def fail(*args: Any) -> Any:
                raise LocalgradError("stopped")

            calls = iter([close, fail])
            patch.setattr(loop, "_close_epoch", lambda *args: next(calls)(*args))
            assert train(out, decoupling=file, epochs=2) == 2

    return begin


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method.name": "dgl"}, "has its heads and cuts: leave out method"),
        ({"blocks": 4}, "leave out blocks"),
        ({"cuts": "1.1"}, "leave out cuts"),
        ({"balance": "memory", "blocks": 3}, "leave out blocks and balance"),
        ({"network.name": "resnet32"}, "for 10 units .* has 16 .*`localgrad transfer` carries it"),
    ],
)
def test_options_that_cannot_go_with_a_file(
    given: dict[str, Any],
    message: str,
    found: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    assert train(tmp_path / "x", decoupling=found, **given) == 2
    line = error_line(capsys)
    assert re.search(message, line)
    assert "error: :" not in line


def test_compare_takes_methods(found: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--methods", "dgl", "--decoupling", str(found)]) == 2
    assert "compare runs methods: leave out decoupling" in error_line(capsys)


def test_normalisation_is_the_data_sets(tmp_path: Path) -> None:
    model = resnet20(width=4)
    rule = M.InfoPro(mean=(0.9, 0.9, 0.9), std=(0.1, 0.2, 0.3))
    made = localgrad.decouple(model, rule, 3, example_input=(X - 0.9) / 0.3).decoupling
    made.save(tmp_path / "made.yaml")
    config = build_config(
        {
            "decoupling": str(tmp_path / "made.yaml"),
            "network": {"name": "resnet20", "width": 4},
            "data": {"limit": 40, "test_limit": 10},
            "batch_size": 8,
            "device": "cpu",
        }
    )
    experiment = build(config)
    first = experiment.learner.decoupling
    assert first.blocks[0].loss.options["mean"] == list(experiment.data.mean)
    assert first.options["std"] == list(experiment.data.std)
    assert first.blocks[2] == made.blocks[2]
    assert for_data(FOUND, experiment.data) == FOUND


def test_labels() -> None:
    assert [label(what) for what in ("a/found.yaml", "bwbpf-vgg19-k5", "runs/x.1")] == [
        *("found", "bwbpf-vgg19-k5", "x.1"),
    ]


def test_finished_blocks_without_a_file() -> None:
    config = build_config(nested(SMALL))
    experiment = build(config, decoupling=FOUND)
    assert experiment.label == "auglocal"
    assert experiment.learner.decoupling == FOUND


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return tree


def test_a_module_is_all_that_is_needed() -> None:
    """Transfer in Python asks for no file and no command line."""
    model: nn.Module = resnet32(width=4)
    found = localgrad.search.transfer(FOUND, model, X).decoupling
    learner = localgrad.decouple(model, found, example_input=X)
    assert len(learner.step(X, torch.tensor([1, 2])).losses) == 3
