from __future__ import annotations

import math

import pytest

from command import COMPARE, compare, error_line, read, snapshot, train
from localgrad.cli import main
from localgrad.experiment import compare as room
from localgrad.experiment import loop
from localgrad.experiment.config import build_config
from localgrad.experiment.failures import RunsFailedError
from localgrad.experiment.loop import Interrupted

METHODS = ("backprop", "greedy")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "x"
    assert compare(out, "--quiet", seeds="0,1", blocks=3) == 0
    return out


def test_files(finished):
    found = {name for name in snapshot(finished) if "/" not in name}
    assert found == {
        *("config.yaml", "compare.json", "compare.html", "timing.json", "analysis.json")
    }
    runs = {path.name for path in finished.iterdir() if path.is_dir()}
    assert runs == {"bp-s0", "bp-s1", "greedy-s0", "greedy-s1"}
    assert all((finished / run / "report.html").stat().st_size > 10_000 for run in runs)
    assert "on 40 test images" in (finished / "compare.html").read_text()


def test_results(finished):
    results = read(finished / "compare.json")
    assert [(r["method"], r["seed"]) for r in results] == [(m, s) for m in METHODS for s in (0, 1)]
    for result in results:
        assert set(result["ratios"]) == {"activation_memory", "memory", "flops", "time"}
        assert [epoch["epoch"] for epoch in result["curve"]] == [1]
        assert len(result["reach"]["measured"]) == result["blocks"]
        folder = (
            finished / f"{'bp' if result['method'] == 'backprop' else 'greedy'}-s{result['seed']}"
        )
        summary = read(folder / "summary.json")
        assert {key: result[key] for key in summary} == summary
    base, greedy = results[0], results[2]
    assert base["ratios"] == dict.fromkeys(base["ratios"], 1.0)
    assert greedy["ratios"]["activation_memory"] == (
        greedy["peak_activation_bytes"] / base["peak_activation_bytes"]
    )
    assert greedy["ratios"]["time"] == greedy["time_ratio"] > 0


def test_a_run_of_a_comparison_is_a_run(finished, capsys):
    folder = finished / "greedy-s1"
    assert main(["train", "--out", str(folder), "--resume"]) == 0
    assert "Greedy on resnet20, digits" in capsys.readouterr().out


