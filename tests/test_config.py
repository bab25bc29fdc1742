from __future__ import annotations

import pytest

from localgrad.cli.arguments import parse
from localgrad.errors import LocalgradError
from localgrad.experiment.config import build_config, keys, to_yaml
from localgrad.experiment.tree import override, read_options
from localgrad.experiment.yaml_text import dumps, loads, read_yaml


def from_words(*words):
    return build_config(parse(["train", *words]).tree())


# --- values


def test_defaults():
    config = build_config({})
    assert (config.method.name, config.network.name, config.data.name) == (
        "backprop",
        "resnet20",
        "digits",
    )
    assert (config.epochs, config.batch_size, config.seed) == (10, 128, 0)
    assert config.blocks is config.cuts is config.out is config.data.limit is None


def test_every_option_has_a_description_and_a_valid_default():
    for key, info in keys():
        assert info.description, key
    assert build_config(loads(to_yaml(build_config({})))) == build_config({})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("5.0e-4", 5e-4), ("1E3", 1000.0), (".5", 0.5), ("-2", -2), ("1_000", 1000),
        ("0x10", 16), ("true", True), ("False", False), ("null", None), ("None", None), ("~", None),
        ("[0, 1]", [0, 1]), ("2024-01-31", "2024-01-31"), ("12:30", "12:30"), ("010", "010"),
        ("1.2.3", "1.2.3"), ("1e", "1e"), ("cuda:1", "cuda:1"), (".inf", float("inf")),
    ],
)  # fmt: skip
def test_plain_values(text, value):
    found = loads(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["1e-4", "None", "null", "2024-01-31", "010", "true", "1.0", "", "ü"]
)
def test_text_stays_text(text):
    assert loads(dumps({"key": text})) == {"key": text}


@pytest.mark.parametrize(
    ("words", "where", "value"),
    [
        (["--optimizer.lr", "1e-4"], "optimizer.lr", 1e-4),
        (["--optimizer.lr=1"], "optimizer.lr", 1.0),
        (["--data.augment", "false"], "data.augment", False),
        (["--data.augment=no"], "data.augment", False),
        (["--blocks", "4"], "blocks", 4),
        (["--blocks", "None"], "blocks", None),
        (["--blocks=null"], "blocks", None),
        (["--data.path", "null"], "data.path", None),
        (["--out", "2024"], "out", "2024"),
        (["--out=a=b"], "out", "a=b"),
        (["--out", "1e5"], "out", "1e5"),
        (["--cuts", "1.0,2.10"], "cuts", ["1.0", "2.10"]),
        (["--cuts", "[stem, '1.0', 4]"], "cuts", ["stem", "1.0", 4]),
        (["--cuts", "[]"], "cuts", []),
        (["--cuts", "None"], "cuts", None),
        (["--seeds", "3"], "seeds", [3]),
        (["--seeds", "[0, 2]"], "seeds", [0, 2]),
        (["--schedule.milestones", "0.3,0.6"], "schedule.milestones", [0.3, 0.6]),
        (["--epochs", "3", "--epochs", "4"], "epochs", 4),
    ],
)
def test_words_become_values(words, where, value):
    found = from_words(*words)
    for part in where.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_rules_by_name_or_with_options():
    config = from_words("--methods", "backprop,{name: auglocal, depth: 3}")
    assert [rule.name for rule in config.methods] == ["backprop", "auglocal"]
    assert config.methods[1].options == {"depth": 3}


def test_options_of_rule_and_network():
    config = from_words("--method.name", "backlink", "--method.weight", "1e-2", "--network.width=4")
    assert config.method.options == {"weight": 0.01}
    assert (config.network.name, config.network.options) == ("resnet20", {"width": 4})


# --- files and overrides

