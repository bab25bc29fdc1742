"""``localgrad report``: pages drawn anew from the files of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from localgrad.cli import main

OPTIONS = [
    *("--network.name", "resnet20", "--network.width", "4", "--data.limit", "96"),
    *("--data.test_limit", "40", "--batch_size", "32", "--threads", "1", "--device", "cpu"),
    *("--epochs", "1", "--quiet"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("report")
    for name, words in {
        "bp": ["--method.name", "backprop"],
        "greedy0": ["--method.name", "greedy", "--blocks", "3"],
        "greedy1": ["--method.name", "greedy", "--blocks", "3", "--seed", "1"],
    }.items():
        assert main(["train", *OPTIONS, *words, "--out", str(where / name)]) == 0
    return where


def test_a_page_of_a_run_is_drawn_anew(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "bp" / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert main(["report", str(folder / "bp")]) == 0
    assert page.read_bytes() == before
    assert capsys.readouterr().out == f"wrote {page}\n"


def test_runs_that_were_trained_apart_on_one_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(folder / name) for name in ("greedy0", "bp", "greedy1")]
    assert main(["report", *runs, "--out", str(folder / "all")]) == 0
    results = json.loads((folder / "all" / "compare.json").read_text())
    base = results[1]["peak_activation_bytes"]
    assert [r["ratios"]["activation_memory"] for r in results] == [
        r["peak_activation_bytes"] / base for r in results
    ]
    assert all(r["ratios"]["time"] is None for r in results)  # they were not timed in turn
    page = (folder / "all" / "compare.html").read_text()
    assert "2 rules train" in page
    assert "resnet20 on digits: 96 images, 1 epoch, batch 32" in capsys.readouterr().out
    (folder / "all" / "compare.html").unlink()
    assert main(["report", str(folder / "all")]) == 0
    assert "2 rules train" in (folder / "all" / "compare.html").read_text()


def test_ratios_are_to_bp_of_the_same_network(folder: Path) -> None:
    other = [*OPTIONS, "--network.width", "6", "--method.name", "greedy", "--blocks", "3"]
    assert main(["train", *other, "--out", str(folder / "wide")]) == 0
    runs = [str(folder / name) for name in ("bp", "greedy0", "wide")]
    assert main(["report", *runs, "--out", str(folder / "mixed")]) == 0
    results = json.loads((folder / "mixed" / "compare.json").read_text())
    assert results[1]["ratios"]["flops"] < 1
    assert results[2]["ratios"]["flops"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "report needs FOLDER"),
        (["{}/none"], "holds no run, comparison or analysis"),
        (["{}/bp", "--out", "{}/x"], "give two or more"),
        (["{}/half"], "has not come to its end: go on with localgrad train --out"),
        (["{}/some"], "has not come to its end: go on with localgrad compare --out"),
        (["{}/search"], "search holds a search, which has no page: its table is search.json"),
    ],
)
def test_bad_input(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, options in (
        ("half", "epochs: 2"), ("some", "methods: [{name: greedy}]"), ("search", "epochs: 2")
    ):  # fmt: skip
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.yaml").write_text(options + "\n")
    (folder / "search" / "study.db").touch()
    assert main(["report", *[word.format(folder) for word in words]]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
