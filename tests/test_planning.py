"""The planner: sizes, search, the advice on rows made by hand, predictions against real steps."""

from __future__ import annotations

import copy
import dataclasses
import time
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import foreign
import localgrad
from command import error_line, read
from localgrad import LocalgradError, Memory, losses
from localgrad import methods as M
from localgrad.cli import main
from localgrad.planning import (
    Option,
    Row,
    advise,
    device_memory,
    largest_batch,
    measure,
    measured,
    micro_batch,
    options,
    plan,
    read_bytes,
    shown,
    training_step,
)

MIB = 2**20
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


def network(classes: int = 10) -> nn.Module:
    """Five units with batch norms, quick to predict."""

    def unit(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

    layers = [
        layer for widths in ((3, 4), (4, 4), (4, 4), (4, 6), (6, 6)) for layer in unit(*widths)
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes))


# --- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 * 2**30),
        ("8 gib", 8 * 2**30),
        ("0.5KiB", 512),
        ("500 MB", 500_000_000),
        ("500M", 500_000_000),
        ("2e9", 2_000_000_000),
        ("2e9B", 2_000_000_000),
        (".5Ti", 2**39),
        (1234, 1234),
        (1e6, 1_000_000),
    ],
)
def test_sizes(text, size):
    assert read_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["8GX", "-1GiB", "", "GiB", "8 iB", "1,5GiB", "nan", "0", "0.1", "1e400", float("nan")]
)
def test_what_is_no_size(text):
    with pytest.raises(LocalgradError, match="budget"):
        read_bytes(text)


def test_sizes_to_read():
    assert [shown(n) for n in (0, 1023, 1024, 15 * MIB, 999.6 * MIB, 12 * 2**30)] == [
        "0 bytes", "1023 bytes", "1.00 KiB", "15.0 MiB", "1000 MiB", "12.0 GiB"
    ]  # fmt: skip


# --- the largest batch


