"""Images that are read while training: the same batches as from memory, whoever reads them."""

from __future__ import annotations

import io
import os
import random
import signal
import sys
from dataclasses import replace

import pytest
import torch

pytest.importorskip("PIL.Image")
pytest.importorskip("datasets")

import datasets
import numpy as np
from PIL import Image

from image_files import arrays, encoded, named, table, write, write_images
from localgrad import data
from localgrad.data import crop
from localgrad.errors import LocalgradError


@pytest.fixture(autouse=True)
def caches(monkeypatch, tmp_path_factory):
    monkeypatch.delenv("LOCALGRAD_DATA", raising=False)
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))


def smooth(number, width=60, height=40):
    """Photographs, as far as a resize is concerned: gradients."""
    y, x = np.mgrid[:height, :width]
    planes = [x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)]
    base = np.stack(planes, axis=2)
    return [((base + 40 * i) % 256).astype(np.uint8) for i in range(number)]


def folder(tmp_path, train=9, test=4):
    images = smooth(train)
    write_images(tmp_path / "train", a=images[: train // 2], b=images[train // 2 :])
    write_images(tmp_path / "test", a=smooth(test)[: test // 2], b=smooth(test)[test // 2 :])
    return tmp_path


def epoch(found, number=1, start=0, size=4, **options):
    return list(found.train_batches(size, seed=3, **options).epoch(number, start))


def same(ours, others):
    assert len(ours) == len(others)
    for (x, y), (other, labels) in zip(ours, others, strict=True):
        assert torch.equal(x, other)
        assert torch.equal(y, labels)
    return True


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_padded_crops_are_those_from_memory_bitwise(tmp_path, name, kind):
    if kind == "parquet":
        write(tmp_path, arrays(11), arrays(5), column="image")
    else:
        for split in ("train", "test"):
            classes = data.catalogue.SPECS[name].classes
            write_images(tmp_path / split, **{c: arrays(1, seed=ord(c[0])) for c in classes})
    memory = data.load(name, tmp_path)
    streamed = data.load(name, tmp_path, stream=True)
    assert (streamed.image_shape, streamed.classes) == (memory.image_shape, memory.classes)
    assert (streamed.mean, streamed.label) == (memory.mean, memory.label)
    same(epoch(streamed, workers=0), epoch(memory))
    same(list(streamed.test_batches(2, workers=0).evaluation()),
         list(memory.test_batches(2).evaluation()))  # fmt: skip


def test_workers_change_nothing(tmp_path):
    found = data.load("folder", folder(tmp_path), stream=True, size=16)
    alone = epoch(found, workers=0)
    assert [len(y) for _, y in alone] == [4, 4, 1]
    same(alone, epoch(found, workers=1))
    same(alone, epoch(found, workers=3, prefetch=1))
    tests = [list(found.test_batches(3, workers=w).evaluation()) for w in (0, 2)]
    same(*tests)


def test_an_epoch_can_begin_at_any_batch(tmp_path):
    found = data.load("folder", folder(tmp_path), stream=True, size=16)
    whole = epoch(found, workers=0)
    for start in range(4):
        same(epoch(found, start=start, workers=start % 2), whole[start:])


def test_crops_differ_by_epoch_image_and_seed_but_not_by_batch_size(tmp_path):
    found = data.load("folder", folder(tmp_path), stream=True, size=16)
    first, second = epoch(found, 0, workers=0), epoch(found, 1, workers=0)
    flat = [torch.cat([x for x, _ in part]) for part in (first, second)]
    assert not torch.equal(flat[0].sort(0).values, flat[1].sort(0).values)
    wide = epoch(found, 0, size=9, workers=0)
    assert torch.equal(flat[0], wide[0][0])
    plain = torch.cat([x for x, _ in epoch(found, 0, workers=0, augment=False)])
    again = torch.cat([x for x, _ in epoch(found, 1, workers=0, augment=False)])
    assert torch.equal(plain.sort(0).values, again.sort(0).values)  # no crop: another order only


def test_random_state_is_neither_read_nor_touched(tmp_path):
    found = data.load("folder", folder(tmp_path), stream=True, size=16)
    torch.manual_seed(0), random.seed(0)
    before, python = torch.get_rng_state(), random.getstate()
    first = epoch(found, workers=1)
    assert torch.equal(before, torch.get_rng_state())
    assert random.getstate() == python
    torch.manual_seed(1)
    same(first, epoch(found, workers=0))


def test_imagenet_layout(tmp_path):
    names = [f"n{i:04}" for i in range(1000)]
    train = named(table(smooth(3, 300, 260), [0, 999, 5], kind="JPEG", column="image"), names)
    test = named(table(smooth(2, 260, 300), [7, 8], kind="JPEG", column="image"), names)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", train, table(smooth(1), [-1], column="image"))  # the hub's test split
    write(tmp_path / "new", test=test)
    (tmp_path / "new" / "test-00000-of-00001.parquet").rename(
        tmp_path / "data" / "validation-00000-of-00001.parquet"
    )
    found = data.load("imagenet", tmp_path)
    assert (found.num_classes, found.classes[999]) == (1000, "n0999")
    assert found.image_shape == (3, 224, 224)
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert found.facts()["augmentation"] == "random part, resized, flip"
    assert (found.label, found.source_format) == ("imagenet", "JPEG")
    x, y = found.train_batches(3, workers=0).first()
    assert x.shape == (3, 3, 224, 224)
    assert sorted(y.tolist()) == [0, 5, 999]
    batches = found.test_batches(2, workers=0)
    assert next(batches.evaluation())[1].tolist() == [7, 8]


def test_shapes_types_and_layout(tmp_path):
    found = data.load("folder", folder(tmp_path), stream=True)
    assert found.image_shape == (3, 224, 224)
    for channels_last in (True, False):
        x, y = found.train_batches(2, workers=0, channels_last=channels_last).first()
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert x.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_measured_figures_are_of_evenly_spaced_images(tmp_path, monkeypatch):
    path = folder(tmp_path)
    every = data.load("folder", path, stream=True, crop="pad", size=16)
    memory = data.load("folder", path, size=16)
    assert (every.mean, every.std) == (memory.mean, memory.std)
    monkeypatch.setattr(data.statistics, "SAMPLE", 4)  # of 9: rows 0, 3 and 6
    some = data.load("folder", path, stream=True, crop="pad", size=16)
    three = memory.train.images[[0, 3, 6]]
    assert (some.mean, some.std) == data.statistics.of_pixels([three])


# --- crops


def test_random_boxes_are_inside_and_as_published():
    drawn = random.Random(0)
    boxes = [(*crop.random_box(500, 375, drawn),) for _ in range(4000)]
    areas, ratios = [], []
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 500
        assert 0 <= top < bottom <= 375
        areas.append((right - left) * (bottom - top) / (500 * 375))
        ratios.append((right - left) / (bottom - top))
    assert min(areas) == pytest.approx(0.08, abs=0.01)
    assert 0.95 < max(areas) <= 1
    assert 0.74 < min(ratios) < 0.77
    assert 1.30 < max(ratios) < 1.35
    assert 0 < np.mean(np.log(ratios)) < 0.06  # tall ones fit less often into a wide image


def test_a_strip_gives_its_largest_allowed_part():
    assert crop.random_box(1000, 10, random.Random(0)) == (493.0, 0.0, 506.0, 10.0)
    assert crop.random_box(10, 1000, random.Random(0)) == (0.0, 493.0, 10.0, 506.0)


def test_the_middle_is_resize_and_crop_in_one_step():
    """Resize to 256, crop 224, as two steps: equal but for the rounding between them."""
    image = Image.fromarray(smooth(1, 500, 380)[0])
    one = crop.resized(image, crop.central_box(500, 380), 224, 3, "x")
    two = image.resize((round(500 * 256 / 380), 256), Image.Resampling.BILINEAR)
    left = (two.size[0] - 224) / 2
    two = two.crop((int(left), 16, int(left) + 224, 240))
    difference = np.abs(np.asarray(one, dtype=float) - np.asarray(two))
    assert np.median(difference) <= 1


@pytest.mark.parametrize("side", [1000, 500, 300])
def test_jpeg_images_decoded_at_a_part_of_their_size_look_the_same(side):
    array = smooth(1, side, side)[0][:, :, :2].mean(axis=2).astype(np.uint8)  # no sharp edge
    array = np.repeat(array[:, :, None], 3, axis=2)
    box = (side * 0.1, side * 0.1, side * 0.9, side * 0.9)
    opened = [Image.open(io.BytesIO(encoded(array, kind))) for kind in ("JPEG", "PNG")]
    draft, full = (np.asarray(crop.resized(i, box, 100, 3, "x"), dtype=float) for i in opened)
    assert np.abs(draft - full).mean() < 2


def test_mirrored_crops_come_half_the_time(tmp_path):
    found = data.load("folder", folder(tmp_path), stream=True, size=16)
    whole, mirrored = 0, 0
    for i in range(200):
        plain = found.train.pixels(0, random.Random(i))
        other = found.train.pixels(0, random.Random(i), flip=True)
        whole += torch.equal(plain, other)
        mirrored += torch.equal(plain.flip(1), other)
    assert whole + mirrored == 200
    assert 70 < mirrored < 130


# --- corrupt images


def damaged(tmp_path):
    folder(tmp_path)
    victims = [tmp_path / "train" / "a" / "001.png", tmp_path / "train" / "b" / "002.png"]
    for victim in victims:
        victim.write_bytes(victim.read_bytes()[:200])
    return victims


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_stops_with_its_name(tmp_path, workers):
    victims = damaged(tmp_path)
    with pytest.raises(LocalgradError) as caught:
        # where the first image or the sample is damaged, before the first batch
        epoch(data.load("folder", tmp_path, stream=True, size=16), workers=workers)
    line = str(caught.value)
    assert "cannot be decoded as an image: replace it" in line
    assert any(str(victim) in line for victim in victims)
    assert "\n" not in line


@pytest.mark.parametrize("kind", ["pad", "resized"])
@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_images_are_left_out_counted_and_named(tmp_path, kind, workers):
    whole = data.load("folder", folder(tmp_path), stream=True, size=16, crop=kind)
    rows = [whole.train.rows.name(row) for row in range(9)]
    order, _ = whole.train_batches(4, seed=3).order.epoch(1)
    complete = epoch(whole, workers=0)
    victims = {str(victim) for victim in damaged(tmp_path)}
    found = data.load("folder", tmp_path, stream=True, size=16, crop=kind, on_corrupt="skip")
    found = replace(found, mean=whole.mean, std=whole.std)
    batches = found.train_batches(4, seed=3, workers=workers)
    left = list(batches.epoch(1))
    assert set(batches.skipped) == victims
    for (x, y), (other, labels), part in zip(left, complete, order.split(4), strict=True):
        keep = torch.tensor([rows[row] not in victims for row in part.tolist()])
        assert torch.equal(x, other[keep])  # what is left is as it would have been
        assert torch.equal(y, labels[keep])


def test_a_batch_of_corrupt_images_alone(tmp_path):
    damaged(tmp_path)
    found = data.load("folder", tmp_path, stream=True, size=16, on_corrupt="skip")
    with pytest.raises(LocalgradError, match=r"none of a batch's 1 images can be decoded, such as"):
        epoch(found, size=1, workers=0)


def test_sizes_and_channels_are_checked_while_reading(tmp_path, monkeypatch):
    write(tmp_path / "p", table(arrays(8), [0, 1] * 4), arrays(2))
    found = data.load("parquet", tmp_path / "p", stream=True, crop="pad")
    source = found.train.rows.sources[0]
    images = [source.read(row) for row in range(8)]
    monkeypatch.setattr(type(source), "read", lambda self, row: images[row])
    images[5] = encoded(arrays(1, (9, 8, 3))[0], "PNG")
    with pytest.raises(LocalgradError, match=r"row 5 is 8x9 pixels .*--data.size N") as caught:
        epoch(found, workers=1)
    assert "\n" not in str(caught.value)
    images[5] = encoded(arrays(1, (8, 8))[0], "PNG")
    with pytest.raises(LocalgradError, match=r"row 5 is grey but the first image colour: .* grey"):
        epoch(found, workers=0)
    write_images(tmp_path / "f", a=arrays(6), b=arrays(6, (8, 8)))
    grey = data.load("folder", tmp_path / "f", stream=True, channels="grey", size=16)
    assert epoch(grey, workers=0)[0][0].shape == (4, 1, 16, 16)


def test_a_worker_that_dies(tmp_path, monkeypatch):
    found = data.load("folder", folder(tmp_path), stream=True, size=16)
    monkeypatch.setattr(
        data.StreamedSet, "pixels", lambda *given: os.kill(os.getpid(), signal.SIGKILL)
    )
    with pytest.raises(
        LocalgradError, match=r"reading images failed \(DataLoader worker"
    ) as caught:
        epoch(found, workers=1)
    assert "\n" not in str(caught.value)


def test_mistakes(tmp_path):
    found = data.load("folder", folder(tmp_path), stream=True, size=16)
    with pytest.raises(LocalgradError, match="workers must be a whole number of at least 0"):
        found.train_batches(4, workers=-1)
    with pytest.raises(LocalgradError, match="prefetch must be a whole number of at least 1"):
        found.train_batches(4, prefetch=0)
    with pytest.raises(LocalgradError, match="epoch must be a whole number"):
        found.train_batches(4).epoch(-1)
    write(tmp_path / "bad", arrays(2), arrays(2))
    file = tmp_path / "bad" / "train-00000-of-00001.parquet"
    file.write_bytes(b"no parquet")
    with pytest.raises(LocalgradError, match="bad: cannot be read as parquet files") as caught:
        data.load("cifar10", tmp_path / "bad", stream=True)
    assert "\n" not in str(caught.value)


def test_nothing_is_printed_where_nobody_watches(tmp_path, capsys):
    data.load("cifar10", write(tmp_path, arrays(3), arrays(2)), stream=True)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert not datasets.are_progress_bars_disabled()


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    write(tmp_path, arrays(2), arrays(2))
    monkeypatch.setitem(sys.modules, "datasets", None)
    expected = r"to stream images, datasets must be installed: pip install localgrad\[data\]"
    with pytest.raises(LocalgradError, match=expected):
        data.load("cifar10", tmp_path, stream=True)


def test_repr(tmp_path):
    found = data.load("folder", folder(tmp_path), stream=True, size=16)
    assert repr(found.train) == "StreamedSet(9 images, fed as 16x16x3)"
