"""The command line: what it prints, and what it says to a mistake."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch

from command import SMALL, error_line, metrics, read, snapshot, train, words
from localgrad.cli import main
from localgrad.cli.commands import COMMANDS, FLAGS
from localgrad.experiment.config import build_config, keys
from localgrad.experiment.yaml_text import loads

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
LOCALGRAD = [sys.executable, "-m", "localgrad"]


def process(*words, **options):
    return subprocess.run(
        [*LOCALGRAD, *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


# --- what it prints


def test_help(capsys):
    assert main([]) == 0
    overview = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == overview
    for name, command in COMMANDS.items():
        assert name in overview
        assert command.example in overview


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_every_option(command, capsys):
    assert main([command, "-h"]) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 100 for line in text.splitlines())
    shown = [line.split()[0][2:] for line in text.splitlines() if line.startswith("  --")]
    assert len(shown) == len(set(shown))
    options = {key for key, _ in keys() if COMMANDS[command].reads(key)}
    comparing = {"methods", "seeds", "repeats", "analyse"}
    for name, flag in FLAGS.items():
        if name not in comparing:  # an option of compare, which others only accept
            assert (name in shown) == (command in flag.commands or name in options)
    left_out = options - set(shown)
    expected = {
        "compare": {"method.name", "decoupling"},
        "reproduce": {"network.name"},
        "train": comparing,
        "audit": comparing,
    }
    assert left_out == expected.get(command, set())


def test_a_flag_of_one_command_is_an_option_of_another():
    from localgrad.cli.arguments import parse

    many, one = parse(["bench", "--blocks", "4,16"]), parse(["--blocks", "4", "train"])
    assert (many.flags, many.options) == ({"blocks": "4,16"}, [])
    assert (one.flags, one.options) == ({}, [("blocks", 4)])


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_in_help_parse(command):
    from localgrad.cli.arguments import parse

    build_config(parse(COMMANDS[command].example.split()[1:]).tree())


def test_list(capsys, tmp_path):
    path = tmp_path / "all.json"
    assert main(["list", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    found = read(path)
    assert "backlink" in [rule["name"] for rule in found["methods"]]
    assert "resnet20" in found["networks"]
    assert found["data"][:2] == ["digits", "cifar10"]
    for name in (*(rule["name"] for rule in found["methods"]), *found["networks"]):
        assert name in out


def test_audit(capsys, tmp_path):
    plot, path = tmp_path / "reach.svg", tmp_path / "reach.json"
    options = words({**SMALL, "method.name": "backlink", "blocks": 3})
    assert main(["audit", *options, "--json", str(path), "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert "10 units and a tail" in out
    assert "backlink: 10 units, 3 losses" in out
    assert "measured reach of BackLink L=1" in out
    assert "violations: 0" in out
    assert len(read(path)["measured"]) == 3
    assert "<svg" in plot.read_text()


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({"granularity": "stage"}, ["stem", "stage1", "stage2", "stage3"]),
        ({"units": "[stage1, stage3]"}, ["stage1", "stage3"]),
    ],
)
def test_audit_of_other_units(capsys, options, labels):
    given = {**SMALL, "method.name": "greedy", **options}
    given.pop("blocks", None)
    assert main(["audit", *words(given)]) == 0
    out = capsys.readouterr().out
    assert f"greedy: {len(labels)} units, {len(labels)} losses" in out
    table = out.splitlines()[2 : 2 + len(labels)]
    assert [line.split()[1] for line in table] == labels


def test_audit_exits_with_1_where_the_declaration_is_wrong(capsys, monkeypatch):
    from localgrad import LocalLearner

    monkeypatch.setattr(LocalLearner, "reach", lambda self: [[True] * 11] * 3)
    assert main(["audit", *words({**SMALL, "method.name": "greedy", "blocks": 3})]) == 1
    assert "!" in capsys.readouterr().out


def test_print_config(capsys, tmp_path):
    assert main(["train", *words(SMALL), "--method.name", "backlink", "--print_config"]) == 0
    text = capsys.readouterr().out
    config = build_config(loads(text))
    assert config.method.name == "backlink"
    assert config.network.options == {"width": 4}
    path = tmp_path / "whole.yaml"
    path.write_text(text)
    assert main(["train", "--config", str(path), "--print_config"]) == 0
    assert capsys.readouterr().out == text


def test_train_prints_epochs_and_a_table(capsys, tmp_path):
    assert train(tmp_path / "x", epochs=2, blocks=4, **{"method.name": "dgl"}) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("DGL  epoch 1/2  test ")
    assert "loss by block" in lines[1]
    assert lines[2] == "DGL on resnet20, digits"
    assert lines[-1].startswith(f"wrote {tmp_path / 'x'}: ")
    assert lines[-1].endswith("report.html")
    assert captured.err == ""


def test_the_default_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words(SMALL), "--quiet"]) == 0
    assert (tmp_path / "runs" / "bp-resnet20-digits-s0" / "summary.json").exists()
    assert main(["train", *words(SMALL), "--quiet"]) == 2
    assert "holds a run already" in error_line(capsys)


def test_an_import_path_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "mine_in_cwd.py").write_text("from digit_nets import mlp as net\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    options = {"data.limit": 40, "epochs": 1, "network.hidden": 12}
    assert main(["train", "--network.name", "mine_in_cwd:net", *words(options), "--out", "x"]) == 0
    assert read(tmp_path / "x" / "summary.json")["network"] == "mine_in_cwd:net"


# --- processes


def test_ctrl_c_saves_and_resume_goes_on(tmp_path):
    out = tmp_path / "x"
    options = {"network.name": "digit_nets:mlp", "data.limit": 64, "epochs": 40, "device": "cpu"}
    started = subprocess.Popen(
        [*LOCALGRAD, "train", *words(options), "--out", str(out)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(120, started.kill)
    timer.start()
    assert started.stdout.readline().startswith("BP  epoch  1/40")
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate()
    timer.cancel()
    assert started.returncode == 130
    assert errors.splitlines() == [
        "stopping after this batch; again to stop at once",
        f"stopped; go on with: localgrad train --out {out} --resume",
    ]
    assert (out / "checkpoint" / "last.pt").exists()
    assert not (out / "summary.json").exists()
    assert main(["train", "--out", str(out), "--resume", "--quiet"]) == 0
    assert [epoch["epoch"] for epoch in metrics(out)] == list(range(1, 41))


def test_a_mistake_in_a_process(tmp_path):
    done = process("train", "--metod.name", "dgl")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown option --metod.name; did you mean --method.name?\n"
    done = process("train", "--method.name", "nope", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: unknown method 'nope'")


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("rich", "cli", ["train"]),
        ("sklearn", "data", ["train"]),
        ("pyarrow", "data", ["train", "--data.name", "cifar10", "--data.path", "."]),
    ],
)
def test_a_missing_package_names_the_extra(tmp_path, package, extra, command):
    (tmp_path / "train-0.parquet").touch()
    (tmp_path / "test-0.parquet").touch()
    code = f"import sys; sys.modules[{package!r}] = None; from localgrad.cli import main; "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}sys.exit(main({command!r}))"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert package in done.stderr
    assert f"localgrad[{extra}]" in done.stderr


def test_no_report_without_its_packages(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "localgrad.report", None)
    error = ModuleNotFoundError("No module named 'jinja2'", name="jinja2")

    class Missing:
        def __getattr__(self, name):
            raise error

    monkeypatch.setitem(sys.modules, "localgrad.report", Missing())
    assert train(tmp_path / "x", "--quiet") == 0
    assert "no report.html without jinja2: pip install 'localgrad[report]'" in (
        capsys.readouterr().out
    )
    assert (tmp_path / "x" / "summary.json").exists()


# --- mistakes


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trian", "unknown command trian; did you mean train?"),
        ("zzz", "unknown command zzz; choose from train, compare, audit"),
        ("--epochs 3", "no command: choose from train"),
        ("train extra", "'extra' is not expected here"),
        ("train --epoch 3", "unknown option --epoch; did you mean --epochs?"),
        ("train --lr 3", "unknown option --lr; did you mean --optimizer.lr?"),
        ("train --method backlink", "unknown option --method; did you mean --method.name?"),
        ("train --qqq 3", "unknown option --qqq; see localgrad train --help"),
        ("train --method. 3", "unknown option --method."),
        ("train --epochs", "--epochs needs a value"),
        ("train --out --resume", "--out needs a value"),
        ("train --data.augment", "--data.augment needs true or false"),
        ("train --config", "--config needs a file"),
        ("train --resume=yes", "--resume takes no value"),
        ("train --plot x.svg", "train takes no --plot: it is for analyse and audit and bench"),
        ("list --epochs 3", "list takes no --epochs"),
        ("train --blocks [1", "--blocks: '[1' cannot be read: line 1"),
        ("train --config nope.yaml", "cannot read nope.yaml: No such file"),
        ("train --method.name nope", "unknown method 'nope'; choose from backprop"),
        ("train --method.name gredy", "unknown method 'gredy'; did you mean 'greedy'?"),
        ("train --method.name backlink --method.bogus 1", "has no option 'bogus'"),
        ("train --method.name auglocal --method.dept 1", "did you mean 'depth'?"),
        (
            "train --method.name backlink --method.length -1",
            "length -1 must be a whole number >= 0",
        ),
        ("train --method.name backlink --method.length x", "method.length: must be a whole number"),
        ("train --method.name backlink --method.combine mix", "combine 'mix' must be 'sum' or"),
        ("train --method.name auglocal --method.tau 7", "tau"),
        ("train --method.name no_such_module:rule", "method 'no_such_module:rule' cannot be built"),
        ("train --network.name resnet21", "unknown network 'resnet21': did you mean 'resnet"),
        ("train --network.widht 3", "widht"),
        ("train --network.width 0", "width must be a whole number of at least 1; got 0"),
        ("train --network.num_classes 7", "7 outputs, digits has 10 classes: set --network.num_"),
        ("train --network.name resnet20:x", "network 'resnet20:x' cannot be built: ModuleNotFound"),
        ("train --network.name digit_nets:nope", "has no attribute 'nope'"),
        ("train --network.name digit_nets:mlp --network.depth 3", "unexpected keyword argument"),
        ("train --network.name digit_nets:no_module", "returned a str, expected an nn.Module"),
        ("train --network.name digit_nets:failing", "cannot be built: RuntimeError: no licence"),
        ("train --network.name digit_nets:colour_mlp", "cannot take an input of shape"),
        (
            "train --network.name digit_nets:seven_classes",
            "give digit_nets:seven_classes 10 outputs",
        ),
        ("train --network.name digit_nets:tied --method.name greedy", "tied weights"),
        ("train --network.name digit_nets:decoupled", "decoupled already"),
        ("train --data.name cifar", "unknown data set 'cifar': did you mean 'cifar10'?"),
        ("train --data.name cifar10 --data.path nope", "nope: no such folder"),
        ("train --data.limit 0", "data.limit: must be greater than or equal to 1"),
        (
            "train --method.name greedy --blocks 11",
            "blocks=11: must be a whole number from 1 to 10",
        ),
        ("train --blocks 0", "blocks: must be greater than or equal to 1, got 0"),
        ("train --blocks -2", "blocks: must be greater than or equal to 1, got -2"),
        ("train --blocks three", "blocks: must be a whole number, got 'three'"),
        ("train --blocks 2.0", "blocks: must be a whole number, got 2.0"),
        ("train --method.name greedy --cuts 2.0,1.0", "cut '1.0' is out of order"),
        ("train --method.name greedy --cuts 9.9", "no unit is called '9.9'"),
        ("train --method.name greedy --cuts 3.2", "cut '3.2': a block but the final one must end"),
        ("train --method.name greedy --blocks 2 --cuts 1.0", "not both"),
        ("train --batch_size 1", "leave a batch of 1, on which batch norm cannot train"),
        ("train --data.limit 33 --batch_size 32", "33 images in batches of 32 leave a batch of 1"),
        ("train --data.limit 8 --batch_size 9 --data.drop_last true", "batch"),
        ("train --device nope", "device 'nope' cannot be used"),
        ("train --device meta", "device 'meta' cannot be used"),
        ("train --json nowhere/x.json", "cannot write nowhere/x.json: there is no folder nowhere"),
        ("train --json .", "cannot write .: it is a folder"),
        ("audit --plot nowhere/x.svg", "cannot write nowhere/x.svg"),
        ("list --json nowhere/x.json", "cannot write nowhere/x.json"),
        ("compare", "compare needs rules"),
    ],
)
def test_mistakes(command, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCALGRAD_DATA", raising=False)
    assert main(command.split()) == 2
    assert message in error_line(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: [1,", "recipe.yaml is not YAML: line 1"),
        ("epochs: 1\nbatchsize: 3", "unknown option 'batchsize'; did you mean 'batch_size'?"),
        ("method: {name: dgl, bogus: 1}", "method 'dgl' has no option 'bogus'"),
        ("- epochs", "expected options (name: value), got a list"),
        ("method: {name: greedy}\ncuts: [2.0]", "cuts: 2.0 is no unit: put labels in quotes"),
    ],
)
def test_mistakes_in_a_file(text, message, capsys, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    assert main(["train", "--config", str(recipe), "--out", str(tmp_path / "x")]) == 2
    assert message in error_line(capsys)
    assert recipe.read_text() == text
    assert not (tmp_path / "x").exists()


def test_divergence(tmp_path, capsys):
    changed = {"optimizer.lr": 1e30, "method.name": "greedy", "blocks": 3}
    assert train(tmp_path / "x", **changed) == 2
    line = error_line(capsys)
    assert "block 0 is not finite in epoch 1, batch 2: lower --optimizer.lr" in line


def parquet(folder, labels=(0, 1, 2, 3)):
    arrow = pytest.importorskip("pyarrow")
    files = pytest.importorskip("pyarrow.parquet")
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.new("RGB", (32, 32)).save(buffer, format="PNG")
    table = arrow.table(
        {"img": [{"bytes": buffer.getvalue()}] * len(labels), "label": list(labels)}
    )
    for split in ("train", "test"):
        files.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def test_data_that_is_damaged(tmp_path, capsys):
    words = ["train", "--data.name", "cifar10", "--data.path", str(tmp_path), "--out"]
    out = tmp_path / "x"
    parquet(tmp_path, labels=(0, 1, 10))
    assert main([*words, str(out)]) == 2
    assert "parquet: row 2 has label 10, but there are 10 classes" in error_line(capsys)
    parquet(tmp_path)
    damaged = tmp_path / "test-00000-of-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert main([*words, str(out)]) == 2
    assert "test-00000-of-00001.parquet: not a readable parquet file" in error_line(capsys)
    damaged.unlink()
    assert main([*words, str(out)]) == 2
    assert "no test-*.parquet beside" in error_line(capsys)
    assert not out.exists()


def test_out_folders_that_cannot_be_used(tmp_path, capsys):
    out = tmp_path / "x"
    assert train(out, "--quiet") == 0
    before = snapshot(tmp_path)
    capsys.readouterr()
    assert train(out) == 2
    assert "holds a run already: go on with it by --resume, or give another" in error_line(capsys)
    assert train(out / "summary.json") == 2
    assert "summary.json is a file: give a folder as --out" in error_line(capsys)
    assert train(out / "summary.json" / "deeper") == 2
    assert "Not a directory" in error_line(capsys)
    assert snapshot(tmp_path) == before
    (out / "config.yaml").unlink()
    assert train(out) == 2
    assert "but no config.yaml: give another --out" in error_line(capsys)


def test_a_folder_with_a_users_own_files_is_fine(tmp_path):
    (tmp_path / "log.txt").write_text("mine")
    assert train(tmp_path, "--quiet") == 0
    assert (tmp_path / "log.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: [", "config.yaml is not YAML"),
        ("", "expected options (name: value), got nothing"),
        ("epochs: 0", "config.yaml: epochs: must be greater than"),
        ("junk: 1", "config.yaml: unknown option 'junk'"),
    ],
)
def test_a_damaged_config_in_the_folder(text, message, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(text)
    assert main(["train", "--out", str(tmp_path), "--resume"]) == 2
    assert message in error_line(capsys)
    assert train(tmp_path, "--resume") == 2
    assert str(tmp_path) in error_line(capsys)
    assert snapshot(tmp_path) == {"config.yaml": text.encode()}


def test_a_damaged_summary(tmp_path, capsys):
    assert train(tmp_path / "x", "--quiet") == 0
    (tmp_path / "x" / "summary.json").write_text("{")
    capsys.readouterr()
    assert train(tmp_path / "x", "--resume") == 2
    assert "summary.json is damaged" in error_line(capsys)


@pytest.mark.parametrize("call", ["os.replace", "pathlib.Path.mkdir", "shutil.disk_usage"])
def test_no_permission(call, tmp_path, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(call, refuse)
    assert train(tmp_path / "x" / "y") == 2
    line = error_line(capsys)
    assert line.startswith(f"error: cannot write {tmp_path / 'x' / 'y'}")
    assert line.endswith(": Permission denied")


def test_a_full_disk(tmp_path, capsys, monkeypatch):
    assert train(tmp_path / "x", epochs=1) == 0
    before = snapshot(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=2**19)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    capsys.readouterr()
    assert train(tmp_path / "y") == 2
    assert "MiB of disk are free, the run needs about" in error_line(capsys)
    assert snapshot(tmp_path) == before


def test_a_report_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    import localgrad.report

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(localgrad.report, "write_run", refuse)
    assert train(tmp_path / "x", "--quiet") == 2
    assert "report.html: No space left on device" in error_line(capsys)
    monkeypatch.undo()
    assert train(tmp_path / "x", "--quiet", "--resume") == 0
    assert (tmp_path / "x" / "report.html").exists()


def test_out_of_memory(tmp_path, capsys, monkeypatch):
    from localgrad.experiment import loop

    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nGPU 0 has ...")

    monkeypatch.setattr(loop, "measure_cost", fail)
    assert train(tmp_path / "x") == 2
    assert "error: CUDA out of memory: lower --batch_size" in error_line(capsys)
    assert not (tmp_path / "x").exists()


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m localgrad train --help | head -1",
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        shell=True,
    )
    assert done.stdout.startswith("localgrad train")
    assert done.stderr == ""


def test_json_of_train_is_the_summary(tmp_path):
    path = tmp_path / "x.json"
    assert train(tmp_path / "x", "--quiet", "--json", str(path)) == 0
    assert json.loads(path.read_text()) == read(tmp_path / "x" / "summary.json")
