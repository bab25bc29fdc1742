"""Searches from beginning to end, on few digits."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import localgrad
from command import error_line, read, snapshot, words
from localgrad.cli import main
from localgrad.data import load
from localgrad.errors import LocalgradError
from localgrad.experiment.config import build_config
from localgrad.experiment.loop import Interrupted
from localgrad.search.search import Watch, search

NETWORK = "localgrad.networks.resnet_cifar:resnet_cifar"
OPTIONS: dict[str, Any] = {
    "network.name": NETWORK,
    "network.depth": 8,  # four units
    "network.width": 4,
    "network.in_channels": 1,
    "data.limit": 80,
    "batch_size": 32,
    "device": "cpu",
    "threads": 1,
    "search.trials": 6,
    "search.epochs": 2,
    "search.reduction": 2,
    "search.validation": 0.2,
    "search.blocks": "2,4",
    "search.heads": "pool_linear,conv_mlp",
    "search.links": "0,1",
}
CLOCK = ("seconds", "images_per_second", "step_seconds", "tries")


def command(out: Path, *more: str, **changed: Any) -> int:
    return main(["search", *words({**OPTIONS, **changed}), "--out", str(out), *more])


def tree(**changed: Any) -> dict[str, Any]:
    return {
        "network": {"name": NETWORK, "depth": 8, "width": 4, "in_channels": 1},
        "data": {"limit": 80},
        "batch_size": 32,
        "device": "cpu",
        "search": {
            "trials": 9, "epochs": 4, "reduction": 2, "validation": 0.2, "blocks": [2, 4],
            "heads": ["pool_linear", "conv_mlp"], **changed,
        },
    }  # fmt: skip


def outcome(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Trials without what a clock measured."""
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in found["trials"]]