CURVES = {
    "a line": lambda rows: 100 + 7 * rows,
    "no slope at first": lambda rows: max(400, 9 * rows),
    "a kink": lambda rows: max(300 + 3 * rows, 11 * rows),
    "curved": lambda rows: 50 + rows + rows * rows // 5,
    "steps": lambda rows: 64 * ((5 * rows + 63) // 64),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("start", [1, 3, 40, 1000])
def test_the_largest_batch_is_that_of_brute_force(name, start):
    peak = CURVES[name]
    for budget in (1, 64, 107, 399, 400, 401, 777, 2000):
        expected = max((rows for rows in range(1, 2000) if peak(rows) <= budget), default=0)
        asked = []
        found = largest_batch(
            lambda rows, asked=asked: asked.append(rows) or peak(rows),
            budget,
            {start: peak(start)},
        )
        assert found == expected, (budget, asked)
        assert len(asked) == len(set(asked)) < 40
        if name == "a line" and expected:
            assert len(asked) <= 4


def test_the_largest_batch_has_a_least_one_and_an_end():
    assert largest_batch(lambda rows: 10 * rows, 15, least=2) == 0
    assert largest_batch(lambda rows: 10 * rows, 25, least=2) == 2
    assert largest_batch(lambda rows: 7, 7) == 2**24


@pytest.mark.parametrize("batch", [1, 7, 12, 128])
def test_micro_batches_are_equal_parts(batch):
    for largest in range(batch + 2):
        part = micro_batch(batch, largest)
        divisors = [n for n in range(1, batch + 1) if batch % n == 0 and n <= largest]
        assert part == max(divisors, default=0)


# --- the advice, on rows made by hand


def row(option: Option, total: int, flops: float = 1.0, count: int = 1, **more) -> Row:
    return Row(option, count, Memory(total, 0, 0, 0, total), 100, flops, **more)


BP = Option(M.Backprop())
UNIT, SQRT = Option(M.Backprop("unit")), Option(M.Backprop("sqrt"))
ROWS = [
    row(BP, 1000),
    row(UNIT, 310, 1.33),
    row(SQRT, 420, 1.33),
    row(Option(M.Backprop(), micro_batches=2), 520),
    row(Option(M.Backprop(), micro_batches=8), 150),
    row(Option(M.Greedy(), 2), 600, 0.95, 2),
    row(Option(M.Greedy(), 4), 400, 0.9, 4),
    row(Option(M.AugLocal(2), 4), 590, 1.2, 2),
    row(Option(M.BackLink(), 4, "unit"), 90, 1.6, 4),
    row(Option(M.Greedy(), 4, "unit"), 80, 1.2, 4),
    row(Option(M.Greedy(), 8), 100, 0.8, 8),
]


@pytest.mark.parametrize(
    ("budget", "norms", "best"),
    [
        (1000, True, "BP"),
        (999, True, "BP + checkpoint unit"),  # the same FLOPs as sqrt, less memory
        (999, False, "BP in 2 micro-batches"),  # BP's gradients, and no FLOPs more
        (430, False, "BP + checkpoint unit"),  # 8 parts are many
        (309, False, "BP in 8 micro-batches"),
        (309, True, "BP in 8 micro-batches"),  # of 16 rows
        (149, True, "BackLink L=1 K=4 + checkpoint unit"),  # 4 losses, nearer than Greedy
        (85, False, "Greedy K=4 + checkpoint unit"),
    ],
)
def test_the_best_by_budget(budget, norms, best):
    found = advise(ROWS, budget, 128, norms)
    assert found.best.option.label == best
    assert found.best.total <= budget
    assert found.reason.startswith(f"{best} ")
    assert all(other.total <= budget for other, _ in found.others)
    assert found.best not in [other for other, _ in found.others]


def test_small_parts_under_batch_norm_come_after_local_rules():
    rows = [row(BP, 1000), ROWS[4], ROWS[10]]
    assert advise(rows, 160, 64, norms=True).best.option.label == "Greedy K=8"  # 8 rows a part
    assert advise(rows, 160, 64, norms=False).best.option.micro_batches == 8
    assert advise(rows[:2], 160, 64, norms=True).best.option.micro_batches == 8


def test_fewest_losses_first_then_the_nearest_rule_then_the_cheapest():
    assert advise(ROWS[5:], 600, 128, True).best.option.label == "AugLocal d=2 K=4"
    assert advise(ROWS[5:], 589, 128, True).best.option.label.startswith("BackLink")
    same = [row(Option(M.DGL(), 4), 10, 1.1, 4), row(Option(M.DGL(), 4, "unit"), 9, 1.4, 4)]
    assert advise(same, 10, 128, True).best is same[0]


def test_measured_time_counts_in_place_of_flops():
    parts = row(Option(M.Backprop(), micro_batches=2), 500, 1.0, time_ratio=1.5)
    kept = row(UNIT, 400, 1.33, time_ratio=1.3)
    found = advise([row(BP, 1000), parts, kept], 600, 128, norms=False)
    assert found.best is kept
    assert "1.33 times its FLOPs, 1.30 times its time" in found.reason


def test_where_bp_fits_nothing_else_is_proposed():
    found = advise(ROWS, 2000, 128, norms=True)
    assert (found.best, found.others) == (ROWS[0], ())


def test_one_of_each_sort_comes_second():
    found = advise(ROWS, 999, 128, norms=True)
    kinds = [other.option.kind for other, _ in found.others]
    assert kinds[0] == "accumulated"
    assert "BatchNorm sees 64 rows, not 128" in found.others[0][1]
    assert kinds.count("checkpoint") == 0
    assert found.others[-1][0].option.label == "Greedy K=8"  # the cheapest step


def test_nothing_fits():
    found = advise(ROWS, 79, 128, norms=True)
    assert found.best is None
    assert "nothing fits 79 bytes at batch 128" in found.reason
    assert "Greedy K=4 + checkpoint unit, which takes 80 bytes" in found.reason
    fixed = Row(BP, 1, Memory(1, 50, 50, 50, 160), 100, 1.0)
    assert "parameters, gradients and optimizer alone" in advise([fixed], 100, 8, True).reason
    small = row(BP, 100, largest_batch=3)
    assert "would fit at batch 3" in advise([small], 79, 128, True).reason
    assert "nothing was predicted" in advise([], 79, 128, True).reason


# --- the options


def test_options_are_those_that_exist():
    found = options(16)
    assert [option.label for option in found[:3]] == [
        "BP", "BP + checkpoint unit", "BP + checkpoint sqrt"
    ]  # fmt: skip
    assert {o.blocks for o in found if isinstance(o.method, M.Greedy)} == {2, 4, 8, 16}
    assert {o.blocks for o in found if isinstance(o.method, M.AugLocal)} == {4, 8, 16}
    assert len({option.label for option in found}) == len(found)
    assert {o.blocks for o in options(3) if o.kind == "local"} == {2, 3}
    only = options(16, ["dgl", "backprop"], [4])
    assert [o.label for o in only[3:]] == ["DGL K=4", "DGL K=4 + checkpoint unit"]
    with pytest.raises(LocalgradError, match="blocks=17: must be from 2 to 16"):
        options(16, blocks=[17])
    with pytest.raises(LocalgradError, match="did you mean 'greedy'"):
        options(16, ["gredy"])


# --- predictions against real steps


def real_total(found: Row, chain, x, y, optimizer, loss) -> int:
    learner = found.decouple(chain, x[:2], loss)
    stepping = optimizer(learner.parameters())
    parts = found.option.micro_batches
    steps = [
        partial(learner.step, a, b) for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True)
    ]
    for _ in range(2):
        training_step(learner, stepping, steps)
    memory = localgrad.measure_memory(
        lambda: training_step(learner, stepping, steps), learner, stepping
    )
    learner.zero_grad()
    learner.release()
    return memory.total


def tokens_model() -> nn.Module:
    layers = [nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(4)]
    return nn.Sequential(nn.Embedding(20, 8), *layers, nn.Linear(8, 20))


@pytest.mark.parametrize("optimizer", [SGD, torch.optim.AdamW], ids=["sgd", "adamw"])
def test_every_prediction_is_what_a_real_step_takes(optimizer):
    torch.manual_seed(0)
    x, y = torch.rand(16, 3, 8, 8), torch.randint(10, (16,))
    chain = localgrad.Chain.of(network(), x)
    before = copy.deepcopy(chain.model.state_dict())
    whole = plan(chain, x, "1GiB", optimizer=optimizer, rules=["greedy", "backlink"], blocks=[4])
    budget = whole.rows[0].total // 2
    found = plan(
        chain, x, budget, optimizer=optimizer, blocks=[4], ties="first",
        rules=[M.Greedy(), M.BackLink(), M.AugLocal(2), M.BWBPF(), M.PredSim()],
    )  # fmt: skip
    for name, value in chain.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in chain.model.parameters())
    assert {r.option.kind for r in found.rows} == {"bp", "checkpoint", "accumulated", "local"}
    for each in found.rows:
        total = real_total(each, chain, x, y, optimizer, F.cross_entropy)
        assert total == each.total, each.option.label
    base = found.rows[0]
    for each in found.rows:
        assert each.flops_ratio == each.flops / base.flops
    assert found.best.total <= budget < base.total
    assert not found.left_out
    assert len(found.to_dict()["rows"]) == len(found.rows) == found.planned
    assert str(found).splitlines()[0] == f"Sequential, batch 16, fp32, budget {shown(budget)}"


