"""Runs of a table: what fits the budget, what is kept, what is said, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from command import error_line, read, snapshot
from localgrad import LocalgradError
from localgrad.cli import main
from localgrad.experiment.building.data import load_data
from localgrad.experiment.loop import Interrupted
from localgrad.experiment.reproduce import estimates, order, runs, seconds, store
from localgrad.experiment.reproduce.runs import jobs_of, reproduce
from localgrad.experiment.reproduce.seconds import estimated, read_duration
from localgrad.experiment.reproduce.table import read as read_table

TABLE = """
title: Two rules on the digits
paper: made up
images: 1438
published: {what: test error, source: nowhere, certainty: as published}
recipe:
  network: {name: resnet20, width: 4}
  data: {name: digits, test_limit: 40}
  epochs: 2
  batch_size: 32
  blocks: 3
  optimizer: {lr: 0.1}
  schedule: {warmup_epochs: 1}
assumed: {optimizer.lr: nobody said}
rows:
  - {name: bp, method: backprop, blocks: null, losses: 1, published: {value: 5, n: 3}}
  - name: greedy
    method: greedy
    losses: 3
    published:
      - {value: 10}
      - {what: accuracy above, than: bp, value: -5, certainty: "from memory, unverified"}
      - {what: memory below, than: bp, value: 30}
      - {what: time above, than: bp, value: 7}
  - {name: lost, network: resnet20, lacks: its rule is not built, published: 3}
