from __future__ import annotations

import doctest
import importlib
import io
import os
import sys

import pytest
import torch
import torch.nn.functional as F

from localgrad import data
from localgrad.data import Batches, Dataset, Draws, ImageSet, crop_and_flip
from localgrad.errors import LocalgradError

np = pytest.importorskip("numpy")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")

MODULES = ("augment", "batches", "catalogue", "extra", "image_set", "validate")


@pytest.mark.parametrize("module", MODULES)
def test_doctests_run(module):
    result = doctest.testmod(importlib.import_module(f"localgrad.data.{module}"))
    assert result.failed == 0
    assert result.attempted > 0


# --- sets in memory


def image_set(number=20, height=8, width=8, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (number, height, width, channels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(number) % 10)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 8, 8, 3), torch.zeros(2).long(), r"uint8 .* got float32 \(2, 8, 8, 3\)"),
        (torch.zeros(2, 8, 8).byte(), torch.zeros(2).long(), r"got uint8 \(2, 8, 8\)"),
        (torch.zeros(2, 8, 8, 3).byte(), torch.zeros(2), r"int64 .*\(2,\).* got float32 \(2,\)"),
        (torch.zeros(2, 8, 8, 3).byte(), torch.zeros(3).long(), r"got int64 \(3,\)"),
        (torch.zeros(0, 8, 8, 3).byte(), torch.zeros(0).long(), "needs an image"),
        (
            torch.zeros(2, 8, 8, 3).byte(),
            torch.zeros(2, device="meta").long(),
            "cpu but labels on meta",
        ),
    ],
)
def test_image_set_refuses(images, labels, message):
    with pytest.raises(LocalgradError, match=message):
        ImageSet(images, labels)


def dataset(**changes):
    options = {
        "name": "toy",
        "label": "toy",
        "train": image_set(),
        "test": image_set(7, seed=1),
        "classes": tuple("abcdefghij"),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "pad": 2,
        "flip": True,
    }
    return Dataset(**(options | changes))


def test_dataset_properties_and_batches():
    toy = dataset()
    assert toy.image_shape == (3, 8, 8)
    assert toy.num_classes == 10
    train, test = toy.train_batches(4, seed=3), toy.test_batches(4)
    assert (train.order.pad, train.order.flip, train.order.shuffle) == (2, True, True)
    assert train.order.seed == 3
    assert (test.order.pad, test.order.flip, test.order.shuffle) == (0, False, False)
    assert torch.equal(torch.cat([y for _, y in test.epoch(0)]), toy.test.labels)
    assert toy.to("cpu").train.images is toy.train.images


def test_dataset_refuses():
    with pytest.raises(LocalgradError, match="toy test: row 2 has label 2, but there are 2 cla"):
        dataset(classes=("a", "b"), train=image_set(2))
    with pytest.raises(LocalgradError, match=r"\(3, 8, 8\).* but test images \(3, 9, 8\)"):
        dataset(test=image_set(7, height=9))


# --- augmentation


def slow_crop_and_flip(images, index, draws, pad):
    height, width = images.shape[1:3]
    done = []
    for i, row in enumerate(index.tolist()):
        image = images[row].permute(2, 0, 1).double()
        image = F.pad(image[None], (pad,) * 4, mode="reflect")[0]
        top, left = int(draws.top[i]), int(draws.left[i])
        image = image[:, top : top + height, left : left + width]
        if draws.mirrored[i]:
            image = image.flip(2)
        done.append(image.permute(1, 2, 0).to(images.dtype))
    return torch.stack(done)


