"""The published tables as files: every row is a checked recipe, and its figures are the paper's."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from localgrad import Chain, LocalgradError, networks
from localgrad.data import load
from localgrad.experiment.build import build
from localgrad.experiment.building.method import build_method
from localgrad.experiment.compare import slug
from localgrad.experiment.reproduce.scaling import cost_marks, run_config, scaled
from localgrad.experiment.reproduce.table import FOLDER, names, read
from localgrad.networks import Facts

ROOT = Path(__file__).resolve().parents[1]
TABLES = (
    "auglocal/resnet110", "auglocal/resnet32", "backlink/cifar10", "backlink/cifar100",
    "backlink/cost", "backlink/stl10", "bwbpf/cifar10", "bwbpf/tiny-imagenet", "infopro/cifar10",
    "infopro/memory", "infopro/stl10", "infopro/svhn",
)  # fmt: skip
#: Classes and images of the training set, and pixels: of the data sets, typed from their papers.
DATA = {
    "cifar10": (10, 50_000, 32), "cifar100": (100, 50_000, 32), "svhn": (10, 73_257, 32),
    "stl10": (10, 5_000, 96), "tiny-imagenet": (200, 100_000, 64),
}  # fmt: skip


def every_row() -> list[Any]:
    return [(name, row) for name in names() for row in read(name).rows]


def test_names() -> None:
    assert names() == TABLES


def test_the_files_are_where_recipes_are_looked_for() -> None:
    """The folder of recipes shows those of the package."""
    for paper in ("auglocal", "backlink", "bwbpf", "infopro"):
        link = ROOT / "recipes" / paper
        assert link.resolve() == FOLDER / paper


def test_the_package_carries_them() -> None:
    """The patterns of package data, by which setuptools fills a wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    package = ROOT / "src" / "localgrad"
    patterns = project["tool"]["setuptools"]["package-data"]["localgrad"]
    carried = {path for pattern in patterns for path in package.glob(pattern)}
    assert carried >= {package / "recipes" / f"{name}.yaml" for name in TABLES}


# --- recipes


@functools.cache
def chain_of(network: str, data: str) -> Chain:
    classes, _, size = DATA[data]
    with torch.device("meta"):
        return Chain.of(networks.get(network, Facts(classes, 3, (size, size))))


@pytest.mark.parametrize("name", TABLES)
def test_every_row_makes_as_many_losses_as_it_says(name: str) -> None:
    for row in read(name).rows:
        if row.lacks is not None:
            assert row.config is None
            continue
        config = row.config
        assert config is not None
        assert config.network.name == row.network
        chain = chain_of(row.network, config.data.name)
        decoupling = build_method(config.method)(chain, chain.cuts(config.blocks, config.cuts))
        assert len(decoupling) == row.losses, row.name
        assert row.published or row.note or row.name in ("bp", "dgl"), row.name


@pytest.mark.parametrize("name", TABLES)
def test_images_are_those_of_the_data_set(name: str) -> None:
    found = read(name)
    for row in found.rows:
        if row.config is not None:
            assert found.images == DATA[row.config.data.name][1]


def test_losses_as_the_rules_define_them() -> None:
    def losses(name: str) -> dict[str, int | None]:
        return {row.name: row.losses for row in read(name).rows}

    assert losses("auglocal/resnet32") == {
        "bp": 1, "predsim": 16, "dgl": 16, "infopro": 16, "auglocal-d2": 14, "auglocal-d5": 11,
    }  # fmt: skip
    deep = losses("auglocal/resnet110")
    assert [deep[f"auglocal-d{d}"] for d in (2, 3, 4, 5, 6)] == [53, 52, 51, 50, 49]
    grid = losses("infopro/cifar10")
    assert all(count == int(row.rpartition("-k")[2]) for row, count in grid.items() if "-k" in row)
    stages = losses("bwbpf/cifar10")  # the output layer has a loss of its own
    assert (stages["vgg19-bwbpf"], stages["resnet152-bwbpf"], stages["resnet50-dgl"]) == (6, 5, 4)


SMALL = (
    ("infopro/cifar10", "resnet32-infopro-softmax-k4"),
    ("infopro/cifar10", "resnet110-greedy-k8"),
    ("infopro/memory", "infopro-star-k4"),
    ("auglocal/resnet32", "auglocal-d5"),
    ("backlink/cifar10", "backlink"),
    ("bwbpf/cifar10", "vgg19-deep-supervision"),
    ("bwbpf/cifar10", "resnet50-predsim"),
)


