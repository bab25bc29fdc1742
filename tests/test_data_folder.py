"""Image folders: layouts, order, what is held out, mistakes."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("PIL.Image")

from image_files import arrays, encoded, write_images
from localgrad import data
from localgrad.errors import LocalgradError


@pytest.fixture(autouse=True)
def no_default_folder(monkeypatch):
    monkeypatch.delenv("LOCALGRAD_DATA", raising=False)


def pixels(images):
    """Images as a set of bytes, to compare whatever the order."""
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("split", ["test", "val", "valid", "validation"])
def test_two_splits(tmp_path, split):
    write_images(tmp_path / "mine" / "train", cat=arrays(4), dog=arrays(3, seed=1))
    write_images(tmp_path / "mine" / split, cat=arrays(2, seed=2), dog=arrays(1, seed=3))
    found = data.load("folder", tmp_path / "mine")
    assert (found.classes, found.label) == (("cat", "dog"), "folder mine")
    cats = found.train.images[found.train.labels == 0]
    assert pixels(cats) == pixels(torch.from_numpy(arrays(4)))
    assert torch.bincount(found.test.labels).tolist() == [2, 1]
    assert (found.pad, found.flip, found.source_format) == (1, True, "PNG")


def test_one_split_is_held_out_the_same_everywhere_and_said(tmp_path):
    images = arrays(25)
    write_images(tmp_path / "a", cat=images[:15], dog=images[15:])
    found = data.load("folder", tmp_path / "a")
    assert found.label == "folder a (1 in 5 held out)"
    assert torch.bincount(found.train.labels).tolist() == [12, 8]
    assert torch.bincount(found.test.labels).tolist() == [3, 2]
    both = pixels(found.train.images) | pixels(found.test.images)
    assert both == pixels(torch.from_numpy(images))
    write_images(tmp_path / "b", dog=images[15:], cat=images[:15])
    again = data.load("folder", tmp_path / "b")
    assert torch.equal(found.train.images, again.train.images)
    # the order is a contract: results are compared across machines
    assert found.train.labels.tolist()[:8] == [0, 0, 0, 0, 1, 0, 0, 1]


def test_a_limit_takes_all_classes(tmp_path):
    write_images(tmp_path, **{name: arrays(30, seed=i) for i, name in enumerate("abc")})
    assert len(data.load("folder", tmp_path, limit=30).train.labels.unique()) == 3


def test_images_may_lie_deeper_and_hidden_files_are_passed_over(tmp_path):
    write_images(tmp_path, cat=arrays(2))
    write_images(tmp_path / "dog", images=arrays(3))  # as Tiny-ImageNet's archive has it
    (tmp_path / "dog" / ".DS_Store").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.txt").write_text("beside the classes")
    found = data.load("folder", tmp_path)
    assert found.classes == ("cat", "dog")
    assert len(found.train) + len(found.test) == 5


def test_a_default_folder_holds_the_set_by_name(tmp_path, monkeypatch):
    for split in ("train", "valid"):
        write_images(tmp_path / "tiny-imagenet" / split, n01=arrays(2), n02=arrays(2))
    monkeypatch.setenv("LOCALGRAD_DATA", str(tmp_path))
    assert data.load("tiny-imagenet").classes == ("n01", "n02")
    assert data.load("folder", "tiny-imagenet").classes == ("n01", "n02")


def make_bad(tmp_path, mistake):
    good = {"cat": arrays(2), "dog": arrays(2)}
    if mistake == "one class":
        write_images(tmp_path, cat=arrays(3))
    elif mistake == "one class in train":
        write_images(tmp_path / "train", cat=arrays(3))
        write_images(tmp_path / "test", cat=arrays(3))
    elif mistake == "empty class":
        write_images(tmp_path, **good, eel=[])
    elif mistake == "empty test class":
        write_images(tmp_path / "train", **good)
        write_images(tmp_path / "test", cat=arrays(2), dog=[])
    elif mistake == "single image":
        write_images(tmp_path, **good, eel=arrays(1))
    elif mistake == "text":
        write_images(tmp_path, **good)
        (tmp_path / "dog" / "notes.txt").write_text("hello")
    elif mistake == "not decodable":
        write_images(tmp_path, cat=arrays(2), dog=[b"hello", arrays(1)[0]])
    elif mistake == "cut":
        write_images(tmp_path, cat=arrays(2), dog=[encoded(arrays(1)[0], "PNG")[:70], arrays(1)[0]])
    elif mistake == "loose":
        write_images(tmp_path, **good)
        (tmp_path / "loose.png").write_bytes(b"x")
    elif mistake == "no test":
        write_images(tmp_path / "train", **good)
    elif mistake == "no train":
        write_images(tmp_path / "test", **good)
    elif mistake == "strange test class":
        write_images(tmp_path / "train", **good)
        write_images(tmp_path / "val", **good, eel=arrays(1))
    elif mistake == "grey":
        write_images(tmp_path, cat=arrays(2), dog=arrays(2, (8, 8)))
    elif mistake == "sizes":
        write_images(tmp_path, cat=arrays(2), dog=arrays(2, (9, 8, 3)))
    elif mistake == "files alone":
        (tmp_path / "a.png").write_bytes(encoded(arrays(1)[0], "PNG"))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("one class", "one class, cat: a classifier needs two"),
        ("one class in train", "train: one class, cat"),
        ("empty class", "eel: class eel has no image"),
        ("empty test class", "test/dog: class dog has no image"),
        ("single image", "class eel has one image: it needs two"),
        ("text", r"dog/notes.txt: not an image by its name \(.jpg"),
        ("not decodable", "dog/000.png cannot be decoded as an image: .*on_corrupt skip"),
        ("cut", "dog/000.png cannot be decoded"),
        ("loose", "loose.png: an image in no class's folder"),
        ("no test", "train but none of test, validation, valid, val beside it"),
        ("no train", "test but no train beside it"),
        ("strange test class", "val: class eel has no training images"),
        ("grey", r"\.png is (grey|colour) but the first image (colour|grey): .*--data.channels"),
        ("sizes", r"\.png is 8x\d pixels but the first image 8x\d: .* --data.size N"),
        ("files alone", "no folders of images in it, neither train/CLASS"),
        ("nothing", "no folders of images in it"),
    ],
)
def test_mistakes_are_named(tmp_path, mistake, message):
    make_bad(tmp_path, mistake)
    with pytest.raises(LocalgradError, match=message) as caught:
        data.load("folder", tmp_path)
    assert "\n" not in str(caught.value)


def test_corrupt_files_are_skipped_on_request_and_named(tmp_path):
    write_images(tmp_path / "train", cat=arrays(2), dog=[b"hello", arrays(1)[0]])
    write_images(tmp_path / "test", cat=arrays(2), dog=arrays(2))
    found = data.load("folder", tmp_path, on_corrupt="skip")
    name = str(tmp_path / "train" / "dog" / "000.png")
    assert found.skipped == {name: "cannot be decoded as an image"}
    assert sorted(found.train.labels.tolist()) == [0, 0, 1]


def test_an_unreadable_file(tmp_path):
    write_images(tmp_path, cat=arrays(2), dog=arrays(2))
    (tmp_path / "cat" / "000.png").unlink()
    (tmp_path / "cat" / "000.png").symlink_to(tmp_path / "gone")
    with pytest.raises(LocalgradError, match=r"000.png cannot be read: No such file"):
        data.load("folder", tmp_path)
