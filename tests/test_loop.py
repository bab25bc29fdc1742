"""Training: what a run folder holds, repeatability, stop and resume."""

from __future__ import annotations

import math
import re
import resource
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from command import SMALL, error_line, metrics, read, snapshot, train
from localgrad import Decoupling, methods
from localgrad.cli import main
from localgrad.data import load
from localgrad.errors import LocalgradError
from localgrad.experiment import checkpoint, finite, loop, precision
from localgrad.experiment.build import build
from localgrad.experiment.config import build_config
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.loop import Interrupted
from localgrad.experiment.schedule import build_optimizer
from localgrad.experiment.tree import override
from localgrad.networks import resnet20

FILES = {
    "config.yaml", "decoupling.yaml", "environment.json", "metrics.jsonl", "summary.json",
    "checkpoint/last.pt", "checkpoint/last-1.pt", "checkpoint/best.pt",
    "model.safetensors", "report.html", "reach.json",
}  # fmt: skip
KINDS = {
    "label": str, "method": str, "network": str, "data": str, "blocks": int, "seed": int,
    "epochs": int, "parameters": int, "test_accuracy": float, "best_test_accuracy": float,
    "train_seconds": float, "images_per_second": float, "peak_activation_bytes": int,
    "peak_memory_bytes": int, "flops_per_image": int, "block_accuracy": list, "command": str,
    "versions": dict,
}  # fmt: skip


TINY = {
    **{key: value for key, value in SMALL.items() if not key.startswith("network.")},
    "network.name": "digit_nets:dropout",
    "method.name": "greedy",
    "epochs": 3,
}
RESNET = {"network.name": "resnet20", "network.width": 4, "method.name": "backlink"}


def make_config(**changed):
    tree = {}
    for key, value in {**TINY, **changed}.items():
        override(tree, key, value)
    return build_config(tree)


def run(path, stop_after=None, resume=True, **changed):
    """Train in Python; ``stop_after`` batches, or to the end."""
    left = [math.inf if stop_after is None else stop_after]

    def stop():
        left[0] -= 1
        return left[0] <= 0

    return loop.train(build(make_config(**changed)), RunFolder(path), resume=resume, stop=stop)


def weights(path):
    return (path / "model.safetensors").read_bytes()


# --- the folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "x"
    changed = {"epochs": 2, "method.name": "backlink", "blocks": 3}
    assert train(out, "--quiet", "--json", str(out.parent / "x.json"), **changed) == 0
    return out


def test_files(finished):
    assert set(snapshot(finished)) == FILES
    assert all(path.stat().st_mode & 0o044 for path in finished.rglob("*") if path.is_file())


def test_summary(finished):
    summary = read(finished / "summary.json")
    for key, kind in KINDS.items():
        assert type(summary[key]) is kind, key
    assert (summary["method"], summary["network"], summary["data"]) == (
        "backlink",
        "resnet20",
        "digits",
    )
    assert (summary["blocks"], summary["seed"], summary["epochs"]) == (3, 0, 2)
    assert len(summary["block_accuracy"]) == 3
    assert all(0 <= accuracy <= 1 for accuracy in summary["block_accuracy"])
    assert summary["block_accuracy"][-1] == summary["test_accuracy"]
    assert summary["commit"] is None or isinstance(summary["commit"], str)
    assert summary["command"].startswith("localgrad train --network.name resnet20 ")
    assert summary == read(finished.parent / "x.json")


def test_metrics(finished):
    epochs = metrics(finished)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    for epoch in epochs:
        assert len(epoch["losses"]) == 3
        assert epoch["train_loss"] == epoch["losses"][-1]
    summary = read(finished / "summary.json")
    assert summary["test_accuracy"] == epochs[-1]["test_accuracy"]
    assert summary["best_test_accuracy"] == max(epoch["test_accuracy"] for epoch in epochs)


def test_decoupling_and_environment(finished):
    decoupling = Decoupling.load(finished / "decoupling.yaml")
    assert (decoupling.method, len(decoupling)) == ("backlink", 3)
    environment = read(finished / "environment.json")
    assert environment["versions"]["torch"] == torch.__version__
    assert "resumed" not in environment


def test_model_is_the_plain_network_and_gives_the_test_accuracy(finished):
    network = resnet20(num_classes=10, in_channels=1, width=4)
    state = load_file(finished / "model.safetensors")
    assert set(state) == set(network.state_dict())
    network.load_state_dict(state)
    network.eval()
    data = load("digits", limit=96, test_limit=40)
    x, y = next(data.test_batches(40).evaluation())
    accuracy = (network(x).argmax(1) == y).double().mean().item()
    assert accuracy == read(finished / "summary.json")["test_accuracy"]