def test_resume_skips_what_is_finished(finished, monkeypatch, capsys):
    before = snapshot(finished)
    monkeypatch.setattr(room, "train", None)
    monkeypatch.setattr(room, "load_data", None)
    assert main(["compare", "--out", str(finished), "--resume"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "resnet20 on digits: 64 images, 1 epoch, batch 32"
    assert " ".join(lines[1].split()) == (
        "rule losses test accuracy, % activations vs BP FLOPs vs BP time vs BP"
    )
    assert [line.split()[0] for line in lines[2:4]] == ["BP", "Greedy"]
    assert all("±" in line and "MiB" in line for line in lines[2:4])
    assert len({len(line) for line in lines[1:4]}) == 1
    after = snapshot(finished)
    before.pop("compare.html"), after.pop("compare.html")
    assert after == before


def test_rules_and_seeds_may_be_added_or_left_out(tmp_path, monkeypatch):
    out = tmp_path / "x"
    assert compare(out, "--quiet") == 0
    base = snapshot(out / "bp-s0")
    more = {"methods": "backprop,dgl", "seeds": "0,1"}
    assert compare(out, "--quiet", "--resume", **more) == 0
    results = read(out / "compare.json")
    assert [(r["method"], r["seed"]) for r in results] == [
        ("backprop", 0),
        ("backprop", 1),
        ("dgl", 0),
        ("dgl", 1),
    ]
    assert all(result["ratios"]["time"] for result in results)
    assert snapshot(out / "bp-s0") == base
    assert main(["compare", "--out", str(out), "--resume", "--quiet"]) == 0
    assert len(read(out / "compare.json")) == 4


def test_without_bp_there_are_no_ratios(tmp_path, capsys):
    assert compare(tmp_path / "x", "--quiet", methods="greedy", blocks=2) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[-3:] == ["-", "-", "-"]
    (result,) = read(tmp_path / "x" / "compare.json")
    assert result["ratios"] == dict.fromkeys(("activation_memory", "memory", "flops", "time"))


def in_python(out, stop=lambda: False, resume=True, methods=METHODS):
    tree = {
        "network": {"name": "digit_nets:mlp"},
        "data": {"limit": 64, "test_limit": 20},
        "batch_size": 32,
        "epochs": 2,
        "repeats": 5,
        "device": "cpu",
        "methods": list(methods),
    }
    return room.compare(build_config(tree), out, resume, stop=stop)


def test_stop_and_resume(tmp_path):
    whole = in_python(tmp_path / "whole")
    # asked before each of 2 x 6 timed steps, then after each batch
    for steps in (3, 13, 5):
        left = [steps]

        def stop(left=left):
            left[0] -= 1
            return left[0] <= 0

        with pytest.raises(Interrupted):
            in_python(tmp_path / "x", stop)
        assert not (tmp_path / "x" / "compare.json").exists()
    for result, expected in zip(in_python(tmp_path / "x"), whole, strict=True):
        assert result["test_accuracy"] == expected["test_accuracy"]
        assert [e["losses"] for e in result["curve"]] == [e["losses"] for e in expected["curve"]]


def diverging(monkeypatch, first, last):
    """Let steps from one number to another have an infinite learning rate."""
    calls = []
    good = loop.learning_rate

    def bad(*given):
        calls.append(given)
        return math.inf if first <= len(calls) <= last else good(*given)

    monkeypatch.setattr(loop, "learning_rate", bad)


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    diverging(monkeypatch, 5, 5)  # after 2 epochs of 2 batches of BP: greedy
    with pytest.raises(RunsFailedError, match=r"^1 of 3 runs failed: Greedy, seed 0 \(the ") as one:
        in_python(tmp_path / "x", methods=["backprop", "greedy", "dgl"])
    results = read(tmp_path / "x" / "compare.json")
    assert [result["label"] for result in results] == ["BP", "DGL"]
    assert one.value.results == results
    assert set(one.value.failed) == {"Greedy, seed 0"}
    before = {name: snapshot(tmp_path / "x" / name) for name in ("bp-s0", "dgl-s0")}
    monkeypatch.undo()
    again = in_python(tmp_path / "x", methods=["backprop", "greedy", "dgl"])
    assert [result["label"] for result in again] == ["BP", "Greedy", "DGL"]
    assert {name: snapshot(tmp_path / "x" / name) for name in before} == before
    whole = in_python(tmp_path / "whole", methods=["greedy"])
    assert again[1]["test_accuracy"] == whole[0]["test_accuracy"]


def test_command_with_a_run_that_fails(tmp_path, monkeypatch, capsys):
    out = tmp_path / "x"
    diverging(monkeypatch, 3, 3)  # after 2 batches of BP
    assert compare(out, blocks=2) == 1
    printed = capsys.readouterr()
    (line,) = [line for line in printed.out.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: Greedy, seed 0: the ")
    assert "lower --optimizer.lr" in line
    assert printed.err.startswith("error: 1 of 2 runs failed: Greedy, seed 0 (the ")
    assert printed.err.endswith("--resume tries again\n")
    assert printed.err.count("\n") == 1
    assert [row.split()[0] for row in printed.out.splitlines() if "MiB" in row] == ["BP"]
    assert (out / "compare.html").stat().st_size > 10_000
    assert [run["label"] for run in read(out / "compare.json")] == ["BP"]
    monkeypatch.undo()
    assert main(["compare", "--out", str(out), "--resume", "--quiet"]) == 0
    assert [run["label"] for run in read(out / "compare.json")] == ["BP", "Greedy"]


def test_command_with_no_run_that_comes_to_its_end(tmp_path, monkeypatch, capsys):
    diverging(monkeypatch, 1, 99)
    assert compare(tmp_path / "x", "--quiet") == 1
    assert "error: 2 of 2 runs failed: BP, seed 0 (the " in capsys.readouterr().err
    assert not (tmp_path / "x" / "compare.json").exists()


# --- mistakes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"methods": "[]"}, "compare needs rules: --methods backprop,backlink"),
        ({"methods": "dgl,dgl"}, "compare names 'DGL' twice under methods"),
        ({"methods": "backprop,gredy"}, "unknown method 'gredy'; did you mean 'greedy'?"),
        ({"methods": "backprop,{name: auglocal, dept: 2}"}, "did you mean 'depth'?"),
        ({"methods": "backprop,greedy", "blocks": 99}, "BP: blocks=99: must be"),
        ({"methods": "backprop", "repeats": 2}, "repeats: must be greater than or equal to 5"),
    ],
)
def test_refused(tmp_path, capsys, changed, message):
    assert compare(tmp_path / "x", **changed) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "x").exists()


def test_folders_are_not_mixed_up(finished, tmp_path, capsys):
    before = snapshot(finished)
    assert compare(finished, blocks=3) == 2
    assert "holds a run already" in error_line(capsys)
    assert compare(finished, "--resume", blocks=4, seeds="0,1") == 2
    assert "another configuration (blocks was 3, now 4)" in error_line(capsys)
    assert train(finished, "--resume") == 2
    assert "holds a comparison" in error_line(capsys)
    assert main(["train", "--out", str(finished), "--resume"]) == 2
    assert "holds a comparison" in error_line(capsys)
    assert main(["compare", "--out", str(finished / "bp-s0"), "--resume"]) == 2
    assert "compare needs rules" in error_line(capsys)
    run = {**COMPARE, "blocks": 3, "seed": 0}
    assert compare(finished / "bp-s0", "--resume", **run) == 2
    assert "holds a single run" in error_line(capsys)
    assert snapshot(finished) == before
