"""Small image files in the layouts that are read: parquet as on the hub, folders of classes."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


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


def named(content, names, column="label"):
    """The table with class names, as `datasets` writes them into a file."""
    feature = {"_type": "ClassLabel", "names": list(names)}
    about = json.dumps({"info": {"features": {column: feature}}})
    return content.replace_schema_metadata({b"huggingface": about.encode()})


def write_images(folder, **classes):
    """A folder for each class, with PNG files (or JPEG, where the name says so)."""
    for name, images in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            content = image if isinstance(image, bytes) else encoded(image, "PNG")
            (folder / name / f"{number:03}.png").write_bytes(content)
    return folder
