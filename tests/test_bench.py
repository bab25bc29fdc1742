"""The bench: rules against BP on made-up inputs, and the figure of memory against time."""

from __future__ import annotations

import itertools
import json
import random
from xml.etree import ElementTree

import pytest
import torch

from command import error_line, read, words
from localgrad import decouple, measure_memory, networks
from localgrad.cli import main
from localgrad.errors import LocalgradError
from localgrad.experiment import bench as room
from localgrad.experiment.bench import bench
from localgrad.experiment.config import build_config
from localgrad.experiment.made_up import make, read_shape
from localgrad.report.memory_time import write_memory_time
from localgrad.report.pareto import front

TINY = {"network": {"name": "resnet20", "width": 4}, "device": "cpu", "repeats": 5}
OPTIONS = {
    "network.name": "resnet20",
    "network.width": 4,
    "input": "3x8x8",
    "batch": 4,
    "methods": "greedy",
    "blocks": 3,
    "device": "cpu",
    "repeats": 5,
}


def configured(*methods, **changed):
    return build_config({**TINY, "methods": list(methods), **changed})


def run(*more, **changed):
    return main(["bench", *words({**OPTIONS, **changed}), *more])


# --- the room


def test_baselines_come_first_and_each_row_once():
    config = configured("backprop", "greedy", {"name": "backprop", "checkpoint": "unit"})
    found = bench(config, 4, [2, 5, 2], (3, 8, 8))
    assert [(row["rule"], row["blocks"], row["losses"]) for row in found.rows] == [
        ("BP", None, 1),
        ("BP + checkpoint unit", None, 1),
        ("BP + checkpoint sqrt", None, 1),
        ("Greedy", 2, 2),
        ("Greedy", 5, 5),
    ]
    base = found.rows[0]
    assert (base["memory_ratio"], base["total_ratio"], base["flops_ratio"]) == (1, 1, 1)
    for row in found.rows:
        assert row["memory_ratio"] == row["activation_bytes"] / base["activation_bytes"]
        assert row["per_second"] == 4 / row["median_seconds"]
        assert row["time_ratio"] > 0
        assert row["time_ratio_std"] >= 0
        assert row["allocated_bytes"] is None  # a CUDA figure
    assert not found.skipped


def test_figures_are_those_of_a_step_by_hand():
    found = bench(configured(), 4, shape=(3, 8, 8)).rows[0]
    torch.manual_seed(0)
    model = networks.get("resnet20", width=4).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    x = torch.rand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    y = torch.randint(10, (4,))

    learner = decouple(model, "backprop")

    def local():
        learner.step(x, y)

    def whole():
        optimizer.zero_grad()
        local()
        optimizer.step()

    whole()
    optimizer.zero_grad()
    assert measure_memory(local, model).activations == found["activation_bytes"]
    assert measure_memory(whole, model, optimizer).total == found["total_bytes"]


@pytest.mark.parametrize(
    ("optimizer", "rules"), [("sgd", ["backlink", "auglocal"]), ("adamw", ["greedy"])]
)
def test_prediction_is_what_is_measured(optimizer, rules):
    config = configured(*rules, optimizer={"name": optimizer})
    measured = bench(config, 4, [5], (3, 8, 8))
    predicted = bench(config, 4, [5], (3, 8, 8), predict=True)
    assert predicted.repeats is None
    keys = ("rule", "blocks", "losses", "activation_bytes", "flops", "memory_ratio")
    for real, fake in zip(measured.rows, predicted.rows, strict=True):
        assert [real[key] for key in keys] == [fake[key] for key in keys]
        # a real loop holds logits and losses during the update, where a small network may peak
        held = 4 * (4 * 10 + real["losses"])
        assert real["total_bytes"] - fake["total_bytes"] in (0, held)
        assert "time_ratio" not in fake


def test_a_batch_that_no_machine_holds_is_predicted():
    found = bench(configured("greedy"), 10**8, [5], (3, 8, 8), predict=True)
    assert found.rows[0]["total_bytes"] > 2**40
    assert found.rows[-1]["total_ratio"] < 1
    document = found.to_dict()
    assert json.loads(json.dumps(document)) == document
    assert {row["network"] for row in document["rows"]} == {"resnet20"}


