"""``localgrad analyse`` on runs that it trained, and what its page holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from localgrad import report
from localgrad.cli import main
from localgrad.errors import LocalgradError
from localgrad.report import analysis
from localgrad.report.analysis_picture import write_analysis_picture

SVG = "{http://www.w3.org/2000/svg}"
OPTIONS = [
    *("--network.name", "resnet20", "--network.width", "4", "--data.limit", "160"),
    *("--data.test_limit", "60", "--epochs", "1", "--batch_size", "32", "--threads", "1"),
    *("--device", "cpu", "--quiet"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for rule, blocks, logged in (("greedy", "3", "true"), ("backprop", "1", "false")):
        own = ["--blocks", blocks, "--log.agreement", logged, "--out", str(folder / rule)]
        assert main(["train", "--method.name", rule, *OPTIONS, *own]) == 0
    return folder


@pytest.fixture(scope="module")
def found(runs: Path) -> dict:
    words = ["analyse", str(runs / "greedy"), str(runs / "backprop"), "--inputs", "40", "--quiet"]
    words += ["--plot", str(runs / "picture.svg")]
    assert main([*words, "--out", str(runs / "analysis")]) == 0
    assert (runs / "picture.svg").stat().st_size > 10_000
    return json.loads((runs / "analysis" / "analysis.json").read_text())


def test_every_unit_is_there(found: dict) -> None:
    greedy, whole = found["runs"]
    assert found["reference"] == 1  # BP's, wherever it stands
    for run in (greedy, whole):
        assert len(run["probes"]) == len(run["units"]) == 10
        assert [one["unit"] for one in run["agreement"]] == [*run["units"], "tail"]
        assert all(0 <= one["test_accuracy"] <= 1 for one in run["probes"])
    assert all(one["cosine"] == pytest.approx(1, abs=1e-6) for one in whole["agreement"])
    assert greedy["agreement"][0]["cosine"] < 0.999
    assert greedy["agreement"][-1]["cosine"] == pytest.approx(1, abs=1e-6)
    assert len(greedy["exits"]["flops"]) == len(greedy["exits"]["accuracy"]) == 3
    assert greedy["exits"]["flops"] == sorted(greedy["exits"]["flops"])


def test_similarity_of_the_reference_with_itself(found: dict) -> None:
    itself, greedy = (found["cka"][i]["values"] for i in (1, 0))
    assert all(itself[i][i] == pytest.approx(1) for i in range(10))
    assert itself[2][7] == pytest.approx(itself[7][2])
    # the first unit of both began with the same weights, and has learned for five steps
    assert 0.5 < greedy[0][0] < 0.9999


def test_weights_are_those_of_the_run(runs: Path, found: dict) -> None:
    """The last unit's probe reads the trained network, not a fresh one."""
    again = ["analyse", str(runs / "backprop"), "--inputs", "40", "--quiet"]
    assert main([*again, "--out", str(runs / "again")]) == 0
    alone = json.loads((runs / "again" / "analysis.json").read_text())
    assert alone["runs"][0] == found["runs"][1]


def test_the_page_has_every_figure(runs: Path, found: dict) -> None:
    page = (runs / "analysis" / "analysis.html").read_text()
    for name in ("agreement", "probes", "early-exits", "cka-0", "cka-1"):
        assert f'aria-labelledby="{name}-title' in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_agreement_over_training_is_drawn_where_it_was_logged(
    runs: Path, found: dict, tmp_path: Path
) -> None:
    greedy, whole = (analysis.read(found)[i].runs[0] for i in (1, 0))
    assert [run.label for run in (greedy, whole)] == ["Greedy", "BP"]
    text = (runs / "greedy" / "metrics.jsonl").read_text()
    noted = [json.loads(line) for line in text.splitlines()]
    assert greedy.over_time == {epoch["epoch"]: epoch["agreement"] for epoch in noted}
    assert list(greedy.over_time) == [1]
    assert list(greedy.over_time[1]) == [*greedy.units, "tail"]
    assert whole.over_time == {}
    page = (runs / "analysis" / "analysis.html").read_text()
    assert 'aria-labelledby="time-1-title' in page  # BP comes first
    assert "time-0" not in page
    data = json.loads(json.dumps(found))
    data["runs"][0]["history"][0]["agreement"] = [0.5]
    with pytest.raises(LocalgradError, match=r"history: agreement must be an object"):
        report.write_analysis(data, tmp_path / "a.html", title="t", command="c")


def test_a_picture_has_a_panel_a_question(found: dict, tmp_path: Path) -> None:
    write_analysis_picture(found, tmp_path / "a.svg")
    picture = ElementTree.parse(tmp_path / "a.svg").getroot()
    words = {" ".join("".join(text.itertext()).split()) for text in picture.iter(f"{SVG}text")}
    labels = {"Cosine with BP's gradient", "Accuracy of a linear probe, %"}
    labels |= {"CKA with the same unit", "Test accuracy, %"}
    assert labels | {run["label"] for run in found["runs"]} <= words
    write_analysis_picture(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    without = json.loads(json.dumps(found))
    for run in without["runs"]:
        run.pop("probes")
    write_analysis_picture(without, tmp_path / "b.svg")
    assert "linear probe, %" not in (tmp_path / "b.svg").read_text()


@pytest.mark.parametrize("key", ["runs", "cka", "reference", "versions"])
def test_a_damaged_analysis_is_named(found: dict, tmp_path: Path, key: str) -> None:
    data = {name: value for name, value in found.items() if name != key}
    with pytest.raises(LocalgradError, match=key):
        report.write_analysis(data, tmp_path / "a.html", title="t", command="c")
    assert not (tmp_path / "a.html").exists()


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["analyse", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_bad_input(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    greedy = str(runs / "greedy")
    assert "analyse needs RUN" in refused(capsys)
    assert "holds no run" in refused(capsys, str(tmp_path))
    assert "must end in .svg or .png" in refused(capsys, greedy, "--plot", str(tmp_path / "a.pdf"))
    assert "CKA needs 4 or more" in refused(capsys, greedy, "--inputs", "3")
    shutil.copytree(runs / "greedy", tmp_path / "other")
    config = (tmp_path / "other" / "config.yaml").read_text()
    changed = config.replace("test_limit: 60", "test_limit: 50")
    assert changed != config
    (tmp_path / "other" / "config.yaml").write_text(changed)
    assert "runs of the same data" in refused(capsys, greedy, str(tmp_path / "other"))
    (tmp_path / "other" / "config.yaml").write_text(config)
    checkpoint = tmp_path / "other" / "checkpoint" / "last.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert "damaged" in refused(capsys, str(tmp_path / "other"))
    checkpoint.unlink()
    assert "no checkpoint" in refused(capsys, str(tmp_path / "other"))
    (tmp_path / "other" / "decoupling.yaml").unlink()
    assert "no trained run" in refused(capsys, str(tmp_path / "other"))