"""
ROOT = Path(__file__).resolve().parents[1]
SAME: dict[str, Any] = {"scaled": ["images 96 of 1,438", "epochs 1 of 2, warm-up in proportion"]}
SMALL = ("--epochs", "1", "--limit", "96", "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tables") / "digits.yaml"
    path.write_text(TABLE, encoding="utf-8")
    return str(path)


def run(digits: str, out: Path, *more: str) -> int:
    return main(["reproduce", digits, "--out", str(out), *SMALL, *more])


@pytest.fixture(scope="module")
def finished(digits: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "x"
    assert run(digits, out, "--seeds", "2", "--json", str(out.parent / "x.json")) == 0
    assert read(out / "reproduce.json") == read(out.parent / "x.json")  # later calls write it anew
    return out


# --- end to end


def test_every_run_is_an_ordinary_one(finished: Path, capsys: Any) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "bp-s0", "bp-s1", "greedy-s0", "greedy-s1", "estimates.json", "reproduce.json",
    }  # fmt: skip
    assert (finished / "greedy-s1" / "report.html").stat().st_size > 10_000
    assert main(["train", "--out", str(finished / "greedy-s1"), "--resume"]) == 0
    assert "Greedy on resnet20, digits" in capsys.readouterr().out


def test_result(finished: Path) -> None:
    found = read(finished.parent / "x.json")
    assert (found["table"], found["settings"]) == ("digits", {"data.limit": 96, "epochs": 1})
    assert "--out" not in found["command"]
    assert "--json" not in found["command"]
    assert found["left_out"] == [{"row": "lost", "seed": None, "reason": "its rule is not built"}]
    marks = ["images 96 of 1,438", "epochs 1 of 2, warm-up in proportion"]
    summaries = {
        name: [read(finished / f"{name}-s{seed}" / "summary.json") for seed in (0, 1)]
        for name in ("bp", "greedy")
    }
    assert [row["row"] for row in found["rows"]] == ["bp", "greedy"]
    for row in found["rows"]:
        mine = summaries[row["row"]]
        assert (row["n"], row["seeds"], row["scaled"]) == (2, [0, 1], marks)
        assert row["test_accuracies"] == [summary["test_accuracy"] for summary in mine]
        assert row["hours"] == sum(summary["train_seconds"] for summary in mine) / 3600
        errors = [100 - 100 * accuracy for accuracy in row["test_accuracies"]]
        first = row["figures"][0]
        assert first["ours"]["values"] == errors
        assert first["ours"]["mean"] == pytest.approx(statistics.mean(errors))
        assert first["ours"]["std"] == pytest.approx(statistics.stdev(errors))
    bp, greedy = found["rows"]
    _, points, memory, times = greedy["figures"]
    assert points["ours"]["values"] == [
        100 * (a - b) for a, b in zip(greedy["test_accuracies"], bp["test_accuracies"], strict=True)
    ]
    ratio = greedy["peak_memory_bytes"] / bp["peak_memory_bytes"]
    assert memory["ours"]["mean"] == pytest.approx(100 * (1 - ratio))
    assert (memory["scaled"], points["scaled"]) == ([], marks)  # 96 images fill the batch
    assert times["ours"]["n"] == 2
    assert [o["rows"][0]["published_accuracy"] for o in found["order"]] == [95]


def test_what_is_printed(digits: str, finished: Path, capsys: Any, monkeypatch: Any) -> None:
    before = snapshot(finished)
    monkeypatch.setattr(estimates, "load_data", None)  # nothing is left to do
    assert run(digits, finished, "--seeds", "2", "--resume") == 0
    after = snapshot(finished)
    before.pop("reproduce.json"), after.pop("reproduce.json")  # it has the new command
    assert after == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits: Two rules on the digits"
    assert lines[1].split() == [
        *("row", "losses", "figure", "published", "ours", "n", "time", "scaled")
    ]
    error = 100 * (1 - read(finished.parent / "x.json")["rows"][0]["test_accuracy"]["mean"])
    assert lines[2].split()[:6] == ["bp", "1", "test", "error,", "%", "5"]
    assert f"{error:.2f} ± " in lines[2]
    assert lines[2].endswith("a")
    text = "\n".join(lines)
    assert "a: images 96 of 1,438; epochs 1 of 2, warm-up in proportion" in text
    points = next(line for line in lines if "accuracy above bp, points" in line)
    assert points.split()[4] == "~-5"
    assert "~ from memory of the paper, unverified" in text
    memory = next(line for line in lines if "memory below bp" in line)
    assert memory.endswith("full")
    assert "order, resnet20 on digits, 2 rows: Kendall " in text
    assert "left out: lost: its rule is not built" in text


def test_a_difference_finds_the_row_it_is_against(digits: str, finished: Path, capsys: Any) -> None:
    whole = read(finished.parent / "x.json")["rows"][1]
    copy = finished.parent / "one.json"
    words = ("--seeds", "2", "--rows", "greedy", "--resume", "--json", str(copy))
    assert run(digits, finished, *words) == 0
    (row,) = read(copy)["rows"]
    assert row == whole
    capsys.readouterr()


def test_killed_and_resumed(digits: str, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    words = ["reproduce", digits, "--out", str(out), *SMALL, "--seeds", "2"]
    words += ["--checkpoint_every", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "localgrad", *words], env=environment)
    try:
        until = time.monotonic() + 100
        while not (out / "greedy-s0" / "checkpoint" / "last.pt").exists():
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not (out / "greedy-s1").exists()
    done = snapshot(out / "bp-s0")
    assert main([*words, "--resume"]) == 0
    done.pop("report.html", None)  # written once all runs are done
    after = snapshot(out / "bp-s0")
    assert {name: after[name] for name in done} == done
    for name in ("bp-s0", "greedy-s0", "bp-s1", "greedy-s1"):
        whole = (finished / name / "model.safetensors").read_bytes()
        assert (out / name / "model.safetensors").read_bytes() == whole


# --- the budget, with a clock of our own


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


THREE = TABLE.replace("lacks: its rule is not built, ", "method: dgl, losses: 3, ")


DATA: Any = object()  # nobody looks at it


class World:
    """Runs that take what they are told to, on the clock."""

    def __init__(self, tmp_path: Path, monkeypatch: Any, takes: dict[str, float]) -> None:
        path = tmp_path / "three.yaml"
        path.write_text(THREE, encoding="utf-8")
        self.table, self.out = read_table(str(path)), tmp_path / "out"
        self.clock, self.takes = Clock(), takes
        self.ran: list[str] = []
        self.estimates: list[str] = []
        self.notes: list[str] = []
        monkeypatch.setattr(estimates, "load_data", lambda config: DATA)
        monkeypatch.setattr(runs, "_train", self.train)

    def train(
        self, job: Any, data: Any, watcher: Any, resume: Any, stop: Any, command: Any
    ) -> None:
        self.ran.append(f"{job.row.name}{job.seed}")
        job.folder.open(job.config, resume)
        for _ in range(round(self.takes[job.row.name])):
            self.clock.now += 1
            if stop():
                job.folder.write("checkpoint/last.pt", "")
                raise Interrupted
        job.folder.write_json("reach.json", {})
        job.folder.write_json("summary.json", dict.fromkeys(runs.NEEDED, 1))

    def estimate(self, config: Any, data: Any) -> float:
        name = Path(config.out).name.rpartition("-s")[0]
        self.estimates.append(name)
        return self.takes[name]

    def go(self, seeds: int = 1, budget: float | None = None, epochs: int = 2, **more: Any) -> Any:
        rows = list(self.table.rows)
        changes = [("device", "cpu"), ("epochs", epochs)]
        jobs = jobs_of(rows, range(seeds), changes, self.out)
        options = {"clock": self.clock, "estimate": self.estimate, "note": self.notes.append}
        return reproduce(
            self.table, rows, jobs, self.out, budget, resume=True, **{**options, **more}
        )


def left(report: Any) -> list[tuple[str, int | None, str]]:
    return [(entry["row"], entry["seed"], entry["reason"]) for entry in report.left_out]


def test_every_row_has_one_run_before_one_has_two(tmp_path: Path, monkeypatch: Any) -> None:
    world = World(tmp_path, monkeypatch, {"bp": 3, "greedy": 1, "lost": 2})
    report = world.go(seeds=2)
    assert world.ran == ["bp0", "greedy0", "lost0", "bp1", "greedy1", "lost1"]
    assert world.estimates == ["bp", "greedy", "lost"]
    assert "6 runs to do, about 12.0 s" in world.notes
    assert (len(report.finished), report.left_out) == (6, [])
    world.ran.clear()
    assert len(world.go(seeds=2).finished) == 6
    assert world.ran == []


def test_what_does_not_fit_is_named_and_what_does_is_run(tmp_path: Path, monkeypatch: Any) -> None:
    world = World(tmp_path, monkeypatch, {"bp": 30, "greedy": 80, "lost": 20})
    report = world.go(seeds=2, budget=95)
    assert world.ran == ["bp0", "lost0", "bp1"]
    assert left(report) == [
        ("greedy", 0, "needs about 1.3 min, 1.1 min of the budget is left"),
        ("greedy", 1, "needs about 1.3 min, 15.0 s of the budget is left"),
        ("lost", 1, "needs about 20.0 s, 15.0 s of the budget is left"),
    ]
    world.ran.clear()
    report = world.go(seeds=2, budget=1000)  # a budget is for one call
    assert world.ran == ["greedy0", "greedy1", "lost1"]
    assert left(report) == []


def test_nothing_fits(tmp_path: Path, monkeypatch: Any) -> None:
    world = World(tmp_path, monkeypatch, {"bp": 30, "greedy": 80, "lost": 20})
    with pytest.raises(LocalgradError) as caught:
        world.go(budget=10)
    assert str(caught.value) == (
        "nothing fits --budget 10.0 s: the shortest row, lost, needs about 20.0 s: allow more, "
        "or scale down by --epochs and --limit"
    )
    assert world.ran == []


def test_a_run_longer_than_estimated_is_stopped_and_named(tmp_path: Path, monkeypatch: Any) -> None:
    world = World(tmp_path, monkeypatch, {"bp": 30, "greedy": 10, "lost": 10})
    report = world.go(budget=25, estimate=lambda config, data: 5.0)
    assert world.clock.now == 26
    assert world.ran == ["bp0"]
    assert left(report)[0] == ("bp", 0, "the budget ended in epoch 1 of 2: go on by --resume")
    assert left(report)[1] == ("greedy", 0, "needs about 5.0 s, 0.0 s of the budget is left")
    assert report.finished == []


def test_what_a_run_took_replaces_its_estimate(tmp_path: Path, monkeypatch: Any) -> None:
    world = World(tmp_path, monkeypatch, {"bp": 30, "greedy": 10, "lost": 10})
    report = world.go(seeds=2, budget=70, estimate=lambda config, data: 15.0)
    assert world.ran == ["bp0", "greedy0", "lost0", "greedy1", "lost1"]
    assert left(report) == [("bp", 1, "needs about 30.0 s, 20.0 s of the budget is left")]
    kept = read(world.out / "estimates.json")
    taken = {name: entry["seconds"] for name, entry in kept["rows"].items()}
    assert taken == {"bp": 30, "greedy": 10, "lost": 10}
    assert kept["table"] == "three"


def test_an_estimate_is_of_its_options_alone(tmp_path: Path, monkeypatch: Any) -> None:
    world = World(tmp_path, monkeypatch, {"bp": 30, "greedy": 40, "lost": 50})
    with pytest.raises(LocalgradError, match="nothing fits"):
        world.go(budget=10)
    world.takes = {"bp": 3, "greedy": 40, "lost": 50}
    assert [job.label for job in world.go(budget=10, epochs=1).finished] == ["bp seed 0"]
    assert world.estimates == ["bp", "greedy", "lost"] * 2


def test_finished_runs_need_no_data(tmp_path: Path, monkeypatch: Any) -> None:
    world = World(tmp_path, monkeypatch, {"bp": 3, "greedy": 1, "lost": 2})
    world.go(budget=5)
    assert world.ran == ["bp0", "greedy0"]

    def missing(config: Any) -> None:
        raise LocalgradError("digits: not here")

    monkeypatch.setattr(estimates, "load_data", missing)
    monkeypatch.setattr(estimates.Estimates, "get", lambda self, row, config: None)
    report = world.go()
    assert [job.label for job in report.finished] == ["bp seed 0", "greedy seed 0"]
    assert left(report) == [("lost", None, "digits: not here")]


def test_estimates_are_kept_for_this_machine(tmp_path: Path, monkeypatch: Any) -> None:
    world = World(tmp_path, monkeypatch, {"bp": 30, "greedy": 10, "lost": 10})
    world.go(budget=15)
    assert world.estimates == ["bp", "greedy", "lost"]
    world.go(budget=15)
    assert world.estimates == ["bp", "greedy", "lost"]
    path = world.out / "estimates.json"
    path.write_text(json.dumps({**read(path), "hardware": "another"}), encoding="utf-8")
    world.go(budget=0.5)
    assert world.estimates == ["bp", "greedy", "lost", "bp"]


def test_a_wish_to_stop_is_no_end_of_the_budget(tmp_path: Path, monkeypatch: Any) -> None:
    world = World(tmp_path, monkeypatch, {"bp": 30, "greedy": 10, "lost": 10})
    with pytest.raises(Interrupted):
        world.go(budget=1000, stop=lambda: world.clock.now >= 4)
    assert (world.ran, world.clock.now) == (["bp0"], 4)


def test_a_row_that_fails_is_named_and_the_others_go_on(tmp_path: Path, monkeypatch: Any) -> None:
    world = World(tmp_path, monkeypatch, {"bp": 3, "greedy": 1, "lost": 2})
    good = world.train

    def bad(job: Any, *rest: Any) -> None:
        if job.row.name == "greedy":
            raise LocalgradError("the loss of block 1 is not finite")
        good(job, *rest)

    monkeypatch.setattr(runs, "_train", bad)
    report = world.go()
    assert world.ran == ["bp0", "lost0"]
    assert left(report) == [("greedy", 0, "failed: the loss of block 1 is not finite")]
    assert report.failed == {"greedy seed 0": "the loss of block 1 is not finite"}
    assert "failed: greedy seed 0: the loss of block 1 is not finite" in world.notes
    monkeypatch.setattr(runs, "_train", good)
    again = world.go()
    assert (len(again.finished), again.failed) == (3, {})


def test_command_with_a_row_that_fails(
    digits: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    good = runs.train

    def bad(experiment: Any, *rest: Any, **given: Any) -> Any:
        if experiment.label == "Greedy":
            raise LocalgradError("the loss of block 1 is not finite")
        return good(experiment, *rest, **given)

    monkeypatch.setattr(runs, "train", bad)
    assert run(digits, tmp_path / "x", "--quiet", "--rows", "bp,greedy") == 1
    expected = (
        "error: 1 of 2 runs failed: greedy seed 0 (the loss of block 1 is not finite); --resume "
        "tries again\n"
    )
    assert capsys.readouterr().err == expected
    assert [row["row"] for row in read(tmp_path / "x" / "reproduce.json")["rows"]] == ["bp"]
    assert run(digits, tmp_path / "y", "--quiet", "--rows", "greedy") == 1
    assert "error: 1 of 1 runs failed: greedy seed 0" in capsys.readouterr().err
    assert not (tmp_path / "y" / "reproduce.json").exists()


def test_rows_without_their_data_are_left_out(tmp_path: Path, monkeypatch: Any) -> None:
    world = World(tmp_path, monkeypatch, {"bp": 3, "greedy": 1, "lost": 2})
    asked = []

    def missing(config: Any) -> None:
        asked.append(config)
        raise LocalgradError("svhn: not here")

    monkeypatch.setattr(estimates, "load_data", missing)
    with pytest.raises(LocalgradError, match="no row can be run: bp: svhn: not here"):
        world.go()
    assert len(asked) == 1


def test_the_estimate_is_of_the_whole_run(digits: str, monkeypatch: Any) -> None:
    """2 epochs of 64 images at 0.01 s each and 5 batches before; 40 test images, 3 times."""
    row = read_table(digits).row("greedy")
    changes = [("device", "cpu"), ("data.limit", 64)]
    config = jobs_of([row], [0], changes, Path("x"))[0].config
    steps: list[int] = []

    def timed(experiments: list[Any], repeats: int) -> list[list[float]]:
        steps.append(experiments[0].config.batch_size)
        return [[0.5, 0.32]]

    clock = iter((10.0, 10.4))
    monkeypatch.setattr(seconds, "time_steps", timed)
    monkeypatch.setattr(seconds.time, "perf_counter", lambda: next(clock))
    found = estimated(config, load_data(config))
    assert steps == [32]
    assert found == pytest.approx(0.01 * (64 * 2 + 5 * 32) + 0.4 / 32 * 40 * 3)


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "-1h", "0h", "1h2", "1e3s"])
def test_budgets_that_cannot_be_read(text: str) -> None:
    with pytest.raises(LocalgradError, match="expected a time, such as 2h, 90m or 1h30m"):
        read_duration(text)


# --- the order of the rules


def test_order_agrees_with_scipy() -> None:
    oracle = pytest.importorskip("scipy.stats")
    import numpy as np

    random = np.random.default_rng(0)
    for size in (2, 3, 5, 12):
        for levels in (2, 4, 100):
            for _ in range(10):
                a, b = (random.integers(0, levels, size).tolist() for _ in range(2))
                if len(set(a)) == 1 or len(set(b)) == 1:
                    assert order.kendall(a, b) is None
                    assert order.spearman(a, b) is None
                    continue
                assert order.kendall(a, b) == pytest.approx(oracle.kendalltau(a, b).statistic)
                assert order.spearman(a, b) == pytest.approx(oracle.spearmanr(a, b).statistic)


def line(row: str, published: float | None, *ours: float, **more: Any) -> dict[str, Any]:
    base = {"row": row, "network": "n", "data": "d", "published_accuracy": published}
    return {**base, "test_accuracies": list(ours), "scaled": [], **more}


def test_only_rows_of_one_network_are_compared() -> None:
    rows = [
        line("a", 90, 0.5, 0.6), line("b", 80, 0.8, 0.9), line("c", 70, 0.4, 0.1),
        line("d", None, 0.4), line("e", 99, 0.1, network="m"), line("f", 1, 0.9, scaled=["x"]),
    ]  # fmt: skip
    (found,) = order.orders(rows)
    assert [entry["row"] for entry in found["rows"]] == ["a", "b", "c"]
    assert (found["pairs"], found["kendall"]) == (3, pytest.approx(1 / 3))
    (pair,) = found["reversed"]
    assert (pair["above"], pair["below"], pair["beyond_spread"]) == ("a", "b", True)
    assert (pair["published_points"], pair["our_points"]) == (10, pytest.approx(-30))
    close = order.orders([line("a", 90, 0.5, 0.6), line("b", 80, 0.5, 0.7)])[0]["reversed"]
    assert [pair["beyond_spread"] for pair in close] == [False]
    single = order.orders([line("a", 90, 0.5), line("b", 80, 0.7)])[0]["reversed"]
    assert [pair["beyond_spread"] for pair in single] == [None]


# --- the store


def test_store(digits: str, finished: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "store"
    words = ("--resume", "--store", str(folder), "--label", "small-box")
    assert run(digits, finished, "--rows", "greedy", *words) == 0
    path = folder / "digits" / "small-box.json"
    assert [row["row"] for row in store.read(path)["rows"]] == ["greedy"]
    assert run(digits, finished, "--rows", "bp", "--seeds", "2", *words) == 0
    found = store.read(path, "digits")
    assert [(row["row"], row["n"]) for row in found["rows"]] == [("bp", 2), ("greedy", 1)]
    assert len(found["order"]) == 1
    assert run(digits, finished, "--seeds", "1", *words) == 0  # fewer runs do not push out more
    assert [row["n"] for row in store.read(path)["rows"]] == [2, 1]
    assert store.results(folder, "digits") == {"small-box": store.read(path)}
    assert "--store" not in path.read_text(encoding="utf-8")
    capsys.readouterr()
    other = ("--store", str(folder), "--label", "small-box", "--batch_size", "16")
    assert run(digits, tmp_path / "other", *other) == 2
    assert "holds runs with other settings (data.limit 96, epochs 1, now batch_size 16" in (
        error_line(capsys)
    )
    for text, message in (
        ("{", "is damaged: "),
        ("[]", "is no result of reproduce in format 1"),
        (json.dumps({**found, "rows": 3}), "is damaged: it has no 'rows'"),
        (json.dumps({**found, "rows": [{}]}), "is damaged: it has no 'row'"),
        (json.dumps({**found, "table": "x/y"}), "holds table x/y, not digits"),
    ):
        path.write_text(text, encoding="utf-8")
        assert run(digits, finished, *words) == 2
        assert message in error_line(capsys)
        assert path.read_text(encoding="utf-8") == text


def test_tables_of_the_docs(finished: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Published rows beside what two machines found, from their files alone."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import reproduce_table

    found = read(finished.parent / "x.json")
    bp, greedy = found["rows"]
    bp = {**bp, "row": "bp", "figures": bp["figures"]}
    dgl = {**greedy, "row": "dgl", "figures": greedy["figures"][:1], "scaled": []}
    dgl["figures"] = [{**dgl["figures"][0], "scaled": []}]
    whole = {**found, "table": "backlink/cifar10", "order": order.orders([bp, {**dgl, **SAME}])}
    for label, rows in (("box", [bp]), ("card", [bp, dgl])):
        path = store.path_of(tmp_path, "backlink/cifar10", label)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**whole, "rows": rows}), encoding="utf-8")
    monkeypatch.setattr(reproduce_table, "STORE", tmp_path)
    text = reproduce_table.tables()["reproduce-backlink-cifar10"]()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()]
    error = bp["figures"][0]["ours"]
    shown = f"{error['mean']:.2f} ± {error['std']:.2f}"
    figure = ["test error, %", "'7.37 (n=5)", shown, "2"]
    taken = cells[2][6]
    assert cells[2] == ["bp", "1", *figure, taken, "box", "(a)"]
    assert cells[3] == ["", "", *figure, taken, "card", "(a)"]
    assert next(row for row in cells if row[:1] == ["dgl"])[-2:] == ["card", "full"]
    assert next(row for row in cells if row[:1] == ["infopro"])[4:] == [""] * 5
    assert "(a) images 96 of 1,438; epochs 1 of 2, warm-up in proportion." in text
    assert "Not run yet" not in text
    overview = reproduce_table.tables()["reproduce"]().splitlines()
    counts = next(row for row in overview if "backlink/cifar10`" in row).split("|")[3:7]
    assert [int(cell) for cell in counts] == [7, 0, 2, 1]
    empty = reproduce_table.tables()["reproduce-bwbpf-cifar10"]()
    assert "Not run yet: `localgrad reproduce bwbpf/cifar10`." in empty
    own = reproduce_table.tables()["rule-published-dgl"]()  # the same rows, on the rule's page
    here = next(row for row in own.splitlines() if "[`backlink/cifar10`]" in row)
    assert here.startswith("| [`backlink/cifar10`](../reproduce.md#backlinkcifar10) | dgl | 16 |")
    assert here.endswith("| card | full |")
    assert "'7.37 (n=5)" in here  # BP's
    assert "box" not in own  # which has not run it
    assert "Not run yet" in reproduce_table.tables()["rule-published-backlink"]()
    assert "| vgg19-sedona | - | test error, % | '11.58 |" in empty


# --- mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "reproduce needs TABLE: localgrad reproduce auglocal/resnet32"),
        (["infopro/cifar"], "unknown table 'infopro/cifar'; did you mean 'infopro/cifar10'?"),
        (["infopro/svhn", "two"], "reproduce takes one table, got infopro/svhn and two"),
        (["DIGITS", "--rows", "gredy"], "has no row 'gredy'; did you mean 'greedy'?"),
        (["DIGITS", "--rows", "bp,lost"], "row 'lost' cannot be run: its rule is not built"),
        (["DIGITS", "--budget", "soon"], "--budget soon: expected a time, such as 2h"),
        (["DIGITS", "--seeds", "0"], "--seeds 0: must be a whole number of at least 1"),
        (["DIGITS", "--limit", "-3"], "--limit -3: must be a whole number of at least 1"),
        (["DIGITS", "--epochs", "0"], "epochs: must be greater than or equal to 1, got 0"),
        (["DIGITS", "--method.name", "dgl"], "reproduce takes no --method.name"),
        (["DIGITS", "--network.name", "vgg11"], "--network.name would make another row"),
        (["DIGITS", "--label", "x"], "--label names a machine in the store: give --store too"),
        (["DIGITS", "--store", ".", "--label", "A B"], "--label A B: give lower-case letters"),
        (["DIGITS", "--budget", "1ms"], "--budget 1ms: expected a time"),
        (["DIGITS", "--budget", "0.001s", *SMALL], "nothing fits --budget 0.0 s"),
        (["DIGITS", "--network.wdth", "3", *SMALL], "no row can be run: bp: network 'resnet20'"),
    ],
)  # fmt: skip
def test_refused(
    words: list[str], message: str, digits: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [digits if word == "DIGITS" else word for word in words]
    assert main(["reproduce", *given]) == 2
    assert message in error_line(capsys)
    assert not list(tmp_path.rglob("config.yaml"))


def test_folders_are_not_mixed_up(digits: str, finished: Path, tmp_path: Path, capsys: Any) -> None:
    before = snapshot(finished)
    assert run(digits, finished, "--seeds", "2") == 2
    assert "holds a run already: go on with it by --resume" in error_line(capsys)
    assert run(digits, finished, "--resume", "--batch_size", "16") == 2
    assert "another configuration (batch_size was 32, now 16)" in error_line(capsys)
    assert run(digits, finished / "bp-s0", "--resume") == 2
    assert "holds a run or a comparison" in error_line(capsys)
    other = tmp_path / "other.yaml"
    other.write_text(TABLE, encoding="utf-8")
    assert run(str(other), finished, "--resume") == 2
    assert "holds runs of table digits, not other" in error_line(capsys)
    assert snapshot(finished) == before
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "estimates.json").write_text("[1]", encoding="utf-8")
    assert run(digits, damaged, "--resume") == 2
    assert "estimates.json is damaged: delete it" in error_line(capsys)
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert run(digits, tmp_path / "x", "--store", str(tmp_path / "file"), "--label", "a") == 2
    assert "file is a file" in error_line(capsys)
    assert run(digits, tmp_path / "file") == 2
    assert "is a file" in error_line(capsys)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("summary.json", "{", "summary.json is damaged: "),
        ("summary.json", "{}", "summary.json is damaged: it has no 'network'; delete the folder"),
        ("summary.json", "[]", "summary.json is damaged: it has no 'network'"),
        ("metrics.jsonl", "x", "metrics.jsonl is damaged: "),
        ("reach.json", None, "reach.json: No such file"),
    ],
)
def test_damaged_runs_are_named_before_others_start(
    digits: str, finished: Path, tmp_path: Path, capsys: Any, name: str, text: Any, message: str
) -> None:
    out = tmp_path / "x"
    shutil.copytree(finished / "bp-s0", out / "bp-s0")
    if text is None:
        (out / "bp-s0" / name).unlink()
    else:
        (out / "bp-s0" / name).write_text(text, encoding="utf-8")
    assert run(digits, out, "--resume") == 2
    assert message in error_line(capsys)
    assert not (out / "greedy-s0").exists()


def test_lists(digits: str, tmp_path: Path, capsys: Any) -> None:
    kept = tmp_path / "tables.json"
    assert main(["reproduce", "--list", "--json", str(kept)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(read(kept)) == 13
    assert "bwbpf/cifar10" in lines[7]
    assert lines[7].split()[1:3] == ["24", "20"]
    assert main(["reproduce", digits, "--list"]) == 0
    text = capsys.readouterr().out
    assert "cannot be run: lost: its rule is not built" in text
    assert "assumed: optimizer.lr: nobody said" in text
    assert "source: nowhere" in text