def test_report_and_table(finished, capsys):
    assert "BackLink L=1" in (finished / "report.html").read_text()
    before = snapshot(finished)
    assert train(finished, "--resume", epochs=2, blocks=3, **{"method.name": "backlink"}) == 0
    out = capsys.readouterr().out
    assert "finished already" in out
    assert "test accuracy" in out
    assert "epoch" not in out
    after = snapshot(finished)
    before.pop("report.html"), after.pop("report.html")
    assert after == before


# --- repeatability


def test_same_seed_same_bits(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert train(tmp_path / name, "--quiet", seed=seed) == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


def test_measuring_changes_nothing(tmp_path, monkeypatch):
    run(tmp_path / "a", epochs=1)
    cost = {"peak_activation_bytes": 1, "peak_memory_bytes": 1, "flops_per_image": 1}

    def made_up(experiment):
        return {**cost, "exit_flops": [1] * len(experiment.learner.decoupling)}

    monkeypatch.setattr(loop, "measure_cost", made_up)
    run(tmp_path / "b", epochs=1)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


@pytest.mark.parametrize("name", methods.names())
def test_every_rule(tmp_path, name):
    assert train(tmp_path / "x", "--quiet", **{"method.name": name, "blocks": 4}) == 0
    summary = read(tmp_path / "x" / "summary.json")
    assert summary["method"] == name
    assert len(summary["block_accuracy"]) == summary["blocks"]


@pytest.mark.parametrize(
    "changed",
    [
        {"precision": "bf16", "method.name": "backlink"},
        {"channels_last": "false", "method.name": "auglocal"},
        {"optimizer.name": "adamw", "schedule.name": "step", "data.augment": "false"},
        {"data.drop_last": "true", "batch_size": 40, "cuts": "stem,2.0", "method.name": "greedy"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_settings(tmp_path, changed):
    assert train(tmp_path / "x", "--quiet", **changed) == 0
    summary = read(tmp_path / "x" / "summary.json")
    assert math.isfinite(metrics(tmp_path / "x")[0]["train_loss"])
    assert summary["images_per_second"] > 0


# --- what spends less

SAME_BITS = [
    {"optimizer.update": "block"},
    {"optimizer.update": "block", "optimizer.name": "adamw", "optimizer.fused": True},
    {"activation_checkpoint": "unit", "blocks": 3},
    {"activation_checkpoint": "sqrt", "blocks": 3, "optimizer.update": "block"},
]


@pytest.mark.parametrize("changed", SAME_BITS, ids=str)
def test_less_memory_for_the_same_bits(tmp_path, changed):
    same = {key: value for key, value in changed.items() if key in ("optimizer.name", "blocks")}
    if "optimizer.name" in same:
        same["optimizer.fused"] = True
    small = {**RESNET, "network.width": 8, "epochs": 1, "batch_size": 40}
    plain = run(tmp_path / "plain", **small, **same)
    spared = run(tmp_path / "spared", **small, **changed)
    assert weights(tmp_path / "spared") == weights(tmp_path / "plain")
    assert metrics(tmp_path / "spared") == metrics(tmp_path / "plain")
    assert spared["peak_memory_bytes"] < plain["peak_memory_bytes"]
    if "activation_checkpoint" in changed:
        assert spared["flops_per_image"] > plain["flops_per_image"]
        assert spared["peak_activation_bytes"] < plain["peak_activation_bytes"]
        blocks = read(tmp_path / "spared" / "decoupling.yaml")["blocks"]
        assert {b["checkpoint"] for b in blocks} == {changed["activation_checkpoint"]}


def test_fp16_counts_the_updates_that_it_skipped(tmp_path, monkeypatch):
    good = torch.amp.GradScaler
    scales = []

    def large(device, init_scale):
        scales.append(good(device, init_scale=max(init_scale, 2.0**30)))
        return scales[-1]

    monkeypatch.setattr(torch.amp, "GradScaler", large)
    summary = run(tmp_path / "x", precision="fp16", epochs=6, **RESNET)
    skipped = [epoch["skipped_updates"] for epoch in metrics(tmp_path / "x")]
    assert skipped[0] == 3  # all of them
    assert skipped[-1] == 0
    assert scales[0].get_scale() == 2.0 ** (30 - sum(skipped))
    assert summary["peak_memory_bytes"] > 0
    rates = [epoch["lr"] for epoch in metrics(tmp_path / "x")]
    assert rates == sorted(rates, reverse=True)  # the schedule follows the data
    assert rates[0] < 0.1


def test_fp16_learns_as_fp32_does(tmp_path):
    changed = {**RESNET, "epochs": 4, "data.augment": False}
    half = run(tmp_path / "half", precision="fp16", **changed)
    full = run(tmp_path / "full", **changed)
    losses = [[e["losses"] for e in metrics(tmp_path / name)] for name in ("half", "full")]
    for ours, theirs in zip(*losses, strict=True):
        assert ours == pytest.approx(theirs, rel=0.03)
    assert losses[0] != losses[1]
    assert losses[0][-1][-1] < losses[0][0][-1]
    assert half["peak_activation_bytes"] < 0.75 * full["peak_activation_bytes"]


def test_a_precision_that_the_device_lacks_is_one_line(tmp_path, monkeypatch, capsys):
    def missing(*_, **__):
        raise NotImplementedError('"slow_conv2d" not implemented for Half\nsecond line')

    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "conv2d", missing)
        patched.setattr(torch.nn.Conv2d, "_conv_forward", missing)
        assert train(tmp_path / "x", "--quiet", precision="fp16") == 2
    line = error_line(capsys)
    assert "precision 'fp16' does not work on cpu: \"slow_conv2d\" not implemented" in line
    assert line.endswith("set --precision to fp32 or bf16")
    assert not (tmp_path / "x").exists()
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(LocalgradError, match="on cuda: Old GPU has no bf16; set --precision to"):
        precision.check(torch.device("cuda"), "bf16")


# --- stop and resume

IN_THE_MIDDLE = {"middle of an epoch": [4]}
STOPS = {**IN_THE_MIDDLE, "end of an epoch": [3], "often": [1, 1, 3, 2]}


@pytest.mark.parametrize(
    ("changed", "cases"),
    [
        ({}, STOPS),
        (RESNET, IN_THE_MIDDLE),
        ({"optimizer.name": "adamw", "optimizer.lr": 1e-3}, IN_THE_MIDDLE),
        ({"precision": "fp16", **RESNET}, {"middle of an epoch": [1], "end": [3]}),
        ({"optimizer.update": "block", **RESNET}, IN_THE_MIDDLE),
    ],
    ids=["dropout", "batch norm", "adamw", "fp16", "by block"],
)
def test_resume_is_exact(tmp_path, changed, cases):
    whole = run(tmp_path / "whole", **changed)  # 3 epochs of 3 batches
    for name, stops in cases.items():
        for stop_after in stops:
            torch.manual_seed(99)  # nothing may hang on what ran before
            with pytest.raises(Interrupted):
                run(tmp_path / name, stop_after, **changed)
            assert not (tmp_path / name / "summary.json").exists()
        resumed = run(tmp_path / name, **changed)
        assert weights(tmp_path / name) == weights(tmp_path / "whole"), name
        assert metrics(tmp_path / name) == metrics(tmp_path / "whole"), name
        assert resumed["test_accuracy"] == whole["test_accuracy"]
        assert resumed["command"] == whole["command"]
        environment = read(tmp_path / name / "environment.json")
        assert len(environment["resumed"]) == len(stops)


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    summary = run(tmp_path / "x", epochs=1)
    before = snapshot(tmp_path / "x")
    monkeypatch.setattr(loop.Update, "step", None)
    assert run(tmp_path / "x", epochs=1) == summary
    assert snapshot(tmp_path / "x") == before


def test_resume_starts_what_is_not_there(tmp_path):
    assert train(tmp_path / "x", "--quiet", "--resume") == 0
    assert (tmp_path / "x" / "summary.json").exists()


def test_out_and_resume_alone_take_the_configuration_from_the_folder(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path / "x", stop_after=2, resume=False)
    moved = tmp_path / "moved"
    (tmp_path / "x").rename(moved)
    assert main(["train", "--out", str(moved), "--resume", "--quiet", "--device", "cpu"]) == 0
    assert not (tmp_path / "x").exists()
    run(tmp_path / "whole")
    assert weights(moved) == weights(tmp_path / "whole")


def test_resume_of_another_configuration(tmp_path, capsys):
    assert train(tmp_path / "x", "--quiet") == 0
    before = snapshot(tmp_path / "x")
    assert train(tmp_path / "x", "--quiet", "--resume", **{"optimizer.lr": 0.2, "seed": 4}) == 2
    line = error_line(capsys)
    assert "another configuration (optimizer.lr was 0.1, now 0.2, seed was 0, now 4)" in line
    assert train(tmp_path / "x", "--quiet", "--resume", **{"network.shortcut": "pad"}) == 2
    assert "network.shortcut was not set, now pad" in error_line(capsys)
    assert snapshot(tmp_path / "x") == before


# --- what goes wrong on the way


def test_divergence_names_block_and_batch_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    good = loop.learning_rate
    monkeypatch.setattr(
        loop, "learning_rate", lambda *given: good(*given) if given[2] < 1 else 1e30
    )
    with pytest.raises(LocalgradError) as caught:
        run(tmp_path / "x")
    assert "loss of block 0 is not finite in epoch 2, batch 2" in str(caught.value)
    assert "the checkpoint after epoch 1 is kept" in str(caught.value)
    monkeypatch.setattr(loop, "learning_rate", good)
    run(tmp_path / "x")
    monkeypatch.undo()
    run(tmp_path / "whole")
    assert weights(tmp_path / "x") == weights(tmp_path / "whole")


def test_weights_spoilt_by_the_last_step_are_not_saved(tmp_path, monkeypatch):
    good = loop.learning_rate
    monkeypatch.setattr(
        loop, "learning_rate", lambda *given: math.inf if given[2] > 2.5 else good(*given)
    )
    with pytest.raises(LocalgradError, match=r"weights .* are not finite in epoch 3, batch 3"):
        run(tmp_path / "x")
    experiment = build(make_config())
    optimizer = build_optimizer(experiment.config.optimizer, experiment.learner)
    path = tmp_path / "x" / "checkpoint" / "last.pt"
    assert checkpoint.load(path, experiment.learner, optimizer).epoch == 2
    assert not (tmp_path / "x" / "summary.json").exists()


def test_losses_seen_late_name_the_right_batch(tmp_path, monkeypatch):
    """On a GPU losses are looked at every 50 steps only."""
    position = checkpoint.Position(batch=7, losses=[0.0, 0.0])
    pending = [torch.ones(2), torch.tensor([1.0, math.nan]), torch.tensor([math.nan, 1.0])]
    with pytest.raises(LocalgradError, match="loss of block 1 is not finite in epoch 1, batch 6"):
        finite.settle_losses(pending, position)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
def test_full_disk_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    """A limit on the size of files makes real writes fail half-way."""
    with pytest.raises(Interrupted):
        run(tmp_path / "x", stop_after=3)
    before = snapshot(tmp_path / "x")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))
    try:
        with pytest.raises(LocalgradError, match=r"cannot write .*last.pt"):
            run(tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = snapshot(tmp_path / "x")
    assert after["checkpoint/last.pt"] == before["checkpoint/last.pt"]
    assert not [name for name in after if name.endswith(".part")]
    run(tmp_path / "x")
    run(tmp_path / "whole")
    assert weights(tmp_path / "x") == weights(tmp_path / "whole")


def test_missing_or_damaged_metrics(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path / "x", stop_after=4)
    (tmp_path / "x" / "metrics.jsonl").write_text("{")
    with pytest.raises(LocalgradError, match=r"metrics.jsonl is damaged"):
        run(tmp_path / "x")
    (tmp_path / "x" / "metrics.jsonl").unlink()
    with pytest.raises(LocalgradError, match="has 0 epochs, the checkpoint 1"):
        run(tmp_path / "x")


def test_too_little_room(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        LocalgradError, match=r"0 MiB of disk are free, the run needs about \d+ MiB"
    ):
        run(tmp_path / "x")
    assert not snapshot(tmp_path)


# --- compiled steps


def test_compile_prints_what_was_decided_and_trains(tmp_path, monkeypatch, capsys):
    from localgrad import LocalLearner
    from localgrad.compiled import compile_learner

    def quickly(learner, x, y, fallback):
        options = {"backend": "aot_eager"}
        return compile_learner(learner, x, y, "always", fallback, True, None, 1, options)

    monkeypatch.setattr(LocalLearner, "compile", quickly)
    changed = {**RESNET, "epochs": 1, "blocks": 2, "method.name": "greedy"}
    assert train(tmp_path / "a", "--compile", "true", **changed) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert re.search(r"compile: 4 graphs compiled in .* s; gradients differ by .*; kept$", line)
    assert read(tmp_path / "a" / "summary.json")["compiled"]["kept"]
    assert train(tmp_path / "b", "--quiet", **changed) == 0
    found = [load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-3, atol=1e-4)
