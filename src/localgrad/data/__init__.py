"""Data sets held in memory, on the device that trains, with augmentation there."""

from __future__ import annotations

from localgrad.data.augment import Draws, Normalise, crop_and_flip
from localgrad.data.batches import Batches
from localgrad.data.catalogue import load, names
from localgrad.data.image_set import Dataset, ImageSet

__all__ = [
    "Batches",
    "Dataset",
    "Draws",
    "ImageSet",
    "Normalise",
    "crop_and_flip",
    "load",
    "names",
]
