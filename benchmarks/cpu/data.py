"""Images per second of the data pipeline alone, without a network.

    python benchmarks/cpu/data.py [--path FOLDER] [--batch-size 128] [--repeats 7] [--json FILE]

Each case runs whole epochs (shuffle, crop, flip, normalise) over a set in memory, on one thread,
and an evaluation pass (normalise only). One epoch warms up; the figure is the median of the
repeats, and the cases take turns so that a busy moment falls on all of them. With ``--path``, a
folder of CIFAR-10's parquet files, or LOCALGRAD_DATA, reading and decoding it is timed as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from localgrad.data import Batches, ImageSet, load
from localgrad.experiment import environment

LEAST_REPEATS = 5


def random_set(number: int, height: int, width: int, channels: int) -> ImageSet:
    """Random pixels: the pipeline's cost depends on shapes alone."""
    images = torch.randint(0, 256, (number, height, width, channels), dtype=torch.uint8)
    return ImageSet(images, torch.randint(0, 10, (number,)))


def pipeline(images: ImageSet, batch_size: int, pad: int, flip: bool) -> Batches:
    """The batches that training would take."""
    channels = images.images.shape[3]
    mean, std = (0.5,) * channels, (0.25,) * channels
    return Batches(images, batch_size, mean=mean, std=std, pad=pad, flip=flip, shuffle=True)


def images_per_second(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Run through ``batches`` once."""
    start = time.perf_counter()
    images = sum(len(y) for _, y in batches)
    return images / (time.perf_counter() - start)


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
    size = options.batch_size
    sets = {
        "digits shape, 8x8x1": pipeline(random_set(1438, 8, 8, 1), size, pad=1, flip=False),
        "CIFAR shape, 32x32x3": pipeline(random_set(50_000, 32, 32, 3), size, pad=4, flip=True),
    }
    load_seconds = None
    if options.path or os.environ.get("LOCALGRAD_DATA"):
        start = time.perf_counter()
        cifar10 = load("cifar10", options.path)
        load_seconds = time.perf_counter() - start
        sets[cifar10.label] = cifar10.train_batches(size)

    speeds: dict[str, list[float]] = {}
    for run in range(options.repeats + 1):
        for name, batches in sets.items():
            # The run's number as the epoch's, so that no epoch comes twice.
            for mode, epoch in (("training", batches.epoch(run)), ("eval", batches.evaluation())):
                speeds.setdefault(f"{name}, {mode}", []).append(images_per_second(epoch))

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
        print(f"{row['case']:<40} {row['images_per_second']:>12,.0f} images/s")
    if load_seconds is not None:
        print(f"{'read and decode CIFAR-10':<40} {load_seconds:>12.2f} s")
    if options.json:
        result = {
            **environment.describe(torch.device("cpu")),
            "n": options.repeats,
            "batch_size": size,
            "load_seconds": load_seconds,
            "rows": rows,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