@pytest.mark.parametrize(("name", "row_name"), SMALL)
def test_learners_build(name: str, row_name: str) -> None:
    row = read(name).row(row_name)
    data = load("digits", limit=64, size=32, channels="rgb")
    changes = [("network.width", 4), ("batch_size", 32), ("device", "cpu")]
    learner = build(run_config(row, 0, changes), data).learner
    assert len(learner.decoupling) == row.losses


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        (
            "infopro/cifar10",
            "resnet110-dgl-k8",
            (160, 1024, 0.8, 1e-4, True, "cosine", 10, 0.01, "reflect", 4, True),
        ),
        (
            "bwbpf/cifar10",
            "resnet101-bwbpf",
            (400, 128, 0.1, 5e-4, False, "cosine", 0, None, "zero", 4, True),
        ),
        (
            "bwbpf/tiny-imagenet",
            "vgg19-dgl",
            (200, 32, 0.1, 5e-4, False, "cosine", 0, None, "zero", 4, True),
        ),
        (
            "auglocal/resnet110",
            "auglocal-d6",
            (400, 1024, 0.8, 1e-4, True, "cosine", 10, 0.01, "reflect", 4, True),
        ),
        (
            "infopro/svhn",
            "resnet110-dgl-k2",
            (160, 1024, 0.8, 1e-4, True, "cosine", 10, 0.01, "zero", 2, False),
        ),
        (
            "infopro/stl10",
            "resnet110-dgl-k2",
            (160, 128, 0.1, 1e-4, True, "cosine", 10, 0.01, "zero", 4, True),
        ),
    ],
)
def test_recipes(name: str, row: str, expected: tuple[Any, ...]) -> None:
    config = read(name).row(row).config
    assert config is not None
    assert (config.optimizer.name, config.optimizer.momentum) == ("sgd", 0.9)
    assert (config.data.limit, config.precision) == (None, "fp32")
    assert expected == (
        *(config.epochs, config.batch_size, config.optimizer.lr, config.optimizer.weight_decay),
        *(config.optimizer.nesterov, config.schedule.name, config.schedule.warmup_epochs),
        *(config.schedule.warmup_lr, config.data.padding, config.data.pad, config.data.flip),
    )


# --- figures, typed once more from the papers' tables


def values(name: str) -> dict[str, float]:
    return {row.name: row.published[0].value for row in read(name).rows if row.published}


GRID = {
    "resnet32": {
        "greedy": (10.30, 16.07, 21.19, 24.59),
        "dgl": (8.69, 11.48, 14.17, 16.21),
        "infopro-softmax": (8.13, 8.64, 11.40, 14.23),
        "infopro": (7.76, 8.58, 11.13, 12.75),
    },
    "resnet110": {
        "greedy": (8.21, 13.16, 15.61, 18.92),
        "dgl": (7.70, 10.50, 12.46, 13.80),
        "infopro-softmax": (7.01, 7.96, 9.40, 10.78),
        "infopro": (6.42, 7.30, 8.93, 9.90),
    },
}


def test_infopro_grid() -> None:
    expected = {"resnet32-bp": 7.37, "resnet110-bp": 6.50}
    for network, rules in GRID.items():
        for rule, row in rules.items():
            expected |= {f"{network}-{rule}-k{2**i}": v for i, v in enumerate(row, start=1)}
    assert values("infopro/cifar10") == expected
    svhn, stl = values("infopro/svhn"), values("infopro/stl10")
    assert (svhn["resnet110-bp"], stl["resnet110-bp"]) == (3.07, 22.27)
    assert [svhn[f"resnet110-dgl-k{k}"] for k in (2, 4, 8, 16)] == [3.61, 4.97, 5.35, 5.55]
    assert [svhn[f"resnet110-infopro-k{k}"] for k in (2, 4, 8, 16)] == [3.15, 3.28, 3.62, 3.91]
    assert [stl[f"resnet110-dgl-k{k}"] for k in (2, 4, 8, 16)] == [24.96, 26.77, 27.33, 27.73]
    assert [stl[f"resnet110-infopro-k{k}"] for k in (2, 4, 8, 16)] == [20.99, 22.73, 25.15, 26.27]


BWBPF = {
    "bwbpf/cifar10": {
        "bp": (12.31, 7.99, 7.14, 6.35),
        "predsim": (13.87, 8.93, 7.93, 7.41),
        "dgl": (12.19, 8.27, 8.30, 6.39),
        "sedona": (11.58, 7.53, 6.59, 6.13),
        "bwbpf": (6.52, 4.85, 4.53, 4.48),
    },
    "bwbpf/tiny-imagenet": {
        "bp": (47.11, 46.54, 44.50, 39.18),
        "predsim": (55.30, 55.22, 46.80, 48.24),
        "dgl": (48.70, 46.04, 46.20, 42.36),
        "sedona": (43.44, 45.60, 40.88, 35.90),
        "bwbpf": (40.09, 35.83, 35.28, 35.01),
    },
}