def by_blocks(task, data, rungs, stop):
    """In a training run's place: few blocks are good, and better every epoch."""
    config = rungs.task.record.config.search
    for epoch in range(1, config.epochs + 1):
        score = 0.1 * epoch - 0.05 * len(task.decoupling) - 0.001 * task.index
        rungs.epoch({"epoch": epoch, "test_accuracy": 0.5 + score}, config.epochs)
    return {
        "test_accuracy": 0.5 + score, "epochs": config.epochs,
        "images_per_second": 10.0, "peak_memory_bytes": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("search") / "x"
    assert command(out, "--quiet", "--json", str(out.parent / "x.json")) == 0
    return out


def test_files(finished):
    found = read(finished / "search.json")
    assert read(finished.parent / "x.json") == found
    names = {name for name in snapshot(finished) if "/" not in name}
    assert {"config.yaml", "study.db", "search.json", "front.svg", "front.png"} <= names
    files = sorted((finished / "front").iterdir())
    assert len(files) == len(found["front"]) > 0
    for path, index in zip(files, found["front"], strict=True):
        there = localgrad.Decoupling.load(path)
        assert there == localgrad.Decoupling.from_dict(found["trials"][index]["decoupling"])
        assert there.stages == (2, 1, 1)
        assert there.source == f"search on {NETWORK}, digits (0.2 of training held out)"
    assert not list(finished.rglob("checkpoint"))
    assert len(found["trials"]) == 6
    assert sum(found["counts"].values()) == 6
    assert {row["state"] for row in found["trials"]} == {"complete", "pruned"}


def test_the_front_is_what_nothing_beats(finished):
    found = read(finished / "search.json")
    complete = [row for row in found["trials"] if row["state"] == "complete"]
    for row in complete:
        beaten = any(
            (other["accuracy"] >= row["accuracy"] and other["memory_bytes"] <= row["memory_bytes"])
            and (other["accuracy"], other["memory_bytes"]) != (row["accuracy"], row["memory_bytes"])
            for other in complete
        )
        assert beaten != (row["trial"] in found["front"])


def test_predicted_memory_is_what_a_real_step_takes(finished):
    for row in read(finished / "search.json")["trials"]:
        if row["state"] == "complete":
            assert abs(row["memory_bytes"] - row["measured_memory_bytes"]) <= 64


def test_same_seed_same_search(finished, tmp_path):
    assert command(tmp_path / "x", "--quiet") == 0
    assert outcome(read(tmp_path / "x" / "search.json")) == outcome(read(finished / "search.json"))


def test_nothing_else_goes_into_its_folder(finished, capsys):
    before = snapshot(finished)
    for line in (["train", "--out", str(finished), "--resume"], ["report", str(finished)]):
        assert main(line) == 2
        assert "holds a search" in error_line(capsys)
    assert snapshot(finished) == before


def test_a_trial_is_a_run_that_can_be_trained_again(finished, tmp_path, capsys):
    found = read(finished / "search.json")
    index = found["front"][0]
    path = finished / "front" / "00.yaml"
    trained = ["--decoupling", str(path)]
    small = {k: v for k, v in OPTIONS.items() if not k.startswith("search.")}
    options = words({**small, "data.test_limit": 20, "epochs": 1})
    assert main(["train", *options, *trained, "--out", str(tmp_path / "x"), "--quiet"]) == 0
    trained_there = read(tmp_path / "x" / "decoupling.yaml")
    assert trained_there["blocks"] == found["trials"][index]["decoupling"]["blocks"]
    deeper = [*options, *trained, "--network.depth", "14", "--out", str(tmp_path / "y")]
    capsys.readouterr()
    assert main(["train", *deeper]) == 2
    assert "is for 4 units" in error_line(capsys)


def test_pruning_keeps_the_right_ones(tmp_path):
    """Injected scores, so that who goes on at which rung is known."""
    config = build_config(tree(cost="none"))
    found = search(config, tmp_path / "x", run=by_blocks)
    seen: dict[int, list[float]] = {1: [], 2: []}
    for row in found["trials"]:
        base = 0.5 - 0.05 * row["blocks"] - 0.001 * row["trial"]
        expected = 4
        for rung in (1, 2):
            score = base + 0.1 * rung
            better = sum(other > score for other in seen[rung])
            seen[rung].append(score)
            if better >= max(1, len(seen[rung]) // 2):
                expected = rung
                break
        assert row["epochs"] == expected
        assert row["state"] == ("complete" if expected == 4 else "pruned")
    assert found["counts"]["pruned"] > 0
    best = max((r for r in found["trials"]), key=lambda r: (r["epochs"], r["accuracy"]))
    assert found["front"] == [best["trial"]]


def test_a_budget_is_kept_to_the_byte(tmp_path):
    free = search(build_config(tree(trials=5)), tmp_path / "a", run=by_blocks)
    sizes = sorted(row["memory_bytes"] for row in free["trials"])
    budget = sizes[len(sizes) // 2]
    found = search(build_config(tree(trials=5, budget=str(budget))), tmp_path / "b", run=by_blocks)
    assert max(row["memory_bytes"] for row in found["trials"]) <= budget
    assert found["left_out"]["over budget"] > 0
    assert len(found["trials"]) == 5


def test_a_budget_that_nothing_meets_names_the_nearest(tmp_path):
    config = build_config(tree(budget="10 KB"))
    with pytest.raises(LocalgradError) as error:
        search(config, tmp_path / "x", run=by_blocks)
    assert "the nearest, " in str(error.value)
    assert "with pool_linear, takes" in str(error.value)
    assert not (tmp_path / "x").exists()


def test_a_small_space_ends_the_search(tmp_path):
    small = {"cuts": "stages", "blocks": [2, 3], "heads": ["dgl"], "links": [0], "trials": 30}
    found = search(build_config(tree(**small)), tmp_path / "x", run=by_blocks)
    assert len(found["trials"]) == 3  # two ways to cut once, one to cut twice


def test_a_sampler_that_likes_what_is_known_goes_on(tmp_path):
    """A space of 144, of which 40 are wanted, and one place that is far better than all others."""

    def one_is_best(task, data, rungs, stop):
        link = sum(block.link is not None for block in task.decoupling.blocks)
        rungs.epoch({"epoch": 1, "test_accuracy": 0.9 - 0.4 * link}, 1)
        return {
            "test_accuracy": 0.9 - 0.4 * link, "epochs": 1, "images_per_second": 10.0,
            "peak_memory_bytes": 1,
        }  # fmt: skip

    wanted = {"trials": 40, "blocks": [3], "links": [0, 1], "heads": ["pool_linear", "conv_mlp"]}
    config = tree(**wanted, epochs=1, reduction=None, cost="none")
    config["network"]["depth"] = 14
    found = search(build_config(config), tmp_path / "x", run=one_is_best)
    assert len(found["trials"]) == 40
    assert found["left_out"]["repeat"] < 2 * 40


def test_interrupted_and_resumed_is_as_in_one_go(finished, tmp_path, capsys):
    out = tmp_path / "x"

    class Stopper(Watch):
        def __init__(self) -> None:
            self.epochs = 0

        def epoch(self, task, epoch, accuracy):
            self.epochs += 1

    settings = words(OPTIONS)
    from localgrad.cli.arguments import parse

    config = build_config(parse(["search", *settings, "--out", str(out)]).tree())
    for after in (1, 4):
        watch = Stopper()
        with pytest.raises(Interrupted):
            search(config, out, True, watch, stop=lambda w=watch, n=after: w.epochs >= n)
        assert not (out / "search.json").exists()
    assert command(out, "--quiet") == 2  # not without --resume
    assert "go on with it by --resume" in error_line(capsys)
    assert main(["search", "--out", str(out), "--resume", "--quiet"]) == 0
    found = read(out / "search.json")
    assert outcome(found) == outcome(read(finished / "search.json"))
    assert found["put_back"] > 0


def test_more_trials_later(tmp_path):
    search(build_config(tree(trials=2)), tmp_path / "x", run=by_blocks)
    found = search(build_config(tree(trials=4)), tmp_path / "x", resume=True, run=by_blocks)
    assert [row["trial"] for row in found["trials"]] == [0, 1, 2, 3]


def test_another_search_is_refused(finished, tmp_path, capsys):
    assert command(finished, "--resume", **{"search.links": "0,2"}) == 2
    assert "search.links was [0, 1], now [0, 2]" in error_line(capsys)
    out = tmp_path / "x"
    out.mkdir()
    (out / "study.db").write_bytes((finished / "study.db").read_bytes())
    assert command(out, "--resume", **{"network.depth": 14}) == 2
    line = error_line(capsys)
    assert "is of another search" in line
    assert '"depth": 8' in line
    (out / "study.db").write_bytes(b"no database, but long enough to be looked at" * 9)
    (out / "config.yaml").unlink()
    assert command(out, "--resume") == 2
    assert "cannot be used as the record of a search" in error_line(capsys)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"search.blocks": "2,5"}, "5 blocks are more than the network's 4 units"),
        ({"search.heads": "dlg"}, "unknown head 'dlg'; did you mean 'dgl'?"),
        ({"search.heads": "math:cos"}, "head math:cos"),
        ({"search.budget": "lots"}, "budget 'lots' is no size of memory"),
        ({"search.processes": 0}, "search.processes: must be greater than or equal to 1, got 0"),
        ({"search.links": "[]"}, "search.links: the search space is empty"),
        ({"search.validation": 1}, "search.validation: must be less than 1"),
        ({"search.validation": 0.001}, "leaves none to test on"),
        ({"search.trails": 3}, "did you mean --search.trials?"),
        ({"method.name": "dgl"}, "search takes no --method.name"),
    ],
)
def test_mistakes(changed, text, tmp_path, capsys):
    assert command(tmp_path / "x", **changed) == 2
    assert text in error_line(capsys)
    assert not (tmp_path / "x").exists()


