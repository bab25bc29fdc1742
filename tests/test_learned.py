"""What ``compare`` finds of the networks that it has trained, and that it costs them nothing."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from typing import Any

import pytest

from command import read
from localgrad.experiment import analyse as module
from localgrad.experiment import compare as room
from localgrad.experiment import loop
from localgrad.experiment.analyse import analyse
from localgrad.experiment.config import build_config
from localgrad.experiment.failures import RunsFailedError
from localgrad.experiment.loop import Interrupted
from localgrad.learner import LocalLearner

METHODS = ("backprop", "greedy", "dgl")


def run(out: Path, resume: bool = False, stop: Any = lambda: False, **changed: Any) -> list[str]:
    """Compare, and return what is said of it."""
    tree = {
        "network": {"name": "digit_nets:mlp"},
        "data": {"limit": 64, "test_limit": 20},
        "batch_size": 32,
        "epochs": 2,
        "repeats": 5,
        "device": "cpu",
        "methods": ["backprop", "greedy"],
        "seeds": [3, 4],
        **changed,
    }
    notes: list[str] = []
    room.compare(build_config(tree), out, resume, stop=stop, note=notes.append)
    return notes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "x"
    run(out)
    return out


def test_it_is_the_analysis_of_the_first_seeds_runs(finished: Path) -> None:
    found = read(finished / "analysis.json")
    expected = analyse([finished / "bp-s3", finished / "greedy-s3"], inputs=500, probes=False)
    assert [(r["label"], r["seed"]) for r in found["runs"]] == [("BP", 3), ("Greedy", 3)]
    for key in ("reference", "inputs", "runs", "cka"):
        assert found[key] == json.loads(json.dumps(expected[key]))
    assert found["inputs"] == 20


def test_it_changes_no_bit_of_what_is_trained(finished: Path, tmp_path: Path) -> None:
    run(tmp_path / "x", analyse=0)
    assert not (tmp_path / "x" / "analysis.json").exists()
    names = [f"{rule}-s{seed}/model.safetensors" for rule in ("bp", "greedy") for seed in (3, 4)]
    for name in names:
        assert (tmp_path / "x" / name).read_bytes() == (finished / name).read_bytes()


def test_it_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x"
    run(out, analyse=0)
    with monkeypatch.context() as patch:
        patch.setattr(room, "train", None)  # all are trained: it comes later just as well
        run(out, resume=True)
        before = (out / "analysis.json").read_bytes()
        patch.setattr(room.learned, "analyse", None)
        run(out, resume=True)
    assert (out / "analysis.json").read_bytes() == before
    run(out, resume=True, methods=list(METHODS))
    assert [r["label"] for r in read(out / "analysis.json")["runs"]] == ["BP", "Greedy", "DGL"]


def test_stopped_in_it_and_gone_on_with(tmp_path: Path, finished: Path) -> None:
    out = tmp_path / "x"
    run(out, analyse=0)
    asked = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 3

    with pytest.raises(Interrupted):
        run(out, resume=True, stop=stop)
    assert (out / "compare.json").exists()
    assert not (out / "analysis.json").exists()
    run(out, resume=True)
    assert read(out / "analysis.json")["cka"] == read(finished / "analysis.json")["cka"]


def test_without_checkpoints_the_comparison_stands(tmp_path: Path) -> None:
    run(tmp_path / "x", analyse=0)
    (tmp_path / "x" / "greedy-s3" / "checkpoint" / "last.pt").unlink()
    notes = run(tmp_path / "x", resume=True)
    assert notes[-1].startswith("no analysis: ")
    assert "greedy-s3 has no checkpoint" in notes[-1]
    assert (tmp_path / "x" / "compare.json").exists()


def test_where_the_first_seeds_fail_there_is_nothing_to_analyse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, calls = loop.learning_rate, iter(range(99))
    monkeypatch.setattr(
        loop, "learning_rate", lambda *given: good(*given) if next(calls) else math.inf
    )
    with pytest.raises(RunsFailedError, match="1 of 2 runs failed: BP, seed 3"):
        run(tmp_path / "x", methods=["backprop"])
    assert [found["seed"] for found in read(tmp_path / "x" / "compare.json")] == [4]
    assert not (tmp_path / "x" / "analysis.json").exists()


def test_no_more_than_two_networks_are_in_memory(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def living() -> int:
        gc.collect()
        return sum(issubclass(type(one), LocalLearner) for one in gc.get_objects())

    counts: list[int] = []
    load = module.load_run

    def counted(*given: Any) -> Any:
        loaded = load(*given)
        counts.append(living() - before)
        return loaded

    monkeypatch.setattr(module, "load_run", counted)
    before = living()
    paths = [finished / f"{rule}-s{seed}" for rule in ("bp", "greedy") for seed in (3, 4)]
    analyse(paths, probes=False)
    assert counts == [1, 2, 2, 2]
    assert living() == before


def test_a_summary_says_what_an_exit_saves(finished: Path) -> None:
    for rule in ("bp", "greedy"):
        summary = read(finished / f"{rule}-s3" / "summary.json")
        flops, accuracy = summary["exit_flops"], summary["block_accuracy"]
        assert len(flops) == len(accuracy) == summary["blocks"]
        saved = summary["one_point_lower"]
        assert saved["accuracy"] == accuracy[saved["exit"]] >= accuracy[-1] - 0.01
        assert saved["flops"] == flops[saved["exit"]] / flops[-1]
        held = summary["parameters"] + summary["head_parameters"]
        assert summary["parameter_bytes"] == 4 * held
        assert summary["optimizer_bytes"] == 4 * held  # SGD's momentum
        rest = summary["peak_memory_bytes"] - 8 * held
        assert rest >= summary["peak_activation_bytes"]
