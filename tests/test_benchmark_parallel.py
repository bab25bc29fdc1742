"""The comparison with DDP and pipelines: what it counts is exact, and rivals are not broken."""

from __future__ import annotations

import json
import os
import platform
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from localgrad import Chain, networks

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BATCH, SIZE = 8, 16
LOCAL = ("Greedy, K=4", "BackLink L=1 pool_linear, K=4")
PIPELINES = ("GPipe, 4 micro-batches", "1F1B, 4 micro-batches")
OPTIONS = (
    "--network resnet20 --option width 4 --size 16 --batch 8 --rules greedy backlink "
    "--blocks 4 99 --micro-batches 4 --steps 3 --rounds 1 --repeats 1 --reach 0"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("contest") / "parallel.json"
    script = [str(BENCHMARKS / "cpu" / "parallel.py"), *OPTIONS.split(), "--json", str(path)]
    threads = {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *script],
        capture_output=True, text=True, timeout=300, env={**os.environ, **threads},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    document["rows"] = {row["name"]: row for row in document["rows"]}
    return document


def model() -> torch.nn.Module:
    return networks.get("resnet20", width=4)


def parameter_bytes(module: Any) -> int:
    return sum(p.nbytes for p in module.parameters())


def border_bytes(units: int) -> int:
    """What the first ``units`` units return, by running them."""
    x = torch.rand(BATCH, 3, SIZE, SIZE)
    for unit in Chain.of(model()).units[:units]:
        x = unit(x)
    return x.nbytes


def test_all_are_there(found: dict[str, Any]) -> None:
    own = [name for each in LOCAL for name in (f"{each}, one process", each)]
    rest = ["BP", "BP, 2 threads", "DDP", "DDP without its exchange"]
    assert set(found["rows"]) == {*own, *rest, *PIPELINES}
    assert list(found["left_out"]) == [name.replace("K=4", "K=99") for name in LOCAL]
    assert all("from 1 to 10" in reason for reason in found["left_out"].values())
    assert (found["n"], found["steps"], found["batch"]) == (1, 3, BATCH)
    assert found["malloc"] == ("keep" if platform.libc_ver()[0] == "glibc" else "default")
    assert {"command", "versions", "hardware", "date"} <= set(found)


def test_rivals_have_the_gradients_of_bp(found: dict[str, Any]) -> None:
    assert set(found["gradient_errors"]) == {"DDP", *PIPELINES}
    assert all(error < 1e-12 for error in found["gradient_errors"].values())


def test_a_broken_rival_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that are twice too large, or missing."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from parallel_step import check

    gradients = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([2.0])}
    assert check.difference(gradients, gradients) == 0
    doubled = {name: 2 * gradient for name, gradient in gradients.items()}
    assert check.difference(doubled, gradients) == 1.0 > check.LARGEST
    assert check.difference({"a": gradients["a"]}, gradients) == float("inf")


def test_sent_bytes_are_those_by_hand(found: dict[str, Any]) -> None:
    rows = found["rows"]
    greedy = rows["Greedy, K=4"]
    assert greedy["sent_bytes"] == [border_bytes(greedy["units"][0]), 0]
    for name in ("BackLink L=1 pool_linear, K=4", *PIPELINES):
        border = border_bytes(rows[name]["units"][0])
        assert rows[name]["sent_bytes"] == [border, border], name
    # a ring of two: half of the gradients' bytes twice
    assert rows["DDP"]["sent_bytes"] == [parameter_bytes(model())] * 2
    assert rows["BP"]["sent_bytes"] == rows["Greedy, K=4, one process"]["sent_bytes"] == [0]


def test_memory_is_of_each_process(found: dict[str, Any]) -> None:
    rows, whole = found["rows"], parameter_bytes(model())
    for name, row in rows.items():
        assert len(row["memory"]) == row["processes"]
        for one in row["memory"]:
            assert one["activations"] > 0, name
            assert one["optimizer"] == one["parameters"] > 0, name  # momentum
            assert one["total"] > one["parameters"] + one["optimizer"], name
    for name in PIPELINES:
        for kind in ("parameters", "gradients"):
            assert sum(one[kind] for one in rows[name]["memory"]) == whole
    for one in rows["DDP"]["memory"]:
        assert one["parameters"] == one["gradients"] == whole
    for name in LOCAL:
        (alone,) = rows[f"{name}, one process"]["memory"]
        assert sum(one["parameters"] for one in rows[name]["memory"]) == alone["parameters"] > whole