def test_tokens():
    tokens = torch.randint(20, (6, 12))
    chain = localgrad.Chain.of(tokens_model(), tokens)
    found = plan(
        chain, tokens, "1GiB", loss=losses.next_token, rules=["greedy", "dgl"], blocks=[2],
        optimizer=SGD, ties="first",
    )  # fmt: skip
    for each in found.rows:
        total = real_total(each, chain, tokens, tokens, SGD, losses.next_token)
        assert total == each.total, each.option.label
    assert [label for label, _ in found.left_out] == ["DGL K=2", "DGL K=2 + checkpoint unit"]
    assert "DGL" not in {type(r.option.method).__name__ for r in found.rows}


def test_the_largest_batch_of_a_network_is_exact():
    x = torch.rand(2, 3, 8, 8)
    chain = localgrad.Chain.of(network(), x)
    found = plan(chain, x, 150_000, 16, optimizer=SGD, rules=["greedy"], blocks=[4], largest=True)
    for each in found.rows:
        if each.option.micro_batches > 1:
            assert each.largest_batch is None
            continue
        learner = each.decouple(chain, x)
        at = [
            localgrad.predict_memory(learner, x, batch=each.largest_batch + more, optimizer=SGD)
            for more in (0, 1)
        ]
        learner.release()
        assert at[0].total <= 150_000 < at[1].total, each.option.label


def test_accumulated_gradients_are_those_of_the_whole_batch():
    torch.manual_seed(0)
    x, y = torch.rand(8, 6, dtype=torch.float64), torch.randint(3, (8,))
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    learner = localgrad.decouple(model.double(), "backprop", example_input=x)
    stepping = torch.optim.SGD(learner.parameters(), lr=0.0)
    training_step(learner, stepping, [partial(learner.step, x, y)])
    whole = [p.grad.clone() for p in learner.parameters()]
    parts = [partial(learner.step, a, b) for a, b in zip(x.chunk(4), y.chunk(4), strict=True)]
    training_step(learner, stepping, parts)
    for expected, parameter in zip(whole, learner.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-14)


