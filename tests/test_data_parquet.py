"""Parquet files in the hub's layout, and the hub itself."""

from __future__ import annotations

import io
import os
import sys

import pytest
import torch

pytest.importorskip("pyarrow.parquet")
pytest.importorskip("PIL.Image")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from image_files import arrays, encoded, named, table, write
from localgrad import data
from localgrad.errors import LocalgradError


@pytest.fixture(autouse=True)
def no_default_folder(monkeypatch):
    monkeypatch.delenv("LOCALGRAD_DATA", raising=False)


@pytest.mark.parametrize("name", ["svhn", "stl10", "tiny-imagenet", "cifar100", "fashion-mnist"])
def test_another_data_set_is_never_taken_for_this_one(tmp_path, monkeypatch, name):
    """A folder of data sets that holds CIFAR-10 alone holds no other."""
    folder = write(tmp_path / "cifar10", arrays(12), arrays(5))
    asked = []

    def download(spec):
        asked.append(spec.name)
        raise LocalgradError("not here")

    monkeypatch.setattr("localgrad.data.find.download", download)
    monkeypatch.setenv("LOCALGRAD_DATA", os.pathsep.join([str(tmp_path), str(folder)]))
    with pytest.raises(LocalgradError, match="not here"):
        data.load(name)
    assert asked == [name]
    for path in (tmp_path, folder):
        with pytest.raises(LocalgradError, match=f"pass the folder of {name}'s"):
            data.load(name, path)
    assert len(data.load("parquet", folder).train) == 12
    assert len(data.load("cifar10").train) == 12


@pytest.mark.parametrize("column", ["img", "image"])
def test_png_round_trip(tmp_path, column):
    train, test = arrays(12), arrays(5, seed=1)
    found = data.load("cifar10", write(tmp_path, train, test, column=column))
    assert torch.equal(found.train.images, torch.from_numpy(train))
    assert torch.equal(found.test.images, torch.from_numpy(test))
    assert found.train.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert (found.label, found.source_format) == ("cifar10", "PNG")
    assert (found.pad, found.flip) == (4, True)
    assert found.mean == (0.4914, 0.4822, 0.4465)
    assert found.std == (0.2470, 0.2435, 0.2616)
    assert found.classes[3] == "cat"
    assert found.num_classes == 10


