"""From options of the data to a data set and its batches."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from localgrad.data import (
    Batches,
    Dataset,
    StreamedBatches,
    TextDataset,
    TokenBatches,
    load,
    load_text,
)
from localgrad.data.held_out import of_text
from localgrad.experiment.config import Config

AnyBatches = Batches | StreamedBatches | TokenBatches
TEST_BYTES = 2**26  # of the images of a test batch, 111 of 224x224x3
TEST_TOKENS = 8192  # a batch of a text when testing


def load_data(config: Config, validation: float | None = None) -> Dataset | TextDataset:
    """Read the data set that the configuration names; ``digits`` has no use for a path.

    Args:
        config: of which ``data`` counts.
        validation: test on this part of the training data; the test data are not read.
    """
    wanted = config.data
    if wanted.name == "text":
        text = load_text(wanted.path, wanted.level, wanted.context, wanted.limit, wanted.test_limit)
        return text if validation is None else of_text(text, validation)
    data = load(
        wanted.name,
        None if wanted.name == "digits" else wanted.path,
        wanted.limit,
        wanted.test_limit,
        size=wanted.size,
        channels=wanted.channels,
        stream=wanted.stream,
        crop=wanted.crop,
        on_corrupt=wanted.on_corrupt,
        validation=validation,
    )
    given = {"pad": wanted.pad, "padding": wanted.padding, "flip": wanted.flip}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(data, **changed)


def batches(
    config: Config, data: Dataset | TextDataset, device: torch.device
) -> tuple[AnyBatches, AnyBatches]:
    """Training and test batches."""
    wanted = config.data
    if isinstance(data, TextDataset):
        shift, drop_last = wanted.augment, wanted.drop_last
        rows = max(1, min(TEST_TOKENS // data.context, len(data.test)))
        return (
            data.train_batches(
                config.batch_size, seed=config.seed, drop_last=drop_last, device=device, shift=shift
            ),
            data.test_batches(rows, device=device),
        )
    shared: dict[str, Any] = {
        "device": device,
        "channels_last": config.channels_last,
        "workers": config.data.workers,
        "prefetch": config.data.prefetch,
    }
    train = data.train_batches(
        config.batch_size,
        seed=config.seed,
        drop_last=config.data.drop_last,
        augment=config.data.augment,
        **shared,
    )
    room = TEST_BYTES // (4 * math.prod(data.image_shape))
    test = data.test_batches(max(1, min(1000, len(data.test), room)), **shared)
    return train, test