def test_the_time_is_up(monkeypatch):
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(LocalgradError, match="too large to predict a step of BP in 1e-05 s"):
        plan(network(), x, "1GiB", seconds=1e-5)
    late, clock = 0, time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + late)

    def watch(what):
        nonlocal late
        late += 2000 * (what == "BP + checkpoint sqrt")

    chain = localgrad.Chain.of(network(), x)
    found = plan(chain, x, "1GiB", seconds=1000, watch=watch, rules=["greedy"])
    assert found.stopped == "BP + checkpoint sqrt"
    assert [r.option.label for r in found.rows] == ["BP", "BP + checkpoint unit"]
    assert found.planned == len(options(5, ["greedy"]))
    assert found.best.option == BP
    localgrad.decouple(chain, "greedy", blocks=2, example_input=x).release()  # given back


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget": "8GX"}, "is no size of memory"),
        ({"batch": 0}, "batch=0: must be a whole number >= 1"),
        ({"precision": "fp8"}, "precision 'fp8' must be one of"),
        ({"rules": ["nope"]}, "unknown method 'nope'"),
        ({"blocks": [1]}, "blocks=1: must be from 2"),
    ],
)
def test_mistakes(given, message):
    with pytest.raises(LocalgradError, match=message):
        plan(network(), torch.rand(2, 3, 8, 8), **{"budget": "1GiB", **given})


# --- measuring


def small_plan(budget="1GiB", batch=4, **more):
    x = torch.rand(2, 3, 8, 8)
    chain = localgrad.Chain.of(network(), x)
    found = plan(chain, x, budget, batch, optimizer=SGD, rules=["greedy"], blocks=[4], **more)
    return chain, found


def inputs(rows):
    return torch.rand(rows, 3, 8, 8), torch.randint(10, (rows,))


def test_measured_bytes_are_the_predicted_ones():
    chain, found = small_plan(budget=160_000, batch=16)
    before = copy.deepcopy(chain.model.state_dict())
    seen = measure(found, chain, inputs, optimizer=SGD, repeats=1)
    for name, value in chain.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    done = [r for r in seen.rows if r.measured is not None]
    assert {r.option.kind for r in done} >= {"accumulated", "local"}
    for each in done:
        assert each.measured.total == each.total, each.option.label
        assert each.seconds > 0
        assert each.time_ratio > 0
    assert seen.baseline_batch == 16  # the machine has room for BP
    assert seen.best is not None


def test_no_room_to_measure(monkeypatch):
    chain, found = small_plan()
    monkeypatch.setattr(measured, "free_bytes", lambda device: 1000)
    with pytest.raises(LocalgradError, match=r"BP needs .* at batch 4, cpu has 1000 bytes free"):
        measure(found, chain, inputs, optimizer=SGD, repeats=1)