@pytest.mark.parametrize("name", BWBPF)
def test_bwbpf(name: str) -> None:
    found = values(name)
    nets = ("vgg19", "resnet50", "resnet101", "resnet152")
    for rule, row in BWBPF[name].items():
        assert tuple(found[f"{net}-{rule}"] for net in nets) == row
    for net in nets:  # what the code does stands beside the paper's figure, under its own name
        row = read(name).row(f"{net}-deep-supervision")
        assert row.published[0].value == found[f"{net}-bwbpf"]
        assert row.config is not None
        assert row.config.method.name == "deep_supervision"
        assert "stated there for BWBPF" in row.published[0].source
        cited = read(name).row(f"{net}-dgl").published[0]
        assert (cited.certainty, "SEDONA" in cited.source) == ("as cited by another paper", True)


def test_auglocal_is_from_memory() -> None:
    assert values("auglocal/resnet32") == {
        "bp": 93.7, "predsim": 77.3, "dgl": 85.9, "infopro": 87.1, "auglocal-d2": 91.1,
        "auglocal-d5": 93.4,
    }  # fmt: skip
    assert values("auglocal/resnet110") == {
        "bp": 94.6, "predsim": 75.0, "dgl": 85.7, "infopro": 87.0, "auglocal-d2": 91.0,
        "auglocal-d3": 92.6, "auglocal-d4": 93.2, "auglocal-d5": 93.8, "auglocal-d6": 94.0,
    }  # fmt: skip
    for name in ("auglocal/resnet32", "auglocal/resnet110"):
        for row in read(name).rows:
            assert [figure.certainty for figure in row.published] == ["from memory, unverified"]


def test_claims() -> None:
    def figures(name: str, row: str) -> list[tuple[str, float, str | None]]:
        return [(f.what, f.value, f.than) for f in read(name).row(row).published]

    assert figures("backlink/cifar10", "backlink")[1:] == [
        ("accuracy above", 4.0, "dgl"),
        ("accuracy above", 4.0, "greedy"),
        ("accuracy above", 1.83, "infopro-softmax"),
    ]
    assert figures("backlink/cifar100", "backlink")[0] == ("accuracy above", 6.45, "dgl")
    assert figures("backlink/stl10", "backlink") == [("accuracy above", 2.58, "infopro")]
    assert figures("backlink/cost", "backlink") == [("memory below", 79, "bp")]
    assert figures("backlink/cost", "backlink-simulated-time") == [("time below", 52, "bp")]
    assert figures("infopro/memory", "bp") == [("memory", 9.4, None)]
    assert figures("infopro/memory", "checkpointing") == [
        ("memory", 3.91, None), ("memory below", 58, "bp"), ("time above", 27.5, "bp"),
    ]  # fmt: skip
    assert figures("infopro/memory", "infopro-star-k4") == [
        ("memory", 3.52, None), ("memory below", 63, "bp"), ("time above", 13, "bp"),
        ("accuracy above", -0.4, "bp"),
    ]  # fmt: skip


def test_what_is_assumed_names_an_option() -> None:
    for name, row in every_row():
        if row.config is None:
            continue
        sections = {"method", "data", "optimizer", "schedule"}
        for option in row.assumed:
            section, dot, key = option.partition(".")
            if dot:
                assert section in sections
                known = getattr(row.config, section).model_dump()
                default = build_method(row.config.method) if section == "method" else None
                assert key in known or hasattr(default, key), (name, row.name, option)
            else:
                assert hasattr(row.config, option), (name, row.name, option)


# --- what is scaled down


def test_scaled_says_exactly_what() -> None:
    table = read("infopro/cifar10")
    row = table.row("resnet32-dgl-k4")
    assert scaled(table, row, run_config(row, 3, [("device", "cpu"), ("threads", 1)], "x")) == []
    config = run_config(row, 0, [("epochs", 4), ("data.limit", 512), ("data.test_limit", 100)])
    assert config.schedule.warmup_epochs == 0.25
    assert scaled(table, row, config) == [
        "images 512 of 50,000",
        "test images 100",
        "epochs 4 of 160, warm-up in proportion",
    ]
    summary = {"train_images": 500, "data": "cifar10 (JPEG copy)"}
    assert scaled(table, row, config, summary)[0] == "images 500 of 50,000"
    assert scaled(table, row, config, summary)[-1] == "data: cifar10 (JPEG copy)"
    other = {"train_images": 73_257, "data": "cifar10"}  # not the images that were published
    assert scaled(table, row, run_config(row, 0), other) == ["images 73,257, not 50,000"]
    whole = {"train_images": 50_000, "data": "cifar10"}
    assert scaled(table, row, run_config(row, 0, [("data.limit", 50_000)]), whole) == []
    changes: list[tuple[str, Any]] = [
        ("network.width", 4), ("batch_size", 64), ("optimizer.lr", 0.1), ("precision", "bf16"),
        ("schedule.warmup_epochs", 1),
    ]  # fmt: skip
    assert sorted(scaled(table, row, run_config(row, 0, changes))) == [
        "batch 64 of 1,024",
        "network.width 4",
        "optimizer.lr 0.1, not 0.8",
        "precision bf16, not fp32",
        "schedule.warmup_epochs 1, not 10",
    ]


