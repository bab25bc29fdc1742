"""Data sets held in memory, on the device that trains, with augmentation there."""

from __future__ import annotations

from localgrad.data.augment import Draws, Normalise, crop_and_flip
from localgrad.data.batches import Batches
from localgrad.data.catalogue import load, names
from localgrad.data.image_set import Dataset, ImageSet
from localgrad.data.text import TextDataset, load_text
from localgrad.data.windows import TokenBatches, Windows

__all__ = [
    "Batches",
    "Dataset",
    "Draws",
    "ImageSet",
    "Normalise",
    "TextDataset",
    "TokenBatches",
    "Windows",
    "crop_and_flip",
    "load",
    "load_text",
    "names",
]
