"""Reports: what is on the page, what is escaped, and what is refused."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from localgrad.errors import LocalgradError
from localgrad.report import markdown_table, write_compare, write_run
from localgrad.report.palette import FAMILIES, family, looks
from report_pages import EVIL, RULES, Page, Result, result, seven

Compare = Callable[..., Page]


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    def write(results: list[Result], title: str = "A title", command: str = "a command") -> Page:
        write_compare(results, tmp_path / "compare.html", title=title, command=command)
        return Page(tmp_path / "compare.html")

    return write


@pytest.fixture
def run(tmp_path: Path) -> Compare:
    def write(summary: Result, **changes: Any) -> Page:
        summary = {**summary, **changes}
        curve, reach = summary.pop("curve"), summary.pop("reach")
        for key in ("label", "ratios"):
            summary.pop(key, None)
        write_run(summary, curve, reach, tmp_path / "report.html")
        return Page(tmp_path / "report.html")

    return write


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_figure_is_there_once(compare: Compare, seeds: int) -> None:
    page = compare(seven(seeds))
    assert sorted(page.figures) == sorted(
        [
            "Test accuracy over epochs",
            "Accuracy of every block's exit",
            "Peak activation memory",
            "Accuracy against memory",
            *(f"Reach of {label}" for label in RULES),
        ]
    )


def test_a_page_loads_and_runs_nothing(compare: Compare, run: Compare) -> None:
    for page in (compare(seven(2)), run(result())):
        names = {tag for tag, _ in page.elements}
        assert not names & {"script", "link", "img", "iframe", "object", "image", "foreignobject"}
        assert "://" not in page.html
        assert "@import" not in page.html
        assert "matplotlib" not in page.html.lower()
        for _, attributes in page.elements:
            assert not any(key.startswith("on") or key == "src" for key in attributes)
            assert (attributes.get("href") or "#").startswith("#")


def test_ids_are_unique_and_every_reference_has_one(compare: Compare) -> None:
    page = compare(seven(2))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {name for value in re.findall(r'aria-labelledby="(.*?)"', page.html)
            for name in value.split()}  # fmt: skip
    used |= set(re.findall(r"url\(#(.*?)\)", page.html))
    used |= {a["href"][1:] for _, a in page.elements if a.get("href")}  # type: ignore[index]
    assert used <= set(ids)


def test_figures_follow_the_theme(compare: Compare) -> None:
    page = compare(seven())
    drawn = "".join(re.findall(r"<svg.*?</svg>", page.html, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b", drawn)
    assert set(re.findall(r"var\(--([\w-]+)\)", page.html)) <= set(
        re.findall(r"--([\w-]+):", page.html)
    )
    assert "prefers-color-scheme: dark" in page.html


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_compare(seven(2), tmp_path / name, title="t", command="c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_large_networks_stay_small_files(tmp_path: Path) -> None:
    results = seven(units=55, epochs=30)
    for item in results:
        reach = item["reach"]
        reach["measured"] = [[True] * 55 for _ in reach["losses"]]
    write_compare(results, tmp_path / "page.html", title="t", command="c")
    assert (tmp_path / "page.html").stat().st_size < 1_500_000


@pytest.mark.parametrize("key", ["label", "network", "data", "command", "commit", "seed"])
def test_what_users_write_is_escaped(compare: Compare, run: Compare, key: str) -> None:
    results = seven()
    results[3][key] = EVIL
    page = compare(results, title=EVIL, command=EVIL)
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.text.count(EVIL) >= 2
    assert EVIL not in page.html
    page = run(results[3])
    assert "script" not in {tag for tag, _ in page.elements}


def test_names_in_the_reach_are_escaped(compare: Compare) -> None:
    item = result()
    item["reach"]["losses"][1] = item["reach"]["units"][0] = EVIL
    item["reach"]["measured"][1][0] = True
    page = compare([item])
    assert "script" not in {tag for tag, _ in page.elements}
    assert f"{EVIL} trains {EVIL}" in page.text


@pytest.mark.parametrize("key", sorted(result()))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    results = [result("BP"), result("DGL")]
    del results[1][key]
    with pytest.raises(LocalgradError) as caught:
        write_compare(results, tmp_path / "page.html", title="t", command="c")
    assert f'key "{key}" is missing' in str(caught.value)
    assert "results[1]" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks": "ten"}, 'key "blocks" must be an integer'),
        ({"test_accuracy": "high"}, 'key "test_accuracy" must be a number'),
        ({"label": ""}, 'key "label" must be a name'),
        ({"curve": {}}, "curve must be a list"),
        ({"curve": [{"epoch": 1}]}, 'curve[0]: key "train_loss" is missing'),
        ({"ratios": None}, "ratios must be an object"),
        ({"block_accuracy": [True]}, "block_accuracy must be a number"),
        ({"reach": {"losses": ["a"], "units": []}}, 'reach: key "declared" is missing'),
    ],
)
def test_a_wrong_value_is_named(change: Result, words: str) -> None:
    with pytest.raises(LocalgradError, match=re.escape(words)):
        markdown_table([{**result(), **change}])


def test_a_reach_of_the_wrong_shape_is_refused() -> None:
    item = result()
    item["reach"]["measured"][2].pop()
    with pytest.raises(LocalgradError, match="measured must have 4 rows of 4 cells"):
        markdown_table([item])


@pytest.mark.parametrize(("results", "words"), [([], "no results"), ("x", "must be a list")])
def test_no_results_are_refused(results: Any, words: str) -> None:
    with pytest.raises(LocalgradError, match=words):
        markdown_table(results)


def test_table_of_one_seed() -> None:
    head, _, bp, dgl = markdown_table([result("DGL"), result("BP")]).splitlines()
    assert head.startswith("| Rule | n | Losses | Test accuracy, % | Activations, MiB |")
    assert bp.startswith("| BP | 1 | 1 | 80.00 | 500 | 1.00 | 1.25 | 1.50 |")
    assert dgl.startswith("| DGL | 1 | 4 | 80.00 | 120 | 0.24 |")


def test_table_of_many_seeds_gives_mean_and_sample_deviation(compare: Compare) -> None:
    results = [result(seed=seed) for seed in range(3)]
    assert "| DGL | 3 | 4 | 81.00 ± 1.00 | 120 | 0.24 |" in markdown_table(results)
    page = compare(results)
    assert "81.00 ± 1.00" in page.text
    assert "mean ± one standard deviation" in page.text
    assert "one standard deviation" not in compare([result()]).text


def test_markdown_keeps_its_cells() -> None:
    row = markdown_table([result(r"a|b\*c_d")]).splitlines()[2]
    assert row.startswith(r"| a\|b\\\*c\_d | 1 |")


def test_without_bp_there_are_no_ratios(compare: Compare) -> None:
    results = [result("DGL"), result("Greedy")]
    for item in results:
        item["ratios"] = dict.fromkeys(item["ratios"])
    assert "BP" not in markdown_table(results)
    page = compare(results)
    assert "BP was not part of this comparison" in page.text
    assert "÷ BP" not in page.html
    assert "Peak activation memory" in page.figures


def test_what_was_not_measured_is_left_out(compare: Compare) -> None:
    item = result()
    item |= {"peak_activation_bytes": None, "flops_per_image": None, "curve": [], "reach": None}
    item |= {"block_accuracy": [None] * 4, "test_accuracy": math.nan, "commit": None}
    page = compare([item])
    assert page.figures == []
    assert "This rule was not audited." in page.text
    assert "nan" not in markdown_table([item])


def test_violations_of_any_seed_are_named(compare: Compare) -> None:
    results = [result(seed=seed) for seed in range(2)]
    results[1]["reach"]["measured"][2][0] = True
    page = compare(results)
    assert "1 violation." in page.text
    assert "loss 2 trains 0.0" in page.text
    assert "c-dgl" in page.html
    assert "Measured reach equals" in compare([result()]).text


def test_long_lists_of_violations_are_cut(compare: Compare) -> None:
    item = result(units=20)
    item["reach"]["measured"] = [[True] * 20 for _ in range(20)]
    assert "and 14 more losses" in compare([item]).text


def test_reach_without_a_gradient_or_a_declaration(compare: Compare) -> None:
    item = result()
    item["reach"]["measured"][0][0] = False
    assert "No violation; 1 declared without a gradient." in re.sub(
        r"\s+", " ", compare([item]).text
    )
    item["reach"]["declared"] = None
    assert "nothing was declared" in compare([item]).text


def test_one_label_in_two_settings_is_told_apart() -> None:
    results = [result(), {**result(), "blocks": 2}]
    table = markdown_table(results)
    assert "| DGL, 4 losses | 1 |" in table
    assert "| DGL, 2 losses | 1 |" in table


def test_different_environments_name_their_runs(compare: Compare) -> None:
    results = [result(), result(seed=1)]
    assert "Used by" not in compare(results).text
    results[1]["versions"] = {"torch": "2.14.0"}
    page = compare(results)
    assert "Used by DGL, seed 1." in page.text
    assert "2.14.0" in page.text


def test_commands_are_exact(compare: Compare) -> None:
    item = {**result(), "command": "localgrad train  --out 'a b'\t--x  1"}
    assert item["command"] in compare([item]).text


def test_a_command_is_shown_once(compare: Compare) -> None:
    results = [{**result(label, seed), "command": "one"} for label in RULES for seed in range(2)]
    results[0]["command"] = results[1]["command"] = "two"
    page = compare(results, command="one")
    assert page.html.count("<span>one</span>") == 1
    assert "BP, seeds 0, 1" in page.text
    assert "DGL, seed" not in page.text


def test_numbered_losses_are_named_in_sentences(compare: Compare) -> None:
    item = result()
    item["reach"]["losses"] = ["0", "1", "2", "3"]
    item["reach"]["measured"][3][1] = True
    assert "loss 3 trains 1.0" in compare([item]).text


def test_a_run(run: Compare) -> None:
    page = run(result())
    assert page.figures == [
        "Test accuracy over epochs",
        "Training loss over epochs",
        "Local loss of every block over epochs",
        "Accuracy of every block's exit",
        "Reach of dgl",
    ]
    assert "80.00 %" in page.text
    assert "localgrad train --method.name dgl --seed 0" in page.text


def test_a_run_of_one_loss_has_no_block_figures(run: Compare) -> None:
    page = run(result("BP"), reach=None)
    assert page.figures == ["Test accuracy over epochs", "Training loss over epochs"]


def test_a_run_needs_its_keys(run: Compare) -> None:
    item = result()
    del item["blocks"]
    with pytest.raises(LocalgradError, match=r'^summary: key "blocks" is missing$'):
        run(item)


def test_families_have_one_look_each() -> None:
    assert len({(f.light, f.dark, f.marker) for f in FAMILIES}) == len(FAMILIES)
    assert family("backprop", "BP + checkpoint unit").name == "checkpoint"
    assert family("BWBPF", "x").name == "bwbpf"
    assert family("deep_supervision", "x").name == "deep"
    assert family("mine", "My rule").name == "other"
    one, two = looks([("auglocal", "AugLocal d=2"), ("auglocal", "AugLocal d=6")])
    assert one.colour == two.colour
    assert one.dashes != two.dashes


def test_matplotlib_settings_are_put_back(compare: Compare) -> None:
    before = matplotlib.rcParams["font.size"]
    with matplotlib.rc_context({"font.size": 33}):
        compare([result()])
        assert matplotlib.rcParams["font.size"] == 33
    assert matplotlib.rcParams["font.size"] == before


def test_other_scripts_than_latin_are_fine(compare: Compare) -> None:
    assert "規則" in compare([result("規則")]).text


def test_import_is_cheap() -> None:
    code = (
        "import sys, localgrad.report; "
        "assert not {'matplotlib', 'jinja2', 'markupsafe'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_eight_variants_of_a_rule_look_different() -> None:
    drawn = looks([("infopro", f"InfoPro {i}") for i in range(8)])
    assert len({(look.dashes, look.hollow) for look in drawn}) == 8