def test_times_and_their_simulation(found: dict[str, Any]) -> None:
    rows = found["rows"]
    for row in rows.values():
        steady, filled = (row["seconds"][how] for how in ("steady", "filled"))
        assert steady["mean"] > 0
        assert filled["mean"] > 0
        assert steady["std"] is filled["std"] is None  # of one round
        rivals = ["BP", "BP, 2 threads", "DDP", *PIPELINES]
        expected = {*rivals, row["one_process"]} - {row["name"], None}
        assert set(row["speed_up"]) == (expected if row["processes"] == 2 else set())
        for name, ratio in row["speed_up"].items():
            theirs = rows[name]["seconds"]["steady"]["mean"]
            assert ratio["steady"]["mean"] == pytest.approx(theirs / steady["mean"])
        for paper in row["simulated"].values():
            assert paper["error"] == pytest.approx(paper["seconds"] / steady["mean"] - 1)
    for name in (*LOCAL, *PIPELINES):
        assert set(rows[name]["simulated"]) == {"alone", "at_once"}
        assert all(0 <= share < 1 for share in rows[name]["idle"]["filled"])
    assert rows["DDP"]["idle"]["filled"] == [None, None]  # cannot be seen


def test_tables(found: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from parallel_step import table

    document = {**found, "rows": list(found["rows"].values())}
    header, rows, note = table.speed(document)
    assert [row[0] for row in rows] == [n for n in found["rows"] if "without" not in n]
    assert all(len(row) == len(header) for row in rows)
    own = found["rows"]["Greedy, K=4"]["speed_up"]["Greedy, K=4, one process"]["steady"]["mean"]
    cells = next(row for row in rows if row[0] == "Greedy, K=4")
    assert cells[header.index("over itself in one process")] == f"{own:.2f}"
    for name in PIPELINES:
        assert f"{name}: {found['rows'][name]['units'][0]}" in note
    header, rows, _ = table.costs(document)
    sent = found["rows"]["DDP"]["sent_bytes"][0] / 2**20
    assert next(row for row in rows if row[0] == "DDP")[-1] == f"{sent:.2f} / {sent:.2f}"
    header, rows, _ = table.simulated(document)
    assert [row[0] for row in rows] == [n for n, r in found["rows"].items() if r["simulated"]]
    assert "in two processes of one thread, batch 8: " in table.summary(document)


def test_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs at 4, 5, 7, 10 and 11 s, the last update at 12 s; a second waited in each step."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from parallel_step import pace as room

    moments = iter([0.0, 4.0, 5.0, 7.0, 10.0, 11.0, 12.0])
    clock = SimpleNamespace(perf_counter=lambda: next(moments), process_time=lambda: 0.0)
    monkeypatch.setattr(room, "time", clock)
    contender: Any = SimpleNamespace(steps=lambda count: iter([None] * count), waited=lambda: 1.0)
    pace = room.pace(contender, 5, torch.device("cpu"))
    assert pace.steady == 1.5  # of 1, 2, 3, 1
    assert pace.filled == 12 / 5
    assert pace.idle_steady == 2 / (2 + 3)  # steps 2 and 3, in between
    assert pace.idle_filled == 6 / 12


def test_mistakes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from parallel_step import launch

    for words, said in (("--batch 12", "does not divide"), ("--steps 2", "--steps at least 3")):
        with pytest.raises(SystemExit):
            launch.parsed("About.", "cpu", words.split())
        assert said in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["parallel.py"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SystemExit, match="2 processes need as many GPUs, this machine has 1"):
        runpy.run_path(str(BENCHMARKS / "gpu" / "parallel.py"), run_name="__main__")