RECIPE = """
method: {name: auglocal, depth: 3}
network: {name: resnet32, width: 8}
data: {name: cifar10, limit: 100}
optimizer.lr: 1e-3
epochs: 7
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return str(path)


def test_words_win_over_the_file_wherever_they_stand(recipe):
    for words in (["--epochs", "2", "--config", recipe], [f"--config={recipe}", "--epochs=2"]):
        config = from_words(*words)
        assert (config.epochs, config.optimizer.lr, config.data.limit) == (2, 1e-3, 100)
        assert config.method.options == {"depth": 3}


def test_another_rule_or_network_drops_the_options_of_the_old_one(recipe):
    config = from_words(
        *("--method.length", "2", "--config", recipe, "--method.name", "backlink"),
        *("--network.name", "resnet20", "--data.name", "digits"),
    )
    assert config.method.options == {"length": 2}
    assert config.network.options == {}
    assert config.data.limit == 100  # means the same in any data set


def test_the_same_rule_keeps_its_options(recipe):
    assert from_words("--config", recipe, "--method.name", "auglocal").method.options == {
        "depth": 3
    }


def test_override_of_a_bare_name():
    tree = {"method": "auglocal"}
    override(tree, "method.depth", 3)
    assert tree == {"method": {"name": "auglocal", "depth": 3}}
    with pytest.raises(LocalgradError, match=r"'epochs.x': 'epochs' holds 3, not options"):
        override({"epochs": 3}, "epochs.x", 1)


def test_the_whole_tree_reads_back(recipe, tmp_path):
    config = from_words(
        *("--config", recipe, "--cuts", "1.0,2.10", "--optimizer.lr", "1e-7", "--out", "2024"),
        *("--methods", "{name: backlink, weight: 1e-3},greedy", "--seeds", "0,1"),
    )
    path = tmp_path / "whole.yaml"
    path.write_text(to_yaml(config))
    assert build_config(read_options(path)) == config
    assert to_yaml(build_config(read_yaml(path))) == to_yaml(config)


# --- mistakes


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"epoch": 3}, "unknown option 'epoch'; did you mean 'epochs'?"),
        ({"data": {"limits": 3}}, "unknown option 'data.limits'; did you mean 'data.limit'?"),
        ({"method": {"nme": "dgl"}}, "unknown option 'method.nme'; did you mean 'method.name'?"),
        ({"zzz": 3}, "unknown option 'zzz'"),
        ({"epochs": 0}, "epochs: must be greater than or equal to 1, got 0"),
        ({"epochs": 2.5}, "epochs: must be a whole number, got 2.5"),
        ({"epochs": True}, "got True"),
        ({"epochs": "many"}, "got 'many'"),
        ({"blocks": -1}, "blocks: must be greater than or equal to 1, got -1"),
        ({"seed": -1}, "seed: must be greater than or equal to 0"),
        ({"seed": 2**64}, "seed: must be less than"),
        ({"seeds": [1, 1]}, "seeds: the same seed twice in [1, 1]"),
        ({"optimizer": {"lr": -1}}, "optimizer.lr: must be greater than or equal to 0, got -1"),
        ({"optimizer": {"lr": float("inf")}}, "optimizer.lr: must be a finite number"),
        ({"optimizer": {"lr": "high"}}, "optimizer.lr: must be a number, got 'high'"),
        ({"optimizer": {"name": "sdg"}}, "optimizer.name: must be 'sgd' or 'adamw', got 'sdg'"),
        ({"precision": "fp8"}, "precision: must be 'fp32', 'bf16' or 'fp16', got 'fp8'"),
        ({"activation_checkpoint": "all"}, "activation_checkpoint: must be 'unit' or 'sqrt'"),
        ({"optimizer": {"update": "unit"}}, "optimizer.update: must be 'step' or 'block'"),
        (
            {"precision": "fp16", "optimizer": {"update": "block"}},
            "optimizer.update: 'block' cannot go with precision 'fp16', whose scaler must see all",
        ),
        ({"data": 5}, "data: must be options (name: value), got 5"),
        ({"method": 5}, "method: must be options (name: value), got 5"),
        ({"methods": [{"depth": 2}]}, "methods.0.name is missing"),
        ({"cuts": [1.0]}, "cuts: 1.0 is no unit: put labels in quotes"),
        ({"cuts": "stem"}, "cuts: must be a list, got 'stem'"),
        ({"schedule": {"milestones": [2]}}, "schedule.milestones.0: must be less than"),
        ({"a": 1, "epochs": 0}, "epochs"),  # all of them at once
    ],
)
def test_refused_trees(tree, message):
    with pytest.raises(LocalgradError) as caught:
        build_config(tree)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,", "is not YAML: line 1"),
        ("- 1\n- 2", "expected options (name: value), got a list"),
        ("", "got nothing"),
        ("just words", "got a str"),
        ("a: !!python/object:os.system 1", "is not YAML"),
        ("a: !!int x", "is not YAML"),
    ],
)
def test_refused_files(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(LocalgradError) as caught:
        read_yaml(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_refused_bytes_and_missing_files(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LocalgradError, match="no text in UTF-8"):
        read_yaml(path)
    with pytest.raises(LocalgradError, match="No such file"):
        read_yaml(tmp_path / "y.yaml")
    with pytest.raises(LocalgradError, match="Is a directory"):
        read_yaml(tmp_path)
