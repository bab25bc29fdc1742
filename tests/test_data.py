from __future__ import annotations

import doctest
import importlib

import pytest
import torch
import torch.nn.functional as F

from localgrad import data
from localgrad.data import Batches, Dataset, Draws, ImageSet, crop_and_flip
from localgrad.errors import LocalgradError

pytest.importorskip("sklearn")

MODULES = (
    *("augment", "batches", "catalogue", "crop", "extra", "image_set", "statistics", "validate"),
)


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


def test_dataset_refuses():
    with pytest.raises(LocalgradError, match="toy test: row 2 has label 2, but there are 2 cla"):
        dataset(classes=("a", "b"), train=image_set(2))
    with pytest.raises(LocalgradError, match=r"\(3, 8, 8\).* but test images \(3, 9, 8\)"):
        dataset(test=image_set(7, height=9))


# --- augmentation


def slow_crop_and_flip(images, index, draws, pad, padding):
    height, width = images.shape[1:3]
    done = []
    for i, row in enumerate(index.tolist()):
        image = images[row].permute(2, 0, 1).double()
        image = F.pad(image[None], (pad,) * 4, mode={"zero": "constant"}.get(padding, padding))[0]
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
@pytest.mark.parametrize("padding", ["reflect", "zero"])
def test_one_gather_is_pad_crop_flip_bitwise(height, width, channels, pad, flip, padding):
    images = image_set(30, height, width, channels).images
    generator = torch.Generator().manual_seed(1)
    index = torch.randint(0, 30, (64,), generator=generator)
    draws = Draws.random(64, pad, flip, generator)
    fast = crop_and_flip(images, index, draws, pad, padding)
    assert torch.equal(fast, slow_crop_and_flip(images, index, draws, pad, padding))
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


@pytest.mark.parametrize("start", [1, 3, 4])
def test_an_epoch_can_begin_at_any_batch(start):
    ours = batches(shuffle=True, pad=2, flip=True)
    whole = list(ours.epoch(1))
    rest = list(ours.epoch(1, start))
    assert len(rest) == len(whole) - start
    for (x, y), (other, labels) in zip(rest, whole[start:], strict=True):
        assert torch.equal(x, other)
        assert torch.equal(y, labels)


def test_first_is_the_first_batch_of_epoch_0():
    ours = batches(shuffle=True, pad=2)
    assert all(torch.equal(*pair) for pair in zip(ours.first(), next(ours.epoch(0)), strict=True))


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


def test_digits_without_the_file_of_scikit_learn(monkeypatch):
    """Where another version keeps it elsewhere, scikit-learn is asked."""
    whole = data.load("digits")
    monkeypatch.setattr(data.digits, "find_spec", lambda name: None)
    again = data.load("digits")
    for part, other in ((whole.train, again.train), (whole.test, again.test)):
        assert torch.equal(part.images, other.images)
        assert torch.equal(part.labels, other.labels)


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
    with pytest.raises(LocalgradError, match="digits is held in memory"):
        data.load("digits", stream=True)


def test_digits_of_another_size_and_in_colour():
    large = data.load("digits", limit=5, size=32)
    assert (large.image_shape, large.label) == ((1, 32, 32), "digits 32x32")
    plain, colour = data.load("digits", limit=5), data.load("digits", limit=5, channels="rgb")
    assert (colour.image_shape, colour.mean) == ((3, 8, 8), plain.mean * 3)
    assert torch.equal(colour.train.images, plain.train.images.expand(5, 8, 8, 3))


@pytest.mark.parametrize("option", ["limit", "test_limit", "size"])
@pytest.mark.parametrize("value", [0, -3, 1.5, "10", True])
def test_limits_are_counts(option, value):
    with pytest.raises(LocalgradError, match=f"{option} must be a whole number of at least 1"):
        data.load("digits", **{option: value})


@pytest.mark.parametrize("option", ["channels", "crop", "on_corrupt"])
def test_words_are_known_ones(option):
    with pytest.raises(LocalgradError, match=f"{option} must be one of '.*; got 'blue'"):
        data.load("digits", **{option: "blue"})


def test_unknown_names():
    with pytest.raises(LocalgradError, match=r"'cifar-10': did you mean 'cifar10'\? known are "):
        data.load("cifar-10")
    with pytest.raises(LocalgradError, match="'zzz': known are digits, cifar10, cifar100, svhn"):
        data.load("zzz")