def test_jpeg_is_called_a_copy(tmp_path):
    train = arrays(6)
    found = data.load("cifar10", write(tmp_path, train, arrays(5), kind="JPEG"))
    assert (found.label, found.source_format) == ("cifar10 (JPEG copy)", "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(encoded(train[4], "JPEG"))))
    assert torch.equal(found.train.images[4], torch.from_numpy(expected.copy()))


def test_one_jpeg_split_is_enough(tmp_path):
    write(tmp_path, train=arrays(6))
    write(tmp_path, test=arrays(6), kind="JPEG")
    found = data.load("cifar10", tmp_path)
    assert (found.label, found.source_format) == ("cifar10 (JPEG copy)", "JPEG+PNG")


def test_grey_images_become_colour(tmp_path):
    grey = arrays(3, (8, 8))
    found = data.load("cifar10", write(tmp_path, grey, arrays(5)))
    assert torch.equal(found.train.images, torch.from_numpy(grey)[..., None].expand(3, 8, 8, 3))


def test_several_files_are_read_in_order_and_limits_count_rows(tmp_path):
    parts = arrays(9)
    for part in range(3):
        content = table(parts[3 * part : 3 * part + 3], labels=[part] * 3)
        pq.write_table(content, tmp_path / f"train-0000{part}-of-00003.parquet")
    write(tmp_path, test=arrays(8))
    assert data.load("cifar10", tmp_path).train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    some = data.load("cifar10", tmp_path, limit=4, test_limit=2)
    assert torch.equal(some.train.images, torch.from_numpy(parts[:4]))
    assert some.train.labels.tolist() == [0, 0, 0, 1]
    assert len(some.test) == 2
    assert len(data.load("cifar10", tmp_path, limit=100).train) == 9


@pytest.mark.parametrize("inner", [".", "cifar10", "plain_text", "cifar10/plain_text"])
def test_folder_or_a_folder_inside_it(tmp_path, inner):
    write(tmp_path / inner, arrays(3), arrays(2))
    assert len(data.load("cifar10", tmp_path).train) == 3


def test_class_names_come_from_the_file(tmp_path):
    names = [f"{i}s" for i in range(10)]
    write(tmp_path, named(table(arrays(3)), names), arrays(2))
    assert data.load("cifar10", tmp_path).classes == tuple(names)
    write(tmp_path, named(table(arrays(3)), names[:4]), arrays(2))
    with pytest.raises(LocalgradError, match="has 4 classes, but cifar10 10: pass the folder of"):
        data.load("cifar10", tmp_path)


def test_a_file_in_another_order_of_classes_is_put_in_the_published_one(tmp_path):
    published = data.load("cifar10", write(tmp_path / "a", arrays(3), arrays(2))).classes
    turned = named(table(arrays(3), [0, 1, 9]), published[::-1])
    found = data.load("cifar10", write(tmp_path / "b", turned, named(table(arrays(2)), published)))
    assert found.classes == published
    assert found.train.labels.tolist() == [9, 8, 0]


def test_own_folder_goes_before_others(tmp_path):
    write(tmp_path / "another", arrays(3), arrays(2))
    write(tmp_path / "cifar10", arrays(4), arrays(2))
    assert len(data.load("cifar10", tmp_path).train) == 4


def test_default_folders(tmp_path, monkeypatch):
    write(tmp_path / "b" / "cifar10", arrays(4), arrays(2))
    (tmp_path / "a").mkdir()
    listed = [tmp_path / "missing", tmp_path / "a", tmp_path / "b"]
    monkeypatch.setenv("LOCALGRAD_DATA", os.pathsep.join(map(str, listed)))
    assert len(data.load("cifar10").train) == 4
    assert len(data.load("cifar10", "cifar10").train) == 4
    monkeypatch.setenv("LOCALGRAD_DATA", str(tmp_path / "b" / "cifar10"))
    assert len(data.load("cifar10").train) == 4


def without_bytes(images):
    return pa.table({"img": [{"path": "x.png"} for _ in images], "label": [0] * len(images)})


GOOD = arrays(4)
MISTAKES = {
    "undecodable": (table([GOOD[0], b"no image", GOOD[1]]), "parquet: row 1 cannot be decoded"),
    "truncated": (table([GOOD[0], encoded(GOOD[1], "PNG")[:60]]), "row 1 cannot be decoded"),
    "null image": (table([GOOD[0], None]), "row 1 holds no image bytes"),
    "sizes": (table([*GOOD[:2], arrays(1, (9, 7, 3))[0]]), "row 2 is 7x9 pixels .* first .* 8x8"),
    "high label": (table(GOOD, [0, 9, 10, 11]), "row 2 has label 10, but there are 10 classes"),
    "low label": (table(GOOD, [0, -1, 2, 3]), "row 1 has label -1"),
    "text label": (table(GOOD, list("abcd")), "label holds string .* whole numbers"),
    "null label": (table(GOOD, [0, 1, None, 2]), "label holds int64 with 1 missing"),
    "no label": (table(GOOD).drop_columns(["label"]), "no column label"),
    "no image": (table(GOOD, column="picture"), "no column img or image"),
    "no bytes": (without_bytes(GOOD), "column img holds struct<path: string>"),
    "plain bytes": (pa.table({"img": [b"x"], "label": [1]}), "column img holds binary"),
    "deep": (table([encoded(np.ones((8, 8), np.uint16), "PNG")]), "more than 8 bits .* I;16"),
    "no rows": (table(GOOD)[:0], "holds no row"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_bad_rows_are_named(tmp_path, mistake, split):
    bad, message = MISTAKES[mistake]
    good = table(GOOD)
    write(tmp_path, bad if split == "train" else good, bad if split == "test" else good)
    with pytest.raises(LocalgradError, match=message) as caught:
        data.load("cifar10", tmp_path)
    assert f"{split}-00000-of-00001.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_beyond_the_limit_is_not_decoded(tmp_path):
    write(tmp_path, table([GOOD[0], b"no image"]), arrays(2))
    assert len(data.load("cifar10", tmp_path, limit=1).train) == 1


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "middle"])
def test_corrupt_files_are_named(tmp_path, damage):
    write(tmp_path, arrays(40), arrays(2))
    file = tmp_path / "train-00000-of-00001.parquet"
    whole = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "text": b"not parquet at all",
            "truncated": whole[: len(whole) // 2],
            "middle": whole[:4] + b"\xff" * 400 + whole[404:],
        }[damage]
    )
    with pytest.raises(LocalgradError, match="not a readable parquet file") as caught:
        data.load("cifar10", tmp_path)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_mistakes(tmp_path):
    with pytest.raises(LocalgradError, match="missing: no such folder"):
        data.load("cifar10", tmp_path / "missing")
    with pytest.raises(LocalgradError, match=r"no train-\*.parquet or test-\*.parquet"):
        data.load("cifar10", tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(LocalgradError, match="file: a file, where a folder"):
        data.load("cifar10", tmp_path / "file")
    write(tmp_path / "one", train=arrays(2))
    with pytest.raises(LocalgradError, match=r"one: no test-\*.parquet beside train-00000-of"):
        data.load("cifar10", tmp_path)
    write(tmp_path / "two", test=arrays(2))
    with pytest.raises(LocalgradError, match=r"several folders .*\(one, two\)"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("module", "name"),
    [("sklearn.datasets", "sklearn"), ("pyarrow.parquet", "pyarrow"), ("PIL.Image", "PIL")],
)
def test_missing_packages_name_the_extra(tmp_path, monkeypatch, module, name):
    write(tmp_path, arrays(2), arrays(2))
    for missing in (module, module.partition(".")[0]):
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(LocalgradError, match=rf"{name} must .* pip install localgrad\[data\]"):
        data.load("digits") if name == "sklearn" else data.load("cifar10", tmp_path)


# --- the hub


def hub_splits(datasets, number=5):
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=list("abcdefghij"))}
    )
    rows = {
        "img": [{"bytes": encoded(a, "PNG"), "path": None} for a in arrays(number)],
        "label": list(range(number)),
    }
    whole = datasets.Dataset.from_dict(rows, features=features)
    return datasets.DatasetDict({"train": whole, "test": whole.select([4, 1])})