@pytest.mark.parametrize(
    ("height", "width", "channels", "pad"),
    [(8, 8, 1, 1), (32, 32, 3, 4), (7, 10, 3, 6), (5, 3, 2, 2), (6, 4, 3, 0), (1, 1, 1, 0)],
)
@pytest.mark.parametrize("flip", [True, False])
def test_one_gather_is_pad_crop_flip_bitwise(height, width, channels, pad, flip):
    images = image_set(30, height, width, channels).images
    generator = torch.Generator().manual_seed(1)
    index = torch.randint(0, 30, (64,), generator=generator)
    draws = Draws.random(64, pad, flip, generator)
    fast = crop_and_flip(images, index, draws, pad)
    assert torch.equal(fast, slow_crop_and_flip(images, index, draws, pad))
    assert fast.dtype == torch.uint8
    assert fast.is_contiguous()


def test_every_crop_and_both_flips_are_drawn():
    draws = Draws.random(4000, 2, True, torch.Generator().manual_seed(0))
    seen = torch.stack([draws.top, draws.left, draws.mirrored.long()]).unique(dim=1)
    assert seen.shape == (3, 5 * 5 * 2)
    assert draws.mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert not Draws.random(100, 2, False, torch.Generator()).mirrored.any()


# --- batches


MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def batches(images=None, size=6, **options):
    return Batches(images or image_set(), size, **({"mean": MEAN, "std": STD} | options))


def flat(epoch):
    xs, ys = zip(*epoch, strict=True)
    return torch.cat(xs), torch.cat(ys)


def test_plain_batches_are_the_normalised_images_in_order():
    images = image_set()
    x, y = flat(batches(images).epoch(0))
    mean = torch.tensor([255 * m for m in MEAN]).view(3, 1, 1)
    std = torch.tensor([255 * s for s in STD]).view(3, 1, 1)
    oracle = (images.images.permute(0, 3, 1, 2).float() - mean) / std
    assert torch.equal(x, oracle)
    assert torch.equal(y, images.labels)
    in_units = images.images.permute(0, 3, 1, 2).double() / 255
    for c in range(3):
        expected = ((in_units[:, c] - MEAN[c]) / STD[c]).float()
        torch.testing.assert_close(x[:, c], expected, atol=1e-5, rtol=1e-5)


def test_augmented_epoch_is_the_slow_one_bitwise():
    images = image_set(23, 9, 8)
    ours = batches(images, pad=3, flip=True, shuffle=True, seed=5)
    x, y = flat(ours.epoch(2))
    # Each result must be one of the crops of the image that its label and order name.
    plain, labels = flat(batches(images).epoch(0))
    padded = F.pad(plain, (3,) * 4, mode="reflect")
    crops = [padded[:, :, i : i + 9, j : j + 8] for i in range(7) for j in range(7)]
    crops = torch.stack([*crops, *(crop.flip(3) for crop in crops)], 1)
    matches = (x[:, None, None] == crops).flatten(3).all(3)
    assert matches.any(2).any(1).all()
    sources = matches.any(2).float().argmax(1)
    assert sorted(sources.tolist()) == list(range(23))
    assert torch.equal(y, labels[sources])


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("pad", [0, 2])
def test_shapes_types_and_layout(channels_last, pad):
    ours = batches(pad=pad, flip=pad > 0, channels_last=channels_last)
    shapes = []
    for x, y in ours.epoch(0):
        shapes.append(tuple(x.shape))
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert x.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert x.is_contiguous() != channels_last
    assert shapes == [(6, 3, 8, 8)] * 3 + [(2, 3, 8, 8)]
    assert len(ours) == 4


@pytest.mark.parametrize(
    ("number", "size", "drop_last", "sizes"),
    [
        (12, 6, False, [6, 6]),
        (12, 6, True, [6, 6]),
        (13, 6, False, [6, 6, 1]),
        (13, 6, True, [6, 6]),
        (3, 6, False, [3]),
    ],
)
def test_length_and_last_batch(number, size, drop_last, sizes):
    ours = batches(image_set(number), size, drop_last=drop_last)
    assert [len(y) for _, y in ours.epoch(0)] == sizes
    assert len(ours) == len(sizes)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(flat(a), flat(b), strict=True))