def test_running_out_of_memory_is_one_line(monkeypatch):
    chain, found = small_plan()

    def step(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(measured, "training_step", step)
    with pytest.raises(LocalgradError, match="BP ran out of memory at batch 4 on cpu, predicted"):
        measure(found, chain, inputs, optimizer=SGD, repeats=1)


def test_free_memory(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   4 kB\n")
    monkeypatch.setattr(device_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(device_memory, "_CGROUP", tmp_path)
    cpu = torch.device("cpu")
    assert device_memory.free_bytes(cpu) == 4096
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert device_memory.free_bytes(cpu) == 4096
    (tmp_path / "memory.max").write_text("3100\n")
    assert device_memory.free_bytes(cpu) == 3000
    (tmp_path / "meminfo").unlink()
    (tmp_path / "memory.max").unlink()
    assert device_memory.free_bytes(cpu) is None
    assert device_memory.free_bytes(torch.device("meta")) is None


# --- the command

PLAN = [
    "plan", "--network.name", "test_planning:network", "--input", "3x8x8",
    "--batch", "16", "--methods", "greedy", "--blocks", "4", "--device", "cpu",
]  # fmt: skip


def test_command(capsys, tmp_path):
    path = tmp_path / "plan.json"
    assert main([*PLAN, "--budget", "125KB", "--json", str(path), "--measure"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert all(len(line) <= 100 for line in captured.out.splitlines())
    assert captured.out.startswith(
        "test_planning:network, 3x8x8, batch 16, fp32, sgd, budget 122 KiB: 5 units"
    )
    assert "choose: " in captured.out
    assert "time vs BP" in captured.out
    found = read(path)
    assert found["recommended"] in {r["label"] for r in found["rows"] if r["fits"]}
    chosen = next(r for r in found["rows"] if r["label"] == found["recommended"])
    assert chosen["measured_bytes"] == chosen["total_bytes"] <= 125_000
    assert found["rows"][0]["largest_batch"] < 16
    data = chosen["decoupling"]
    again = localgrad.Decoupling.from_dict(data)
    x = torch.rand(2, 3, 8, 8)
    assert len(localgrad.decouple(network(), again, example_input=x).decoupling) == len(
        data["blocks"]
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", "plan needs a budget, --budget 8GiB, or a number of --devices"),
        ("--budget 8GX", "budget '8GX' is no size of memory"),
        ("--budget=-1GiB", "budget '-1GiB' is no size of memory"),
        ("--budget 1GiB --input 3x8xx", "--input 3x8xx: expected"),
        ("--budget 1GiB --network.name resnet21", "unknown network 'resnet21'"),
        ("--budget 1GiB --batch 0", "--batch 0: must be a whole number"),
        ("--budget 1GiB --seconds soon", "--seconds soon: must be a whole number"),
        ("--budget 1GiB --blocks 4,x", "--blocks x: must be a whole number"),
        ("--budget 1GiB --blocks 99", "blocks=99: must be from 2 to 5"),
        ("--budget 1GiB --methods nope", "unknown method 'nope'"),
        ("--budget 1GiB --precision fp7", "precision: "),
        ("--budget 1GiB --json nowhere/x.json", "cannot write nowhere/x.json"),
        ("--budget 1GiB --epochs 3", "plan takes no --epochs"),
        ("--budget 1GiB --optimizer.update block", "plan predicts one update after the step"),
        ("--budget 9KB", "nothing fits 8.79 KiB at batch 16: the least is"),
    ],
)
def test_mistakes_on_the_command_line(more, message, capsys):
    assert main([*PLAN, *more.split()]) == 2
    assert message in error_line(capsys)


def test_a_precision_that_the_device_lacks(capsys, monkeypatch):
    def lacks(*_):
        raise RuntimeError("not implemented for 'Half'")

    monkeypatch.setattr("localgrad.experiment.precision._try", lacks)
    assert main([*PLAN, "--budget", "1GiB", "--precision", "fp16", "--measure"]) == 2
    assert "precision 'fp16' does not work on cpu" in error_line(capsys)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_is_predicted_too(precision):
    x, _ = inputs(16)
    chain = localgrad.Chain.of(network(), x)
    found = plan(
        chain, x, "1GiB", precision=precision, optimizer=SGD, rules=["backlink"], blocks=[2]
    )
    real = measure(found, chain, inputs, optimizer=SGD, repeats=1)
    norms = [m for m in chain.model.modules() if isinstance(m, nn.BatchNorm2d)]
    channels = sum(norm.num_features for norm in norms) + 8  # and of a head
    for each in real.rows:
        if each.measured is not None:
            # fake batch norms keep their two statistics in half precision, real ones in single
            assert 0 <= each.measured.total - each.total <= 2 * 2 * channels, each.option.label
    assert found.rows[0].memory.activations < small_plan(batch=16)[1].rows[0].memory.activations


def test_a_traced_network_in_another_precision():
    """Its traces hold for one precision; on fake tensors it cannot be traced anew."""
    x = torch.rand(2, *foreign.IMAGES)
    chain = localgrad.Chain.of(foreign.small_vit(), x)
    found = plan(
        chain, x, "1GiB", 4, precision="bf16", optimizer=SGD, rules=["auglocal"], blocks=[4]
    )
    assert not found.left_out
    seen = measure(
        found,
        chain,
        lambda rows: (torch.rand(rows, *foreign.IMAGES), torch.randint(5, (rows,))),
        optimizer=SGD,
        repeats=1,
    )
    assert seen.rows[0].measured.total == seen.rows[0].total


def test_a_plan_that_the_clock_stops_prints_what_it_has(capsys, monkeypatch):
    from localgrad.cli import plan as command

    def stopped(*given, **named):
        return dataclasses.replace(plan(*given, **named), stopped="Greedy K=4", planned=40)

    monkeypatch.setattr(command, "plan", stopped)
    assert main([*PLAN, "--budget", "1GiB"]) == 2
    captured = capsys.readouterr()
    assert "choose: BP fits" in captured.out
    assert "stopped after 300 s at Greedy K=4, with 5 of 40 options predicted" in captured.err
