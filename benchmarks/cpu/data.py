"""Images per second of the data pipeline alone, beside those of the training step it feeds.

    python benchmarks/cpu/data.py [--path FOLDER] [--batch-size 128] [--repeats 7] [--json FILE]

In memory: whole epochs (shuffle, crop, flip, normalise), and evaluation passes (normalise only),
on one thread. Streamed: epochs over JPEG photographs of 500x375 pixels, made here (smooth
colours with noise, about as many bytes as ImageNet's), cut to 224x224 by worker processes, while
this process only takes the batches. The training step is BP of resnet20 at either size; at
224x224 it costs 2.0 G multiply-adds an image forward, as ResNet-18 does (1.8).

One epoch warms up; the figure is the median of the repeats, and the cases take turns so that a
busy moment falls on all of them. With ``--path``, a folder of CIFAR-10's parquet files, or
LOCALGRAD_DATA, reading and decoding it is timed as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from localgrad import decouple
from localgrad.data import Batches, Dataset, ImageSet, load
from localgrad.experiment import environment
from localgrad.networks import resnet20

LEAST_REPEATS = 5
PHOTOGRAPHS = 1200  # one in five to test
Pairs = Iterable[tuple[Tensor, Tensor]]


def random_set(number: int, height: int, width: int, channels: int) -> ImageSet:
    """Random pixels: the pipeline's cost depends on shapes alone."""
    images = torch.randint(0, 256, (number, height, width, channels), dtype=torch.uint8)
    return ImageSet(images, torch.randint(0, 10, (number,)))


def pipeline(images: ImageSet, batch_size: int, pad: int, flip: bool) -> Batches:
    """The batches that training would take."""
    channels = images.images.shape[3]
    mean, std = (0.5,) * channels, (0.25,) * channels
    return Batches(images, batch_size, mean=mean, std=std, pad=pad, flip=flip, shuffle=True)


def write_photographs(folder: Path, number: int) -> float:
    """Write JPEG files in two classes; returns their mean size in bytes."""
    sizes = []
    for i in range(number):
        coarse = torch.randint(0, 256, (12, 16, 3), dtype=torch.uint8).numpy()
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float()
        noisy = (pixels + 14 * torch.randn(pixels.shape)).clamp(0, 255).byte()
        path = folder / f"class{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noisy.view(375, 500, 3).numpy()).save(path, quality=90)
        sizes.append(path.stat().st_size)
    return statistics.mean(sizes)


def images_per_second(batches: Pairs) -> float:
    """Run through ``batches`` once."""
    start = time.perf_counter()
    images = sum(len(y) for _, y in batches)
    return images / (time.perf_counter() - start)


def training_step(x: Tensor, y: Tensor) -> Callable[[], float]:
    """A step of BP; returns its images per second."""
    model = resnet20(num_classes=10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner = decouple(model, "backprop", example_input=x[:2])
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)

    def run() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        learner.step(x, y)
        optimizer.step()
        return len(x) / (time.perf_counter() - start)

    return run


def cases(
    size: int, photographs: Dataset, cifar10: Dataset | None
) -> dict[str, Callable[[int], float]]:
    """What is measured: a name, and a function of the run's number."""
    found: dict[str, Callable[[int], float]] = {}

    def add(name: str, training: Callable[[int], Pairs], evaluation: Callable[[], Pairs]) -> None:
        # The run's number as the epoch's, so that no epoch comes twice.
        found[f"{name}, training"] = lambda run: images_per_second(training(run))
        found[f"{name}, eval"] = lambda run: images_per_second(evaluation())

    sets = {
        "digits shape, 8x8x1": pipeline(random_set(1438, 8, 8, 1), size, pad=1, flip=False),
        "CIFAR shape, 32x32x3": pipeline(random_set(50_000, 32, 32, 3), size, pad=4, flip=True),
    }
    for name, batches in sets.items():
        add(name, batches.epoch, batches.evaluation)
    if cifar10 is not None:
        train, test = cifar10.train_batches(size), cifar10.test_batches(size)
        add(cifar10.label, train.epoch, test.evaluation)
        first = cifar10.train_batches(size).first()
    else:
        first = sets["CIFAR shape, 32x32x3"].first()
    step = training_step(*first)
    found["training step, resnet20 at 32x32, one thread"] = lambda run: step()
    for workers in (0, 1, 2):
        streamed = photographs.train_batches(32, workers=workers)
        tests = photographs.test_batches(32, workers=workers)
        by = f"{workers} worker{'' if workers == 1 else 's'}" if workers else "in this process"
        add(f"JPEG 500x375 to 224x224, {by}", streamed.epoch, tests.evaluation)
    large = training_step(*photographs.train_batches(16, workers=0).first())
    found["training step, resnet20 at 224x224, one thread"] = lambda run: large()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--path", help="folder of CIFAR-10's parquet files")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7, help=f"at least {LEAST_REPEATS}")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.repeats < LEAST_REPEATS:
        parser.error(f"--repeats must be at least {LEAST_REPEATS}")

    torch.set_num_threads(1)
    torch.manual_seed(0)
    cifar10, load_seconds = None, None
    if options.path or os.environ.get("LOCALGRAD_DATA"):
        start = time.perf_counter()
        cifar10 = load("cifar10", options.path)
        load_seconds = time.perf_counter() - start

    speeds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        jpeg_bytes = write_photographs(Path(folder), PHOTOGRAPHS)
        photographs = load("folder", folder, stream=True)
        measured = cases(options.batch_size, photographs, cifar10)
        for run in range(options.repeats + 1):
            for name, measure in measured.items():
                speeds.setdefault(name, []).append(measure(run))

    rows = [
        {
            "case": name,
            "images_per_second": statistics.median(found[1:]),
            "mean": statistics.mean(found[1:]),
            "std": statistics.stdev(found[1:]),
        }
        for name, found in speeds.items()
    ]
    for row in rows:
        print(f"{row['case']:<50} {row['images_per_second']:>12,.0f} images/s")
    if load_seconds is not None:
        print(f"{'read and decode CIFAR-10':<50} {load_seconds:>12.2f} s")
    if options.json:
        result = {
            **environment.describe(torch.device("cpu")),
            "n": options.repeats,
            "batch_size": options.batch_size,
            "load_seconds": load_seconds,
            "jpeg_bytes": round(jpeg_bytes),
            "rows": rows,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