def test_weights_stay_where_they_are():
    """Random targets lead nowhere: the optimizer runs, and moves nothing."""
    config = configured("greedy", optimizer={"name": "adamw"})
    subject = make(config, (3, 8, 8))
    before = [p.clone() for p in subject.chain.model.parameters()]
    case = room.Case(config, subject, room.BASELINES[0], None)
    _, whole, _ = case.steps(4)
    whole()
    whole()
    after = list(subject.chain.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is not None for p in after)


def test_updates_and_recomputation_are_for_the_rules_alone():
    plain = bench(configured("greedy"), 4, [3], (3, 8, 8))
    spare = {"optimizer": {"update": "block"}, "activation_checkpoint": "unit"}
    config = configured("greedy", **spare)
    found = bench(config, 4, [3], (3, 8, 8))
    for before, after in zip(plain.rows[:3], found.rows[:3], strict=True):
        assert before["rule"] == after["rule"]
        assert before["total_bytes"] == after["total_bytes"]
    assert found.rows[3]["rule"] == "Greedy + checkpoint unit"
    assert found.rows[3]["total_bytes"] < plain.rows[3]["total_bytes"]
    assert found.rows[3]["flops"] > plain.rows[3]["flops"]
    with pytest.raises(LocalgradError, match="'block' is measured, not predicted"):
        bench(config, 4, [3], (3, 8, 8), predict=True)


def test_less_precision_takes_less_memory():
    full, *half = (
        bench(configured(precision=kind), 16, shape=(3, 16, 16), predict=True).rows[0]
        for kind in ("fp32", "bf16", "fp16")
    )
    assert all(row["activation_bytes"] < full["activation_bytes"] for row in half)


def test_what_a_network_cannot_have_is_left_out():
    found = bench(configured("auglocal", "greedy"), 4, [2, 40], (3, 8, 8))
    assert [row["rule"] for row in found.rows][3:] == ["Greedy"]
    lines = room.reasons(found.skipped)
    assert lines[0].startswith("AugLocal d=2 K=2: AugLocal depth=2 joins the last 3 blocks")
    assert lines[1].startswith("AugLocal d=2 K=40, Greedy K=40: blocks=40: must be")


def test_out_of_memory_leaves_a_row_out(monkeypatch):
    """BP itself may not fit: what fits still has its figures, without a ratio."""
    counted = room.Case.counted

    def fits(case, batch):
        if len(case.learner.decoupling) == 1 and not case.learner.decoupling.blocks[0].checkpoint:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return counted(case, batch)

    monkeypatch.setattr(room.Case, "counted", fits)
    found = bench(configured("greedy"), 4, [3], (3, 8, 8))
    assert [row["rule"] for row in found.rows] == [
        "BP + checkpoint unit",
        "BP + checkpoint sqrt",
        "Greedy",
    ]
    for row in found.rows:
        assert row["median_seconds"] > 0
        assert row["time_ratio"] is row["memory_ratio"] is row["flops_ratio"] is None
    assert room.reasons(found.skipped) == ["BP: out of memory at batch 4"]


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    def fails(case, batch):
        raise RuntimeError("expected scalar type Float")

    monkeypatch.setattr(room.Case, "counted", fails)
    with pytest.raises(RuntimeError, match="scalar type"):
        bench(configured("greedy"), 4, [3], (3, 8, 8))


# --- networks with made-up inputs