def test_an_epoch_is_a_function_of_seed_and_number():
    options = {"pad": 2, "flip": True, "shuffle": True}
    ours, again = batches(seed=1, **options), batches(seed=1, **options)
    for number in range(3):
        list(ours.epoch(number))
    assert same(ours.epoch(3), again.epoch(3))
    assert same(again.epoch(3), again.epoch(3))
    assert not same(ours.epoch(3), ours.epoch(4))
    assert not same(ours.epoch(3), batches(seed=2, **options).epoch(3))
    # Swapped seed and epoch, and the next seed's previous epoch, are other epochs.
    assert not same(ours.epoch(2), batches(seed=2, **options).epoch(1))


def test_an_epoch_does_not_depend_on_batch_size_or_layout():
    options = {"pad": 2, "flip": True, "shuffle": True}
    assert same(batches(size=6, **options).epoch(1), batches(size=7, **options).epoch(1))
    contiguous = batches(channels_last=False, **options)
    assert same(batches(**options).epoch(1), contiguous.epoch(1))


def test_interleaved_epochs_do_not_disturb_each_other():
    ours = batches(shuffle=True, pad=1)
    first, second = ours.epoch(0), ours.epoch(1)
    mixed = [pair for both in zip(first, second, strict=True) for pair in both]
    assert same(iter(mixed[::2]), ours.epoch(0))


def test_global_random_state_is_neither_read_nor_touched():
    ours = batches(shuffle=True, pad=2, flip=True)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = list(ours.epoch(0))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert same(iter(first), ours.epoch(0))


def test_shuffled_epochs_hold_every_image_once():
    images = ImageSet(image_set(50).images, torch.arange(50))
    orders = [flat(batches(images, shuffle=True).epoch(e))[1] for e in range(3)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(50))
    assert not torch.equal(orders[0], orders[1])


def test_evaluation_ignores_the_training_options():
    images = image_set(13)
    ours = batches(images, pad=2, flip=True, shuffle=True, drop_last=True)
    assert same(ours.evaluation(), batches(images).epoch(0))


def test_the_set_is_not_changed():
    images = image_set()
    kept = images.images.clone()
    for x, _ in [*batches(images).epoch(0), *batches(images).evaluation()]:
        x.zero_()
    assert torch.equal(images.images, kept)