def test_memory_is_scaled_by_the_batch_and_not_by_the_epochs() -> None:
    table = read("infopro/memory")
    row = table.row("bp")

    def marks(*changes: tuple[str, Any]) -> list[str]:
        config = run_config(row, 0, changes)
        return cost_marks(row, config, scaled(table, row, config))

    assert marks(("epochs", 1), ("data.limit", 1024)) == []
    assert marks(("epochs", 1), ("batch_size", 64)) == ["batch 64 of 1,024"]
    assert marks(("data.limit", 512)) == ["batch 512 of 1,024"]
    assert marks(("network.width", 8)) == ["network.width 8"]


@pytest.mark.parametrize(
    "key", ["method.name", "method.mode", "blocks", "cuts", "network.name", "data.name", "seed"]
)
def test_a_change_makes_no_other_row(key: str) -> None:
    row = read("infopro/cifar10").row("resnet32-bp")
    with pytest.raises(LocalgradError, match=f"--{key} would make another row"):
        run_config(row, 0, [(key, 1)])


# --- mistakes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("infopro/cifar11", "unknown table 'infopro/cifar11'; did you mean 'infopro/cifar10'?"),
        ("svhn", "unknown table 'svhn'; did you mean 'infopro/svhn'?"),
        ("qqq", "unknown table 'qqq'; known are auglocal/resnet110, "),
        ("none.yaml", "cannot read none.yaml: No such file"),
    ],
)
def test_unknown_tables(name: str, message: str) -> None:
    with pytest.raises(LocalgradError) as caught:
        read(name)
    assert message in str(caught.value)


def test_rows_are_found_or_refused() -> None:
    table = read("bwbpf/cifar10")
    chosen = table.chosen(["resnet50-dgl", "vgg19-bp"])
    assert [row.name for row in chosen] == ["vgg19-bp", "resnet50-dgl"]
    for asked, message in (
        (["vgg19-bb"], "table bwbpf/cifar10 has no row 'vgg19-bb'; did you mean 'vgg19-bp'?"),
        (["vgg19-bp", "vgg19-bp"], "row 'vgg19-bp' is named twice"),
        (["vgg19-sedona"], "row 'vgg19-sedona' cannot be run: SEDONA's rule"),
    ):
        with pytest.raises(LocalgradError) as caught:
            table.chosen(asked)
        assert message in str(caught.value)


GOOD = """
title: t
paper: p
published: {what: test error, source: s, certainty: as published}
recipe: {network: resnet20, data: {name: digits}, epochs: 2, batch_size: 32, optimizer: {lr: 0.1}}
rows:
  - {name: bp, method: backprop, published: 1}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 2", "epochs: 0", "row 'bp': epochs: must be greater than or equal to 1"),
        ("epochs: 2,", "", "row 'bp': its recipe has no 'epochs'"),
        ("epochs: 2", "epoch: 2", "row 'bp': its recipe has no 'epochs'"),
        ("epochs: 2", "epochs: 2, epoch: 2", "row 'bp': unknown option 'epoch'"),
        ("published: 1}", "published: high}", "row 'bp': published.0.value: must be a number"),
        ("test error", "tset error", "row 'bp': published.0.what: must be"),
        ("as published", "sure", "row 'bp': published.0.certainty: must be"),
        ("name: bp", "name: B P", "a row's name must be of a-z, 0-9, '.' and '-', got 'B P'"),
        ("title: t", "titel: t", "title is missing"),
        ("rows:\n", "lines:\n", "rows: must be a list of rows"),
        ("test error", "accuracy above", "needs 'than': the row that it is against"),
        ("test error", "memory below, than: x", "row 'bp': there is no row 'x'"),
        (
            "published: 1}",
            "published: 1}\n  - {name: bp, method: dgl}",
            "row 'bp' stands there twice",
        ),
    ],
)
def test_damaged_tables(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(GOOD, encoding="utf-8")
    assert read(str(path)).name == "own"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(LocalgradError) as caught:
        read(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_row_names_make_folders() -> None:
    for _, row in every_row():
        assert slug(row.name) == row.name