@pytest.mark.parametrize(
    ("network", "given", "shape", "outputs"),
    [
        ({"name": "resnet20", "width": 4}, None, (3, 32, 32), (10,)),
        ({"name": "resnet20", "width": 4, "num_classes": 7}, "1x12x8", (1, 12, 8), (7,)),
        ({"name": "resnet20", "width": 4, "in_channels": 2}, None, (2, 32, 32), (10,)),
        ({"name": "gpt", "layers": 2, "width": 8, "heads": 2}, None, (128,), (128, 256)),
        ({"name": "gpt", "layers": 2, "width": 8, "heads": 2}, "16", (16,), (16, 256)),
        ({"name": "transformers:gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "n_positions": 32,
          "vocab_size": 50}, None, (32,), (32, 50)),
        ({"name": "transformers:gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 50},
         "16", (16,), (16, 50)),
        ({"name": "vit_cifar", "image_size": 16}, None, (3, 16, 16), (10,)),
    ],
)  # fmt: skip
def test_inputs_default_to_what_the_network_says(network, given, shape, outputs):
    found = make(configured(network=network), None if given is None else read_shape(given))
    assert (found.shape, found.outputs) == (shape, outputs)
    x, y = found.batch(3)
    assert x.shape == (3, *shape)
    assert y.shape == (3, *outputs[:-1])
    assert found.each == (shape[0] if len(shape) == 1 else 1)
    assert found.chain(x).shape == (3, *outputs)
    found.loss(found.chain(x), y).backward()


def test_images_of_libraries():
    timm = pytest.importorskip("timm")
    assert timm.is_model("resnet18")
    small = {"name": "timm:vit_tiny_patch16_224", "depth": 2, "embed_dim": 12, "num_heads": 2}
    assert make(configured(network=small)).shape == (3, 224, 224)
    other = make(configured(network=small), (1, 32, 32))
    assert (other.shape, other.outputs) == ((1, 32, 32), (1000,))


def test_tokens_per_second():
    gpt = {"name": "gpt", "layers": 2, "width": 8, "heads": 2}
    found = bench(configured("greedy", "dgl", network=gpt), 2, [2], (16,))
    assert found.inputs == "tokens"
    assert found.rows[-1]["per_second"] == 32 / found.rows[-1]["median_seconds"]
    assert [row["rule"] for row in found.skipped] == ["DGL"]


# --- the command


def test_command(capsys, tmp_path):
    path, plot = tmp_path / "bench.json", tmp_path / "bench.svg"
    assert run("--json", str(path), "--plot", str(plot), blocks="3,40") == 0
    out = capsys.readouterr().out
    assert "[4/5] Greedy K=3" in out
    assert "resnet20, 3x8x8, batch 4, fp32" in out
    assert "left out: Greedy K=40: blocks=40" in out
    found = read(path)
    assert (found["n"], found["network"], found["batch"]) == (5, "resnet20", 4)
    assert {"command", "versions", "commit", "hardware", "date", "rows"} <= set(found)
    assert found["command"].startswith("localgrad bench --network.name resnet20")
    lines = [line for line in out.splitlines() if line.startswith(("BP", "Greedy"))]
    assert len(lines) == len(found["rows"]) == 4
    timed = [(row["time_ratio"], row["total_bytes"]) for row in found["rows"]]
    assert [line.endswith("*") for line in lines] == [k in front(timed) for k in range(4)]
    root = ElementTree.parse(plot).getroot()
    assert {"Greedy", "BP", "BP + checkpoint unit", "Pareto front"} <= set(texts(root))


def test_command_predicts_without_a_clock(capsys):
    assert run("--predict", "--quiet", batch=4096) == 0
    out = capsys.readouterr().out
    assert out.startswith("resnet20, 3x8x8, batch 4096, fp32, predicted\n")
    assert "images/s" not in out
    assert "time vs BP" not in out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"network.name": "resnet21"}, "unknown network 'resnet21': did you mean 'resnet20'?"),
        ({"input": "3x"}, "--input 3x: expected channels x height x width"),
        ({"input": "64"}, "--input 64: network 'resnet20' takes a shape such as 3x224x224"),
        ({"batch": 0}, "--batch 0: must be a whole number of at least 1"),
        ({"batch": "many"}, "--batch many: must be a whole number of at least 1"),
        ({"blocks": "3,"}, "--blocks : must be a whole number of at least 1"),
        ({"blocks": "40,50"}, "Greedy K=40: blocks=40: must be a whole number from 1 to 10"),
        ({"repeats": 4}, "repeats: must be greater than or equal to 5, got 4"),
        ({"methods": "gredy"}, "unknown method 'gredy'; did you mean 'greedy'?"),
        ({"methods": "[]"}, "bench needs rules: --methods greedy,backlink"),
        ({"epochs": 3}, "bench takes no --epochs: see localgrad bench --help"),
        ({"plot": "x.pdf"}, "--plot x.pdf: the name must end in .svg or .png"),
        ({"plot": "nowhere/x.svg"}, "cannot write nowhere/x.svg"),
        ({"json": "nowhere/x.json"}, "cannot write nowhere/x.json"),
    ],
)
def test_mistakes(changed, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--quiet", **changed) == 2
    assert message in error_line(capsys)
    assert not list(tmp_path.iterdir())


def test_more_tokens_than_the_network_takes():
    network = {"name": "transformers:gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2}
    with pytest.raises(LocalgradError, match=r"--input 2000: .* takes at most 1024 tokens"):
        make(configured(network=network), (2000,))


def test_a_network_that_does_not_say_what_it_reads():
    config = configured(network={"name": "digit_nets:mlp"})
    with pytest.raises(LocalgradError, match="does not say what it reads: give --input"):
        make(config)


# --- the figure


def test_front_is_what_no_point_dominates():
    """Against the definition, on random points with ties and copies."""
    chance = random.Random(0)
    for _, size in itertools.product(range(40), (1, 2, 5, 20)):
        points = [(chance.randint(0, 6), chance.randint(0, 6)) for _ in range(size)]
        kept = {
            i
            for i, (a, b) in enumerate(points)
            if not any(
                (c < a and d <= b) or (c <= a and d < b) for c, d in points
            )
        }  # fmt: skip
        assert set(front(points)) == kept
        assert len(front(points)) == len(kept)
        assert [points[i] for i in front(points)] == sorted(points[i] for i in kept)
    assert front([]) == []


def texts(root):
    return ["".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text")]


def rows(*pairs):
    return [
        {
            "rule": rule,
            "method": rule.lower(),
            "blocks": blocks,
            "total_bytes": 2**20 * memory,
            "flops_ratio": 1.0,
            "time_ratio": time,
            "time_ratio_std": 0.01,
        }
        for rule, blocks, memory, time in pairs
    ]


SOME = rows(("Greedy", 4, 30, 0.9), ("Greedy", 8, 20, 1.0), ("DGL", 4, 40, 1.2))


def test_figure_names_the_blocks_where_a_rule_stands_twice(tmp_path):
    path = tmp_path / "figure.svg"
    write_memory_time({"one": SOME, "two": SOME[:1]}, path)
    shown = texts(ElementTree.parse(path).getroot())
    assert shown.count("Pareto front") == 2
    assert {"Greedy K=4", "Greedy K=8", "DGL", "Greedy", "one", "two"} <= set(shown)
    text = path.read_text(encoding="utf-8")
    assert "prefers-color-scheme:dark" in text
    assert "#a1b2" not in text  # no colour that stands for another


def test_figure_without_times_takes_flops(tmp_path):
    predicted = [{k: v for k, v in row.items() if not k.startswith("time")} for row in SOME]
    path = tmp_path / "figure.svg"
    write_memory_time({"one": predicted}, path)
    assert "FLOPs of a step ÷ BP" in texts(ElementTree.parse(path).getroot())


def test_figure_as_pixels(tmp_path):
    from matplotlib import image

    path = tmp_path / "figure.png"
    write_memory_time({"one": SOME}, path)
    pixels = (255 * image.imread(path)[..., :3]).round().astype(int).reshape(-1, 3)
    colours = {tuple(int(part) for part in pixel) for pixel in pixels}
    assert pixels.shape[0] == 1280 * 880
    assert tuple(bytes.fromhex("ae389d")) in colours  # Greedy in the light theme
    assert not any(colour[:2] == (0xA1, 0xB2) for colour in colours)


@pytest.mark.parametrize(
    ("panels", "name", "message"),
    [
        ({"one": SOME}, "x.pdf", "must end in .svg or .png"),
        ({}, "x.svg", "nothing to draw"),
        ({"one": []}, "x.svg", "one: no row has a flops ratio to BP"),
        ({"one": [{"rule": "BP", "method": "bp", "flops_ratio": 1.0}]}, "x.svg", "blocks"),
    ],
)
def test_figure_refuses(panels, name, message, tmp_path):
    with pytest.raises(LocalgradError, match=message):
        write_memory_time(panels, tmp_path / name)
    assert not list(tmp_path.iterdir())
