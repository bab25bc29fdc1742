"""Many devices on paper: times of pieces, costs of blocks, rows, and what the command says."""

from __future__ import annotations

import copy
import json
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import localgrad
from command import error_line, read
from localgrad import LocalgradError
from localgrad import methods as M
from localgrad.block_peaks import Footprint
from localgrad.cli import main
from localgrad.parallel.measured import Ends, Measured
from localgrad.piece_times import PieceTime, end_times, unit_times, update_seconds
from localgrad.planning import devices
from localgrad.planning import devices as plan_for
from localgrad.planning.devices import counts
from localgrad.unit_looks import ends_of

SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


def network() -> nn.Module:
    """Six units: two kinds."""
    layers = [layer for k in range(6) for layer in (nn.Linear(8, 8), [nn.ReLU(), nn.Tanh()][k % 2])]
    return nn.Sequential(*layers, nn.Linear(8, 3))


@pytest.fixture
def chain() -> localgrad.Chain:
    return localgrad.Chain.of(network())


# --- what is timed


def test_pieces_that_are_alike_are_timed_once_and_change_nothing(chain, monkeypatch):
    timed = []

    def time(run, x, parameters, repeats):
        timed.append((tuple(x.shape), len(parameters), repeats))
        return PieceTime(1.0, 2.0, 1.5, 1.25)

    monkeypatch.setattr("localgrad.piece_times._time", time)
    before = copy.deepcopy(chain.model.state_dict())
    found = unit_times(chain, torch.rand(4, 8), repeats=3)
    assert len(found) == 7  # the tail too
    assert timed == [((4, 8), 2, 3)] * 3
    ends = ends_of(chain, M.Greedy()(chain, None), torch.rand(4, 8), F.cross_entropy)
    assert len(end_times(chain, torch.rand(4, 8), ends)) == 6
    assert len(timed) == 5  # one kind of head, and the tail with its loss
    after = chain.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_times_are_of_forward_and_three_ways_back():
    calls = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            return x * w

        @staticmethod
        def backward(ctx, error):
            calls.append(ctx.needs_input_grad)
            return error, error.sum(0)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(8))

        def forward(self, x):
            return Watched.apply(x, self.w)

    chain = localgrad.Chain.of(nn.Sequential(Layer(), nn.Linear(8, 2)))
    (unit, _) = unit_times(chain, torch.rand(4, 8), repeats=1)
    assert len(calls) == 2 * 3  # one run warms up
    assert min(unit.forward, unit.backward, unit.weights, unit.error) > 0
    assert max(unit.weights, unit.error) <= unit.backward
    assert chain.model[0].w.grad is None


def test_frozen_units_have_nothing_to_walk_back_to(chain):
    for parameter in chain.model.parameters():
        parameter.requires_grad_(False)
    assert all(unit.weights == 0 for unit in unit_times(chain, torch.rand(4, 8), repeats=1))


@pytest.mark.parametrize(("optimizer", "copies"), [(SGD, 1), (torch.optim.AdamW, 2)])
def test_what_an_optimizer_takes(chain, optimizer, copies):
    before = copy.deepcopy(chain.model.state_dict())
    seconds, state = update_seconds(list(chain.model.parameters()), optimizer)
    assert seconds > 0
    assert copies <= state < copies + 0.2  # AdamW counts its steps
    assert all(torch.equal(before[k], v) for k, v in chain.model.state_dict().items())
    assert update_seconds([], optimizer) == (0.0, 0.0)


# --- what blocks cost: units of 1, 10, 100, .. seconds, so that every sum shows its parts


@pytest.fixture
def measured(chain) -> Measured:
    looks = Measured(chain, torch.rand(4, 8), F.cross_entropy, SGD)
    times = [PieceTime(10.0**u, 2 * 10.0**u, 0.75 * 10.0**u, 1.25 * 10.0**u) for u in range(6)]
    looks._times[1] = [*times, PieceTime(0.1, 0.2, 0.1, 0.1)]
    both = (True, False)
    looks._bytes = [
        Footprint(100, 300, 350, {(a, b): 400 for a in both for b in both},
                  dict.fromkeys(both, 400), dict.fromkeys(both, 400))
        for _ in range(6)
    ]  # fmt: skip
    looks._update = (0.0, 1.0)
    return looks


def ends() -> Ends:
    return Ends([PieceTime(0.01, 0.02, 0.01, 0.01)] * 6, [50] * 6, [40] * 5 + [0])


