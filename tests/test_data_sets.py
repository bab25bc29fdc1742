"""Each published data set, from small local files in its layout on the hub; and one's own."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("pyarrow.parquet")
pytest.importorskip("PIL.Image")

from image_files import arrays, encoded, named, table, write, write_images
from localgrad import data
from localgrad.data import specs
from localgrad.errors import LocalgradError


@pytest.fixture(autouse=True)
def no_default_folder(monkeypatch):
    monkeypatch.delenv("LOCALGRAD_DATA", raising=False)


# name: folder in the hub's repository, split to test on, columns, shape, pad, padding, flip
LAYOUTS = {
    "cifar10": ("plain_text", "test", "img", "label", (32, 32, 3), 4, "reflect", True),
    "cifar100": ("cifar100", "test", "img", "fine_label", (32, 32, 3), 4, "reflect", True),
    "svhn": ("cropped_digits", "test", "image", "label", (32, 32, 3), 2, "zero", False),
    "stl10": ("data", "test", "image", "label", (96, 96, 3), 4, "zero", True),
    "tiny-imagenet": ("data", "valid", "image", "label", (64, 64, 3), 4, "zero", True),
    "fashion-mnist": ("fashion_mnist", "test", "image", "label", (28, 28), 2, "zero", True),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layout(tmp_path, name):
    folder, split, image, label, shape, pad, padding, flip = LAYOUTS[name]
    inside = tmp_path / folder
    inside.mkdir()
    # what lies beside: another split, another configuration, another label
    for part, number in (("train", 6), (split, 4), ("extra", 3)):
        content = table(arrays(number, shape), column=image).rename_columns([image, label])
        if name == "cifar100":
            content = content.append_column("coarse_label", [[0] * number])
        write_as(inside / f"{part}-00000-of-00001.parquet", content)
    (tmp_path / "full_numbers").mkdir()
    write_as(tmp_path / "full_numbers" / "train-0.parquet", table(arrays(1)))
    write_as(tmp_path / "full_numbers" / "test-0.parquet", table(arrays(1)))
    if name != "svhn":
        (tmp_path / "full_numbers" / "train-0.parquet").unlink()
        (tmp_path / "full_numbers" / "test-0.parquet").unlink()
    found = data.load(name, tmp_path)
    assert (len(found.train), len(found.test)) == (6, 4)
    height, width = shape[:2]
    assert found.image_shape == (shape[2] if len(shape) == 3 else 1, height, width)
    assert (found.pad, found.padding, found.flip) == (pad, padding, flip)
    expected = torch.from_numpy(arrays(6, shape))
    assert torch.equal(found.train.images.view(expected.shape), expected)
    x, _ = found.train_batches(3).first()
    assert x.shape == (3, *found.image_shape)
    assert x.isfinite().all()


def write_as(path, content):
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(content, path)


def test_every_published_set_has_a_layout_test():
    own = {"folder", "parquet", "imagenet"}  # tested below and with streaming
    assert set(LAYOUTS) == set(specs.SPECS) - own


def test_known_class_names(tmp_path):
    path = write(tmp_path, arrays(2, (28, 28)), arrays(2, (28, 28)), column="image")
    fashion = data.load("fashion-mnist", path)
    assert fashion.classes[0] == "T - shirt / top"
    assert (fashion.mean, fashion.std) == ((0.2860,), (0.3530,))
    assert fashion.facts()["augmentation"] == "pad 2 (zero), crop, flip"


def test_classes_without_names_are_counted(tmp_path):
    content = table(arrays(3), [0, 1, 2]).rename_columns(["img", "fine_label"])
    found = data.load("cifar100", write(tmp_path, content, content))
    assert found.classes == ("0", "1", "2")


def test_figures_that_are_not_published_are_measured(tmp_path):
    images = arrays(5, (64, 64, 3))
    found = data.load("tiny-imagenet", write(tmp_path, images, images[:2]))
    pixels = torch.from_numpy(images).double() / 255
    for c in range(3):
        assert found.mean[c] == pytest.approx(pixels[..., c].mean().item(), abs=1e-12)
        assert found.std[c] == pytest.approx(pixels[..., c].std(correction=0).item(), abs=1e-12)
    facts = found.facts()
    assert facts["mean"] == list(found.mean)
    assert (facts["shape"], facts["format"], facts["streamed"]) == ([3, 64, 64], "PNG", False)


# --- one's own


def own(tmp_path, train=None, test=None):
    train = table(arrays(6), [0, 1, 2, 0, 1, 2]) if train is None else train
    return write(tmp_path, train, table(arrays(2)) if test is None else test)


def test_own_parquet(tmp_path):
    train = named(table(arrays(6), [0, 1, 2, 0, 1, 2]), "abc")
    found = data.load("parquet", own(tmp_path / "mine", train))
    assert found.classes == ("a", "b", "c")
    assert (found.name, found.label) == ("parquet", "parquet mine")
    assert (found.image_shape, found.pad, found.padding) == ((3, 8, 8), 1, "reflect")
    assert torch.equal(found.train.images, torch.from_numpy(arrays(6)))


@pytest.mark.parametrize("split", ["validation", "valid", "val"])
def test_own_parquet_with_another_name_for_the_test_split(tmp_path, split):
    own(tmp_path)
    (tmp_path / "test-00000-of-00001.parquet").rename(tmp_path / f"{split}.parquet")
    assert len(data.load("parquet", tmp_path).test) == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0, 0], "one class, 0: a classifier needs two or more"),
        ([0, 2, 2], "no training image of class 1: add some, or number the labels"),
        ([0, 1, -1], "row 2 has label -1"),
        (["a", "b", "c"], "column label holds string .* whole numbers"),
        ([0.0, 1.0, 2.5], "column label holds double .* whole numbers"),
    ],
)
def test_own_labels_are_checked(tmp_path, labels, message):
    images = arrays(3)
    with pytest.raises(LocalgradError, match=message) as caught:
        data.load("parquet", own(tmp_path, table(images, labels), table(images[:1], labels[:1])))
    assert "\n" not in str(caught.value)


def test_grey_and_colour_in_one_set(tmp_path):
    mixed = table([*arrays(2), *arrays(1, (8, 8))], [0, 1, 0])
    path = own(tmp_path, mixed)
    expected = "row 2 is grey but the first image colour: .* --data.channels rgb or .* grey"
    with pytest.raises(LocalgradError, match=expected):
        data.load("parquet", path)
    colour, grey = (data.load("parquet", path, channels=kind) for kind in ("rgb", "grey"))
    assert (colour.image_shape, grey.image_shape) == ((3, 8, 8), (1, 8, 8))
    last = torch.from_numpy(arrays(1, (8, 8)))[0]
    assert torch.equal(grey.train.images[2, :, :, 0], last)
    assert torch.equal(colour.train.images[2], last[:, :, None].expand(8, 8, 3))
    assert (len(colour.mean), len(grey.mean)) == (3, 1)


def test_grey_train_and_colour_test(tmp_path):
    path = own(tmp_path, table(arrays(2, (8, 8))), table(arrays(2)))
    with pytest.raises(LocalgradError, match=r"make them the same by .* --data.channels"):
        data.load("parquet", path)


def test_sizes_that_differ(tmp_path):
    path = own(tmp_path, table([*arrays(2), *arrays(1, (8, 12, 3))], [0, 1, 0]))
    with pytest.raises(LocalgradError, match=r"row 2 is 12x8 pixels .* 8x8: .* --data.size N"):
        data.load("parquet", path)
    found = data.load("parquet", path, size=8)
    assert found.image_shape == (3, 8, 8)
    # nothing to resize: the middle is cut out
    assert torch.equal(found.train.images[2], torch.from_numpy(arrays(1, (8, 12, 3)))[0, :, 2:10])


def test_size_resizes_and_is_said(tmp_path):
    found = data.load("cifar10", write(tmp_path, arrays(2), arrays(2)), size=24)
    assert (found.image_shape, found.label) == ((3, 24, 24), "cifar10 24x24")
    flat = [encoded(torch.full((8, 8, 3), 77).byte().numpy(), "PNG")]
    found = data.load("cifar10", write(tmp_path, table(flat), arrays(1)), size=5)
    assert (found.train.images == 77).all()


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_own_sets_need_a_path(kind):
    with pytest.raises(LocalgradError, match=f"{kind} needs --data.path"):
        data.load(kind)


def test_corrupt_images_are_skipped_on_request_alone_and_named(tmp_path):
    path = own(tmp_path, table([arrays(1)[0], b"no image", arrays(2)[1], None], [0, 1, 1, 0]))
    with pytest.raises(LocalgradError, match=r"row 1 cannot be decoded .*--data.on_corrupt skip"):
        data.load("parquet", path)
    found = data.load("parquet", path, on_corrupt="skip")
    assert torch.equal(found.train.images, torch.from_numpy(arrays(2)))
    assert found.train.labels.tolist() == [0, 1]
    file = path / "train-00000-of-00001.parquet"
    assert found.skipped == {
        f"{file}: row 1": "cannot be decoded as an image",
        f"{file}: row 3": "holds no image bytes",
    }
    nothing = own(tmp_path, table([b"a", b"b"]))
    with pytest.raises(LocalgradError, match="none of 2 images can be decoded"):
        data.load("parquet", nothing, on_corrupt="skip")


def test_more_pixels_than_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 20)
    with pytest.raises(LocalgradError, match=r"the machine has 0: .* --data.stream true"):
        data.load("cifar10", write(tmp_path, arrays(3), arrays(2)))


def test_resized_crops_need_streaming(tmp_path):
    with pytest.raises(LocalgradError, match=r"--data.stream true, or --data.crop pad"):
        data.load("imagenet", tmp_path, stream=False)
    with pytest.raises(LocalgradError, match=r"--data.stream true, or --data.crop pad"):
        data.load("cifar10", tmp_path, crop="resized")


def test_published_set_as_an_image_folder(tmp_path):
    names = data.catalogue.SPECS["cifar10"].classes
    images = {name: arrays(1, seed=i) for i, name in enumerate(names)}
    for split in ("train", "test"):
        write_images(tmp_path / split, **images)
    found = data.load("cifar10", tmp_path)
    assert (found.classes, found.label) == (names, "cifar10")
    first = int(found.train.labels[0])
    assert torch.equal(found.train.images[0], torch.from_numpy(images[names[first]])[0])
