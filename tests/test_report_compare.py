"""The page of a comparison: the front, early exits, similarity, the machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from localgrad.errors import LocalgradError
from localgrad.report import write_compare, write_run
from report_pages import (
    EVIL,
    RULES,
    Page,
    Result,
    analysis,
    figures_of_comparison,
    measured,
    result,
)

FEW = ("BP", "DGL", "BWBPF")


def compare(folder: Path, results: list[Result], analysed: Any = None) -> Page:
    path = folder / "compare.html"
    write_compare(results, path, title="A title", command="a command", analysed=analysed)
    return Page(path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return compare(tmp_path_factory.mktemp("page"), measured(), analysis())


def test_every_figure_is_there_once(page: Page) -> None:
    assert sorted(page.figures) == sorted(figures_of_comparison(RULES))


def test_every_caption_has_a_drawing(page: Page) -> None:
    figures = re.findall(r"<figure.*?</figure>", page.html, re.DOTALL)
    assert len(figures) == 8 + 2 * len(RULES)
    assert all(re.search(r"<h3>.+?</h3>.*<svg.*<(path|use)", f, re.DOTALL) for f in figures)


def test_nothing_is_loaded_and_ids_are_unique(page: Page) -> None:
    assert "://" not in page.html
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.elements}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {name for value in re.findall(r'aria-labelledby="(.*?)"', page.html)
            for name in value.split()}  # fmt: skip
    assert used <= set(ids)


def test_every_section_has_a_place_in_print(page: Page) -> None:
    """Dark ink is for screens alone, and what belongs together stays on one sheet."""
    html = page.html
    assert html.count("prefers-color-scheme: dark") == 1
    assert "@media screen and (prefers-color-scheme: dark)" in html
    _, _, sheet = html.partition("@media print {")
    assert re.search(r"\.figures \{ grid-template-columns: 1fr 1fr", sheet)
    assert re.search(r"h2, h3, figcaption \{ break-after: avoid", sheet)
    assert "figure { margin: 0; min-width: 0; max-width: 620px; break-inside: avoid; }" in html


def test_the_front_is_named(tmp_path: Path) -> None:
    """All take the same time here, so that the rule of least memory beats the others."""
    page = compare(tmp_path, measured(labels=FEW))
    assert "On the front: BWBPF." in page.html
    results = measured(labels=FEW)
    for item in results:
        item["ratios"]["time"] = 0.5 if item["label"] == "BP" else 2.0
    assert "On the front: BP, BWBPF." in compare(tmp_path, results).html


def test_runs_that_were_not_timed_are_placed_by_flops(tmp_path: Path) -> None:
    results = measured(labels=FEW)
    for item in results:
        item["ratios"]["time"] = None
    page = compare(tmp_path, results)
    assert "FLOPs of an image ÷ BP" in page.html
    assert "Time of an image ÷ BP" not in page.html


def test_what_an_exit_saves(tmp_path: Path) -> None:
    results = measured(labels=FEW)
    for item in results:
        if item["label"] == "DGL" and item["seed"] == 1:
            item["one_point_lower"] = {"exit": 0, "accuracy": 0.79, "flops": 0.25}
    page = compare(tmp_path, results)
    rows = re.findall(r'<th role="rowheader" scope="row">(.*?)</tr>', page.html, re.DOTALL)
    cells = [re.sub(r"<.*?>", "", row).split("\n") for row in rows]
    saved = {row[0]: row[1:5] for row in cells if len(row) == 6}
    assert list(saved) == ["DGL", "BWBPF"]
    assert saved["BWBPF"] == ["80.50 ± 0.71", "2", "80.00", "25"]
    assert saved["DGL"] == ["80.50 ± 0.71", f"0{chr(8211)}2", "79.50 ± 0.71", "50 ± 35"]


def test_runs_of_before_are_drawn_without_what_they_lack(tmp_path: Path) -> None:
    page = compare(tmp_path, [result("BP"), result("DGL")])
    assert not {"Heads as early exits", "Peak memory against time"} & set(page.figures)
    assert "Early exits" not in page.text
    assert "What was learned" not in page.text


def test_rules_that_were_left_out_have_no_map(tmp_path: Path) -> None:
    page = compare(tmp_path, measured(1, labels=FEW[1:]), analysis(labels=FEW))
    maps = [name for name in page.figures if name.startswith("CKA")]
    assert maps == ["CKA of DGL with BP, seed 0", "CKA of BWBPF with BP, seed 0"]


def test_large_networks_stay_small_files(tmp_path: Path) -> None:
    """110 layers, 7 rules, 30 epochs; neighbours in a map differ as much as they may."""
    analysed = analysis(units=55)
    for found in analysed["cka"]:
        found["values"] = [[((r * 7 + c * 13) % 20) / 20 for c in range(55)] for r in range(55)]
    compare(tmp_path, measured(1, units=55, epochs=30), analysed)
    assert (tmp_path / "compare.html").stat().st_size < 1_500_000


def test_names_are_escaped(tmp_path: Path) -> None:
    results, analysed = measured(labels=FEW), analysis(labels=FEW)
    for item in results:
        item["hardware"] = EVIL
    analysed["runs"][0]["units"][0] = EVIL
    page = compare(tmp_path, results, analysed)
    assert "script" not in {tag for tag, _ in page.elements}
    assert EVIL in page.text


def test_the_machine_is_named(tmp_path: Path) -> None:
    results = measured(labels=FEW)
    results[0]["date"] = "2026-02-01T00:00:00"
    page = compare(tmp_path, results)
    assert "a processor" in page.text
    assert "2026-02-01 to 2026-02-03" in page.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"one_point_lower": {"exit": 1}}, 'one_point_lower: key "accuracy" is missing'),
        ({"exit_flops": ["many"]}, "exit_flops must be a number or null"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, change: Result, words: str) -> None:
    with pytest.raises(LocalgradError, match=re.escape(words)):
        compare(tmp_path, [{**result(), **change}])


def test_a_damaged_analysis_is_named(tmp_path: Path) -> None:
    analysed = analysis(labels=FEW)
    del analysed["reference"]
    with pytest.raises(LocalgradError, match="reference"):
        compare(tmp_path, measured(labels=FEW), analysed)
    assert not (tmp_path / "compare.html").exists()


def test_a_run(tmp_path: Path) -> None:
    (summary,) = [r for r in measured(1) if r["label"] == "DGL"]
    write_run(summary, summary["curve"], summary["reach"], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.figures == [
        "Test accuracy over epochs",
        "Training loss over epochs",
        "Local loss of every block over epochs",
        "Accuracy of every block's exit",
        "Heads as early exits",
        "Peak memory of a step",
        "Reach of DGL",
    ]
    assert "Loss 2's exit saves 25 % of the FLOPs of an answer at 80.00 % accuracy" in page.text
    assert "<dt>Parameters</dt><dd>1,000</dd>" in page.html
    assert "<dt>Parameters of heads</dt><dd>2,345</dd>" in page.html
    assert "Activations and gradients" in page.html
    assert "300.0 MiB  ·  50 %" in page.html
