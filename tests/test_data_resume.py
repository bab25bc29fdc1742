"""Runs on streamed and own data: stopped or killed within an epoch, they end with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("PIL.Image")
pytest.importorskip("pydantic")

from command import error_line, metrics, read, words
from image_files import arrays, write_images
from localgrad.cli import main
from localgrad.errors import LocalgradError
from localgrad.experiment.build import build
from localgrad.experiment.config import build_config
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.loop import Interrupted, Watcher, train
from localgrad.experiment.tree import override

SETTINGS = {
    "data.name": "folder",
    "data.channels": "grey",
    "data.size": 8,
    "data.workers": 1,
    "network.name": "digit_nets:two_classes",  # with dropout: the random state counts too
    "method.name": "greedy",
    "batch_size": 6,
    "epochs": 2,
    "device": "cpu",
}
MEMORY, STREAM = {"data.stream": False}, {"data.stream": True}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, cat=arrays(15, (12, 10, 3)), dog=arrays(15, (12, 10, 3), seed=1))
    return folder


def experiment(path, **changed):
    tree: dict[str, object] = {}
    for key, value in {**SETTINGS, "data.path": str(path), **changed}.items():
        override(tree, key, value)
    return build(build_config(tree))


class Killed(Watcher):
    """As if the process had been killed right after a batch: nothing gets saved."""

    def __init__(self, after):
        self.left = after

    def batch(self, position, batches, losses):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def weights(path):
    return (path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("stream", [MEMORY, STREAM], ids=["memory", "stream"])
def test_stopped_within_an_epoch(tmp_path, images, stream):
    train(experiment(images, **stream), RunFolder(tmp_path / "whole"))
    for after in (3, 2, 1):  # the first epoch's fourth batch, then the second's second and third
        torch.manual_seed(99)
        left = [after]

        def stop(left=left):
            left[0] -= 1
            return not left[0]

        with pytest.raises(Interrupted):
            train(experiment(images, **stream), RunFolder(tmp_path / "x"), resume=True, stop=stop)
    # other workers: they change nothing
    train(
        experiment(images, **stream, **{"data.workers": 0}), RunFolder(tmp_path / "x"), resume=True
    )
    assert weights(tmp_path / "x") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "x") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("stream", [MEMORY, STREAM], ids=["memory", "stream"])
@pytest.mark.parametrize("killed_after", [1, 3, 4, 7])
def test_killed_within_an_epoch(tmp_path, images, stream, killed_after):
    """4 batches an epoch, a checkpoint after every second: at most one batch is done twice."""
    every = {**stream, "checkpoint_every": 2}
    train(experiment(images, **stream), RunFolder(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(experiment(images, **every), RunFolder(tmp_path / "x"), Killed(killed_after))
    torch.manual_seed(99)
    seen = []

    class Counting(Watcher):
        def batch(self, position, batches, losses):
            seen.append((position.epoch, position.batch))

    train(experiment(images, **every), RunFolder(tmp_path / "x"), Counting(), resume=True)
    assert weights(tmp_path / "x") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "x") == metrics(tmp_path / "whole")
    # killed at the very end of an epoch, before its own checkpoint: from the one within it
    done = {1: 0, 3: 2, 4: 2, 7: 6}[killed_after]
    assert len(seen) == 8 - done
    assert seen[0] == (done // 4, done % 4 + 1)


def test_what_is_kept_beside_a_result(tmp_path, images):
    found = experiment(images, epochs=1)
    summary = train(found, RunFolder(tmp_path / "x"))
    assert summary["data_facts"] == found.data.facts()
    assert summary["data_facts"]["mean"] == list(found.data.mean)
    assert summary["skipped_images"] == 0
    assert read(tmp_path / "x" / "environment.json")["data_facts"] == summary["data_facts"]
    assert summary["data"] == f"folder {images.name} 8x8 (1 in 5 held out)"


def test_an_unreadable_image_stops_the_run_which_can_go_on_from_there(tmp_path):
    write_images(tmp_path / "i" / "train", cat=arrays(10), dog=arrays(10, seed=1))
    write_images(tmp_path / "i" / "test", cat=arrays(2), dog=arrays(2, seed=1))
    train(experiment(tmp_path / "i", **STREAM), RunFolder(tmp_path / "whole"))
    found = experiment(tmp_path / "i", **STREAM)
    order, _ = found.train.order.epoch(1)
    victim = found.data.train.rows.name(int(order[-1]))  # in the last batch of the second epoch

    class Breaking(Watcher):
        def epoch(self, metrics, epochs):
            Path(victim).write_bytes(b"")

    whole = Path(victim).read_bytes()
    with pytest.raises(LocalgradError, match=r"cannot be decoded as an image") as caught:
        train(found, RunFolder(tmp_path / "x"), Breaking())
    assert victim in str(caught.value)
    Path(victim).write_bytes(whole)
    seen = []

    class Counting(Watcher):
        def batch(self, position, batches, losses):
            seen.append((position.epoch, position.batch))

    train(experiment(tmp_path / "i", **STREAM), RunFolder(tmp_path / "x"), Counting(), resume=True)
    assert seen == [(1, 4)]
    assert weights(tmp_path / "x") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "x") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("stream", [MEMORY, STREAM], ids=["memory", "stream"])
def test_corrupt_images_are_counted_and_named(tmp_path, stream, capsys):
    write_images(tmp_path / "i" / "train", cat=arrays(8), dog=[*arrays(7, seed=1), b"broken"])
    write_images(tmp_path / "i" / "test", cat=arrays(3), dog=[*arrays(2, seed=1), b"broken"])
    options = {**SETTINGS, **stream, "data.path": tmp_path / "i", "epochs": 1}
    options["data.stream"] = str(options["data.stream"]).lower()
    assert main(["train", *words(options), "--out", str(tmp_path / "x"), "--quiet"]) == 2
    assert "broken" not in error_line(capsys)
    options["data.on_corrupt"] = "skip"
    assert main(["train", *words(options), "--out", str(tmp_path / "y"), "--quiet"]) == 0
    assert "corrupt images left out  2 (skipped.json)" in capsys.readouterr().out
    named = {
        str(tmp_path / "i" / "train" / "dog" / "007.png"): "cannot be decoded as an image",
        str(tmp_path / "i" / "test" / "dog" / "002.png"): "cannot be decoded as an image",
    }
    assert read(tmp_path / "y" / "skipped.json") == named
    summary = read(tmp_path / "y" / "summary.json")
    assert summary["skipped_images"] == 2
    assert (summary["test_accuracy"] * 5) % 1 in (0, pytest.approx(1), pytest.approx(0))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("data.name", "cifr10", "did you mean 'cifar10'"),
        ("data.on_corrupt", "ignore", "data.on_corrupt: must be 'stop' or 'skip'"),
        ("data.workers", -1, "data.workers: must be greater than or equal to 0"),
        ("data.channels", "blue", "data.channels: must be 'rgb' or 'grey'"),
        ("data.pad", 8, "pad must be below the image size; got pad 8 for images of 8x8"),
        ("data.crop", "resized", "--data.stream true, or --data.crop pad"),
        ("checkpoint_every", 0, "checkpoint_every: must be greater than or equal to 1"),
    ],
)
def test_mistakes_are_one_line(tmp_path, images, capsys, option, value, message):
    options = {**SETTINGS, "data.path": images, option: value}
    assert main(["train", *words(options), "--out", str(tmp_path / "x")]) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "x").exists()


def test_augmentation_can_be_set(images):
    found = experiment(images, **{"data.pad": 2, "data.padding": "zero", "data.flip": False})
    assert (found.data.pad, found.data.padding, found.data.flip) == (2, "zero", False)
    assert (found.train.order.pad, found.train.padding, found.train.order.flip) == (
        2,
        "zero",
        False,
    )
    plain = experiment(images, **{"data.augment": False})
    assert (plain.train.order.pad, plain.train.order.flip) == (0, False)