def test_download_gives_the_same_rows(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name):
        asked.append(name)
        return hub_splits(datasets)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = data.load("cifar10", limit=3)
    assert asked == ["uoft-cs/cifar10"]
    assert torch.equal(found.train.images, torch.from_numpy(arrays(5)[:3]))
    assert torch.equal(found.test.images, torch.from_numpy(arrays(5)[[4, 1]]))
    assert found.test.labels.tolist() == [4, 1]
    assert (found.label, found.source_format) == ("cifar10", "PNG")


def test_failed_download_is_one_line(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")

    def load_dataset(name):
        raise ConnectionError(f"Couldn't reach {name}\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setenv("LOCALGRAD_DATA", str(tmp_path))
    expected = (
        r"ConnectionError: Couldn't reach uoft-cs/cifar10\); what has come is kept in /.*: "
        "pass a path .* LOCALGRAD_DATA"
    )
    with pytest.raises(LocalgradError, match=expected) as caught:
        data.load("cifar10")
    assert "\n" not in str(caught.value)


def test_download_without_a_split(monkeypatch):
    datasets = pytest.importorskip("datasets")
    only_train = datasets.DatasetDict({"train": hub_splits(datasets)["train"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: only_train)
    with pytest.raises(LocalgradError, match="has no split test, only train"):
        data.load("cifar10")


# --- CIFAR-10 itself

REAL = os.environ.get("LOCALGRAD_DATA")


@pytest.mark.skipif(not REAL, reason="set LOCALGRAD_DATA to a folder that holds CIFAR-10")
def test_the_whole_of_cifar10():
    found = data.load("cifar10", REAL)
    assert (len(found.train), len(found.test)) == (50_000, 10_000)
    assert found.image_shape == (3, 32, 32)
    assert torch.bincount(found.train.labels).tolist() == [5000] * 10
    assert torch.bincount(found.test.labels).tolist() == [1000] * 10
    assert found.label == ("cifar10 (JPEG copy)" if "JPEG" in found.source_format else "cifar10")
    pixels = found.train.images.float().div_(255)
    for c in range(3):
        assert pixels[..., c].mean().item() == pytest.approx(found.mean[c], abs=1e-3)
        assert pixels[..., c].std().item() == pytest.approx(found.std[c], abs=3e-3)
    x, _ = next(found.train_batches(128).epoch(0))
    assert x.shape == (128, 3, 32, 32)
    assert x.is_contiguous(memory_format=torch.channels_last)