def test_a_view_of_other_strides_gives_the_same():
    images = image_set()
    view = ImageSet(
        images.images.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0), images.labels
    )
    options = {"pad": 2, "flip": True, "shuffle": True}
    assert same(batches(view, **options).epoch(0), batches(images, **options).epoch(0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_bits():
    options = {"pad": 2, "flip": True, "shuffle": True}
    on_gpu = [(x.cpu(), y.cpu()) for x, y in batches(device="cuda", **options).epoch(1)]
    assert same(iter(on_gpu), batches(**options).epoch(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "batch_size must be a whole number of at least 1; got 0"),
        ({"size": 2.0}, "batch_size .* got 2.0"),
        ({"pad": 8}, "got pad 8 for images of 8x8: use at most 7"),
        ({"pad": -1}, "pad .* at least 0; got -1"),
        ({"seed": "x"}, "seed must be a whole number; got 'x'"),
        ({"mean": (0.5,)}, "mean must be 3 finite numbers"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean must be 3 finite numbers"),
        ({"std": (0.1, 0.0, 0.1)}, "std must be above 0"),
        ({"size": 21, "drop_last": True}, "20 images are fewer than batch_size 21"),
        ({"device": "nowhere"}, "device 'nowhere'"),
    ],
)
def test_batches_refuse(options, message):
    with pytest.raises(LocalgradError, match=message) as caught:
        batches(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [-1, 0.5, True])
def test_epoch_refuses_at_the_call(number):
    with pytest.raises(LocalgradError, match="epoch must be a whole number of at least 0"):
        batches().epoch(number)


# --- digits


def test_digits():
    digits = data.load("digits")
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert digits.image_shape == (1, 8, 8)
    assert (digits.pad, digits.flip, digits.num_classes) == (1, False, 10)
    assert (digits.name, digits.label, digits.source_format) == ("digits", "digits", None)
    for part in (digits.train, digits.test):
        shares = torch.bincount(part.labels, minlength=10) / len(part)
        assert shares.min() > 0.095
        assert shares.max() < 0.105
    assert (int(digits.train.images.min()), int(digits.train.images.max())) == (0, 255)


def test_digits_splits_the_whole_set():
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    both = torch.cat([digits.train.images, digits.test.images]).flatten(1)
    source = torch.from_numpy(load_digits().data)
    assert torch.equal(
        (both.double() / 255 * 16).round().sort(dim=0).values, source.sort(dim=0).values
    )
    pixels = digits.train.images.double() / 255
    assert digits.mean == pytest.approx((pixels.mean().item(),))
    assert digits.std == pytest.approx((pixels.std().item(),), rel=1e-4)


def test_digits_are_the_same_every_time_and_limits_keep_the_statistics():
    digits, again = data.load("digits"), data.load("digits", limit=100, test_limit=50)
    assert torch.equal(digits.train.images[:100], again.train.images)
    assert torch.equal(digits.test.labels[:50], again.test.labels)
    assert digits.mean == again.mean
    assert len(again.train.labels.unique()) == 10
    shares = torch.bincount(again.train.labels, minlength=10)
    assert shares.min() >= 4
    # The split is a contract: results are compared across machines and versions.
    assert digits.train.labels[:10].tolist() == [2, 5, 9, 5, 2, 2, 7, 1, 3, 3]
    sums = digits.train.images.long().sum((1, 2, 3))
    assert int((sums * torch.arange(len(sums))).sum()) == 5_173_128_721


def test_digits_take_no_path(tmp_path):
    with pytest.raises(LocalgradError, match=r"digits .* reads no folder"):
        data.load("digits", path=tmp_path)


# --- parquet files


def encoded(array, kind):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def arrays(number, shape=(8, 8, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, *shape), dtype=np.uint8)


def table(images, labels=None, kind="PNG", column="img"):
    rows = [
        {"bytes": encoded(i, kind) if isinstance(i, np.ndarray) else i, "path": None}
        for i in images
    ]
    labels = [i % 10 for i in range(len(rows))] if labels is None else labels
    return pa.table({column: rows, "label": labels})


def write(folder, train=None, test=None, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for split, images in (("train", train), ("test", test)):
        if images is not None:
            content = images if isinstance(images, pa.Table) else table(images, **options)
            pq.write_table(content, folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(autouse=True)
def no_default_folder(monkeypatch):
    monkeypatch.delenv("LOCALGRAD_DATA", raising=False)


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
    with pytest.raises(LocalgradError, match=r"one: no test-\*.parquet or .* beside train-00000-of"):
        data.load("cifar10", tmp_path)
    write(tmp_path / "two", test=arrays(2))
    with pytest.raises(LocalgradError, match=r"several folders .*\(one, two\)"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("option", ["limit", "test_limit"])
@pytest.mark.parametrize("value", [0, -3, 1.5, "10", True])
def test_limits_are_counts(option, value):
    with pytest.raises(LocalgradError, match=f"{option} must be a whole number of at least 1"):
        data.load("digits", **{option: value})


def test_unknown_names():
    with pytest.raises(LocalgradError, match=r"'cifar-10': did you mean 'cifar10'\? known are "):
        data.load("cifar-10")
    with pytest.raises(LocalgradError, match="'zzz': known are digits, cifar10"):
        data.load("zzz")


@pytest.mark.parametrize(
    ("module", "name"),
    [("sklearn.datasets", "sklearn"), ("pyarrow.parquet", "pyarrow"), ("PIL.Image", "PIL")],
)
def test_missing_packages_name_the_extra(tmp_path, monkeypatch, module, name):
    write(tmp_path, arrays(2), arrays(2))
    monkeypatch.setitem(sys.modules, module, None)
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