def test_isolated_blocks_add_up(measured):
    found = measured.local(M.Greedy()(measured.chain, (2, 4, 6)), ends())
    assert [b.forward for b in found] == [11, 1100, 110000]
    # the first unit of a block is asked for no error at its input
    assert [b.local for b in found] == pytest.approx([20.75 + 0.03, 2075.03, 207500.03])
    assert all(b.crossing == b.link == b.waiting == 0 for b in found)
    assert [b.border for b in found] == [100, 100, 100]
    assert [b.activations for b in found] == [128 + 600, 100 + 600, 100 + 600]
    linear, tail = 4 * (64 + 8), 4 * (24 + 3)
    assert [b.parameters for b in found] == [2 * linear + 40, 2 * linear + 40, 2 * linear + tail]
    assert [b.state for b in found] == [2 * b.parameters for b in found]


def test_linked_blocks_add_up(measured):
    found = measured.local(M.BackLink(length=1)(measured.chain, (2, 4, 6)), ends())
    # the last unit is crossed, its weights wait; the error at a block's input is asked for
    assert [b.local for b in found] == pytest.approx([0.75 + 0.03, 200.03, 220000.03])
    assert [b.crossing for b in found] == pytest.approx([12.5, 1250, 0])
    assert [b.link for b in found] == pytest.approx([7.5, 750, 0])
    assert [b.waiting for b in found] == [100 + 300 + 100, 100 + 300 + 100, 0]
    longer = measured.local(M.BackLink(length=9, combine="replace")(measured.chain, (2, 6)), ends())
    assert longer[0].local == pytest.approx(0.03)
    assert longer[0].crossing == pytest.approx(12.5)  # nothing before the block wants an error
    assert longer[0].link == pytest.approx(20 + 0.75)
    assert longer[0].waiting == 128 + 600


