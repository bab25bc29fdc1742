"""IDX files to parquet."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")

from image_files import arrays
from localgrad import data
from localgrad.data import idx
from localgrad.errors import LocalgradError


def idx_file(values):
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_idx(folder, zipped=True, train=12, test=5):
    for part, number, seed in (("train", train, 0), ("t10k", test, 1)):
        images = arrays(number, (28, 28), seed)
        labels = np.arange(number, dtype=np.uint8) % 10
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_file(values)
            path = folder / f"{part}-{name}-ubyte"
            if zipped:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)
    return folder


@pytest.mark.parametrize("zipped", [True, False])
def test_round_trip(tmp_path, zipped, capsys):
    write_idx(tmp_path, zipped)
    out = tmp_path / "new" / "out"
    assert idx.main([str(tmp_path), str(out)]) == 0
    written = capsys.readouterr().out.split()
    assert written == [str(out / f"{split}-00000-of-00001.parquet") for split in ("train", "test")]
    found = data.load("fashion-mnist", out)
    assert torch.equal(found.train.images[..., 0], torch.from_numpy(arrays(12, (28, 28))))
    assert torch.equal(found.test.images[..., 0], torch.from_numpy(arrays(5, (28, 28), 1)))
    assert found.train.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert found.classes == data.specs.FASHION_MNIST_CLASSES
    assert (found.label, found.source_format) == ("fashion-mnist", "PNG")


def test_other_class_names(tmp_path):
    write_idx(tmp_path)
    out = str(tmp_path / "out")
    assert idx.main([str(tmp_path), out, "--classes", "a,b,c,d,e,f,g,h,i,j"]) == 0
    assert data.load("parquet", tmp_path / "out").classes == tuple("abcdefghij")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (None, "no train-images-idx3-ubyte or train-images-idx3-ubyte.gz: .*dataset-fashion-mnist"),
        (b"hello", "not an IDX file of unsigned bytes"),
        (struct.pack(">HBB", 0, 13, 3), "not an IDX file of unsigned bytes"),
        (struct.pack(">HBBI", 0, 8, 3, 5), "ends within its header"),
        (struct.pack(">HBBIII", 0, 8, 3, 2, 2, 2) + b"1234567", "7 bytes, where 8 .*2x2x2"),
        (idx_file(arrays(11, (28, 28))), r"shape \(12,\) does not fit the images' \(11, 28, 28\)"),
        (idx_file(np.arange(12, dtype=np.uint8)), "does not fit the images'"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message, capsys):
    write_idx(tmp_path, zipped=False)
    file = tmp_path / "train-images-idx3-ubyte"
    file.unlink() if damage is None else file.write_bytes(damage)
    assert idx.main([str(tmp_path), str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    with pytest.raises(LocalgradError, match=message):
        idx.convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_label_without_a_name_and_a_cut_archive(tmp_path):
    write_idx(tmp_path)
    with pytest.raises(LocalgradError, match=r"has label 9, but 2 class names: pass --classes"):
        idx.convert(tmp_path, tmp_path / "out", ["a", "b"])
    file = tmp_path / "train-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(LocalgradError, match=r"labels-idx1-ubyte.gz: cannot be read"):
        idx.convert(tmp_path, tmp_path / "out")


def test_an_output_that_cannot_be_written(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(LocalgradError, match="cannot be written"):
        idx.convert(tmp_path, tmp_path / "out")
