"""Data sets, in memory on the device that trains or streamed by worker processes."""

from __future__ import annotations

from localgrad.data.augment import Draws, Normalise, crop_and_flip
from localgrad.data.batches import Batches
from localgrad.data.catalogue import load, names
from localgrad.data.dataset import Dataset
from localgrad.data.image_set import ImageSet
from localgrad.data.stream import StreamedBatches, StreamedSet
from localgrad.data.text import TextDataset, load_text
from localgrad.data.windows import TokenBatches, Windows

__all__ = [
    "Batches",
    "Dataset",
    "Draws",
    "ImageSet",
    "Normalise",
    "StreamedBatches",
    "StreamedSet",
    "TextDataset",
    "TokenBatches",
    "Windows",
    "crop_and_flip",
    "load",
    "load_text",
    "names",
]
