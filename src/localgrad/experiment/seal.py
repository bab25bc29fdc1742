"""A file's own digest, in the comment of its zip archive: any changed bit is found.

``torch.save`` writes a zip archive, and ``torch.load`` checks no checksum of what it reads. The
comment at an archive's end is read by neither; here it holds the SHA-256 of everything before it.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

_MARK = b"localgrad sha256 "
_LENGTH = len(_MARK) + 64
_END, _END_LENGTH = b"PK\x05\x06", 22  # the archive's last record; its last 2 bytes: of the comment


class SealError(ValueError):
    """The file is not what was written."""


def seal(path: Path) -> None:
    """Append the digest of an archive to it."""
    with open(path, "r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(_LENGTH.to_bytes(2, "little"))
        size = file.tell()
        digest = _digest(file, size)
        file.seek(size)
        file.write(_MARK + digest)


def check_seal(path: Path) -> None:
    """Hold a file against the digest that it carries.

    An archive that ends without a comment is one of before there were digests, and passes.

    Raises:
        SealError: the file is not an archive, or not the one that was written.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            raise SealError("it is empty")
        file.seek(0)
        if file.read(4) != b"PK\x03\x04":
            raise SealError("it is no archive of torch.save's present format")
        if _ends_at(file, size, comment=0):
            return
        start = size - _LENGTH
        if start < _END_LENGTH or not _ends_at(file, start, _LENGTH):
            raise SealError("its end is missing")
        file.seek(start)
        written = file.read()
        if written != _MARK + _digest(file, start):
            raise SealError("its content has another digest than was written")


def _ends_at(file: io.BufferedReader, position: int, comment: int) -> bool:
    file.seek(max(0, position - _END_LENGTH))
    record = file.read(_END_LENGTH)
    return record[:4] == _END and record[-2:] == comment.to_bytes(2, "little")


def _digest(file: io.BufferedRandom | io.BufferedReader, size: int) -> bytes:
    """Return the digest of the first ``size`` bytes, in hexadecimal."""
    found, left = hashlib.sha256(), size
    file.seek(0)
    while left:
        piece = file.read(min(left, 2**20))
        if not piece:
            raise SealError("it became shorter while it was read")
        found.update(piece)
        left -= len(piece)
    return found.hexdigest().encode()