def test_optuna_missing(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("localgrad.search.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert command(tmp_path / "x") == 2
    assert error_line(capsys) == "error: optuna is missing: pip install 'localgrad[search]'"


def test_a_diverging_trial_is_a_failed_one(tmp_path, capsys):
    def diverges(task, data, rungs, stop):
        if task.index % 2:
            raise LocalgradError("the loss is not finite")
        return by_blocks(task, data, rungs, stop)

    found = search(build_config(tree(trials=4)), tmp_path / "x", run=diverges)
    assert [row["state"] == "failed" for row in found["trials"]] == [False, True] * 2
    assert found["trials"][1]["reason"] == "the loss is not finite"


def test_validation_never_reads_the_test_images(tmp_path):
    """Parquet files whose test part is damaged: they can be searched on, not trained on."""
    pytest.importorskip("pyarrow")
    from image_files import arrays, write

    write(tmp_path, arrays(40))
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"nothing to be read here")
    with pytest.raises(LocalgradError, match="not a readable parquet file"):
        load("parquet", tmp_path)
    data = load("parquet", tmp_path, validation=0.25)
    assert (len(data.train), len(data.test)) == (30, 10)


def test_the_validation_part_is_fixed_and_disjoint():
    whole = load("digits")
    held = load("digits", validation=0.1)
    rows = {image.numpy().tobytes() for image in whole.train.images}
    train, rest = (
        [image.numpy().tobytes() for image in part.images] for part in (held.train, held.test)
    )
    assert len(train) + len(rest) == len(whole.train)
    assert set(train) | set(rest) == rows
    assert torch.equal(held.test.images, load("digits", validation=0.1).test.images)


def test_kill_nine_loses_a_running_trial_at_most(tmp_path):
    """A worker is killed and its trial put back, then all are killed; resumed, nothing is lost."""
    out = tmp_path / "x"
    longer = {"search.epochs": 24, "search.reduction": "null", "search.trials": 3}
    options = words({**OPTIONS, **longer, "search.processes": 2, "data.limit": 320})
    line = [sys.executable, "-m", "localgrad", "search", *options, "--out", str(out)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        os.kill(_noted(process, out, "process", "RUNNING"), signal.SIGKILL)
        _noted(process, out, "tries", "%")  # put back
        workers = psutil.Process(process.pid).children()
        for one in (process, *workers):
            os.kill(one.pid, signal.SIGKILL)
        psutil.wait_procs(workers, timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (
        main(["search", "--out", str(out), "--resume", "--quiet", "--search.processes", "1"]) == 0
    )
    found = read(out / "search.json")
    assert len(found["trials"]) == 3
    assert found["counts"]["failed"] == found["counts"]["running"] == 0
    assert 1 <= found["put_back"] <= 3
    assert [row["trial"] for row in found["trials"]] == list(range(3))


def _noted(process: Any, out: Path, key: str, state: str) -> int:
    """Wait until a trial in a state has a note; return the note."""
    query = (
        "select a.value_json from trial_user_attributes a join trials t "
        "on a.trial_id = t.trial_id where a.key = ? and t.state like ?"
    )
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, process.stdout.read()
        found = None
        if (out / "study.db").exists():
            try:
                with closing(sqlite3.connect(out / "study.db", timeout=10)) as database:
                    found = database.execute(query, (key, state)).fetchone()
            except sqlite3.OperationalError:  # its tables are not made yet
                found = None
        if found is not None:
            return int(json.loads(found[0]))
        time.sleep(0.05)
    raise AssertionError(f"no trial with {key}")