def test_stages_of_bp_add_up(measured):
    measured._times[2] = measured._times[1]
    found = measured.pipelined([2, 6], micro_batches=2)
    assert [s.forward for s in found] == pytest.approx([11, 111100.1])
    assert [s.local for s in found] == pytest.approx([20.75, 222200.2])
    assert [s.border for s in found] == [50, 50]
    assert [s.activations for s in found] == [(128 + 600) // 2, (100 + 1200) // 2]


# --- rows


def test_rows_of_every_way():
    found = plan_for(network(), torch.rand(8, 8), 4, optimizer=SGD, micro_batches=[2], repeats=1)
    assert counts(4) == [2, 4]
    assert [(row.rule, row.blocks) for row in found.rows if row.devices == 4] == [
        ("GPipe, 2 x 4", 4),
        ("1F1B, 2 x 4", 4),
        ("Greedy", 4),
        ("Greedy", 6),
        ("BackLink L=1", 4),
        ("BackLink L=1, late", 4),
        ("BackLink L=1", 6),
        ("BackLink L=1, late", 6),
        ("AugLocal d=2", 4),
    ]
    assert found.left_out == ()
    for row in found.rows:
        assert row.speed_up == pytest.approx(found.bp_seconds / row.step_seconds)
        assert 0 <= row.idle < 1
        assert 0 < row.own_speed_up <= row.devices * (1 + 1e-9)
    json.dumps(found.to_dict())


def test_one_device_is_bp_and_the_rule_alone():
    found = plan_for(network(), torch.rand(8, 8), 1, rules=["greedy"], micro_batches=[1], repeats=1)
    pipeline, other, *rest = found.rows
    assert pipeline.step_seconds == other.step_seconds == found.bp_seconds
    assert pipeline.memory == found.bp_memory
    assert {row.sent for row in found.rows} == {0}
    assert [row.own_speed_up for row in rest] == pytest.approx([1] * len(rest))
    assert [row.idle for row in rest] == pytest.approx([0] * len(rest), abs=1e-9)


def test_memory_is_near_that_of_a_real_step():
    """A block's bytes are a sum over pieces: gradients that are not there yet count as there."""
    x = torch.rand(16, 3, 32, 32)
    chain = localgrad.Chain.of(localgrad.networks.resnet20(width=8), x)
    options = {"rules": [M.Greedy(), M.BackLink()], "blocks": [10], "micro_batches": [1]}
    found = devices(chain, x, 1, optimizer=SGD, repeats=1, **options)
    for rule, row in zip((M.Backprop(), M.Greedy(), M.BackLink()), found.rows[1:], strict=True):
        learner = localgrad.decouple(chain, rule, blocks=10, example_input=x)
        exact = localgrad.predict_memory(learner, x, optimizer=SGD)
        learner.release()
        assert 0.97 < row.memory / (exact.total + x.nbytes) < 1.12, row.rule


class Residual(nn.Module):
    """Is traced: nothing says what its units are."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return self.out(x)


def test_a_traced_network_in_half_precision():
    x = torch.rand(8, 8)
    half = devices(Residual(), x, 2, precision="bf16", rules=["auglocal", "greedy"], repeats=1)
    full = devices(Residual(), x, 2, rules=["auglocal", "greedy"], repeats=1)
    for a, b in zip(half.rows, full.rows, strict=True):
        assert (a.rule, a.blocks) == (b.rule, b.blocks)
    assert half.rows[0].rule == "GPipe, 4 x 2"


@pytest.mark.parametrize(
    ("batch", "parts"), [(128, {8, 32}), (32, {8}), (4, {2}), (6, {2}), (3, {1}), (1, {1})]
)
def test_micro_batches_have_two_rows_or_more(batch, parts):
    chain = localgrad.Chain.of(network())
    found = devices(chain, torch.rand(batch, 8), 2, rules=["greedy"], blocks=[2], repeats=1)
    assert {row.micro_batches for row in found.rows if row.rule != "Greedy"} == parts


def test_a_rule_that_cannot_be_on_two_devices_is_left_out():
    found = plan_for(network(), torch.rand(8, 8), 2, rules=["deep_supervision"], repeats=1)
    assert [label for label, _ in found.left_out] == ["DeepSupervision, K=6"]
    assert found.left_out[0][1] == "2 ranks for 1 block: take fewer ranks, or more blocks"


@pytest.mark.parametrize(
    ("most", "options", "message"),
    [
        (0, {}, "devices=0: must be a whole number of at least 1"),
        (True, {}, "devices=True"),
        (7, {}, "7 devices for a network of 6 units: give at most 6"),
        (4, {"blocks": [3]}, "4 devices for 3 blocks: give more blocks"),
        (2, {"blocks": [9]}, "blocks=9: must be a whole number from 1 to 6"),
        (2, {"micro_batches": [3]}, "3 micro-batches do not divide a batch of 8"),
        (2, {"bandwidth": -1.0}, "bandwidth=-1.0: expected bytes/s above 0"),
        (2, {"rules": ["nope"]}, "unknown method 'nope'"),
    ],
)
def test_mistakes(most, options, message):
    with pytest.raises(LocalgradError, match=message):
        devices(network(), torch.rand(8, 8), most, repeats=1, **options)


# --- the command

PLAN = ["plan", "--network.name", "resnet20", "--network.width", "4", "--batch", "4",
        "--input", "3x8x8", "--device", "cpu"]  # fmt: skip


def test_the_table(tmp_path, capsys):
    words = ["--devices", "3", "--methods", "greedy,backlink", "--micro_batches", "2"]
    assert main([*PLAN, *words, "--blocks", "5", "--json", str(tmp_path / "x.json")]) == 0
    out = capsys.readouterr().out
    assert "resnet20, 3x8x8, batch 4, fp32, sgd, up to 3 devices: 10 units" in out
    assert all(len(line) <= 100 for line in out.splitlines())
    rows = [line for line in out.splitlines() if line.startswith("BackLink L=1, late")]
    assert len(rows) == 2
    found = read(tmp_path / "x.json")
    assert [(r["rule"], r["devices"], r["blocks"]) for r in found["rows"]][:3] == [
        ("GPipe, 2 x 2", 2, 2),
        ("1F1B, 2 x 2", 2, 2),
        ("Greedy", 2, 5),
    ]
    assert {"versions", "hardware", "command", "bp_seconds"} <= set(found)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--devices 0", "--devices 0: must be a whole number of at least 1"),
        ("--devices two", "--devices two: must be a whole number"),
        ("--devices 11", "11 devices for a network of 10 units: give at most 10"),
        ("--devices 4 --blocks 2", "4 devices for 2 blocks: give more blocks"),
        ("--devices 2 --micro_batches 3", "3 micro-batches do not divide a batch of 4"),
        ("--devices 2 --bandwidth fast", "--bandwidth fast: expected bytes a second"),
        ("--devices 2 --budget 1GiB", "plan --devices takes no --budget"),
        ("--devices 2 --measure", "plan --devices takes no --measure"),
        ("--budget 1GiB --micro_batches 2", "plan takes --micro_batches with --devices N"),
        ("--devices 2 --json nowhere/x.json", "cannot write nowhere/x.json"),
    ],
)
def test_mistakes_on_the_command_line(more, message, capsys):
    assert main([*PLAN, *more.split()]) == 2
    assert message in error_line(capsys)
