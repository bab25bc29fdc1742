"""Text as tokens: bytes or characters of a file, held in memory, in windows of one length."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from localgrad.data.validate import check_whole
from localgrad.data.windows import TokenBatches, Windows
from localgrad.errors import LocalgradError

LEVELS = ("byte", "char")
TEST_SHARE = 10  # the last tenth


@dataclass(frozen=True, eq=False)
class TextDataset:
    """A text in two parts: its first nine tenths for training, its last tenth for testing.

    Attributes:
        name: ``"text"``.
        label: the name to print beside results.
        train: windows of the training part.
        test: windows of the test part.
        level: ``"byte"`` or ``"char"``.
        vocabulary: what each token stands for: every byte, or the training part's characters in
            order and then ``None`` for all others.
    """

    name: str
    label: str
    train: Windows
    test: Windows
    level: str
    vocabulary: tuple[int | str | None, ...]

    #: Inputs left out, by name: none.
    skipped: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @property
    def num_classes(self) -> int:
        """Size of the vocabulary."""
        return len(self.vocabulary)

    @property
    def context(self) -> int:
        """Tokens in a window."""
        return self.train.context

    def facts(self) -> dict[str, Any]:
        """What was read, to keep beside a result: plain values."""
        return {
            "level": self.level,
            "classes": self.num_classes,
            "context": self.context,
            "train_tokens": len(self.train.tokens),
            "test_tokens": len(self.test.tokens),
        }

    def decode(self, tokens: Tensor) -> str:
        """Return tokens, ``(number,)``, as text; what is no character becomes U+FFFD."""
        if self.level == "byte":
            return bytes(tokens.tolist()).decode("utf-8", errors="replace")
        return "".join(str(self.vocabulary[t] or "\N{REPLACEMENT CHARACTER}") for t in tokens)

    def train_batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        shift: bool = True,
    ) -> TokenBatches:
        """Shuffled batches of the training part; see :class:`TokenBatches`."""
        return TokenBatches(
            self.train, batch_size, shuffle=True, shift=shift, seed=seed, drop_last=drop_last,
            device=device,
        )  # fmt: skip

    def test_batches(
        self, batch_size: int, *, device: torch.device | str | None = None
    ) -> TokenBatches:
        """Batches of the test part in its own order; see :class:`TokenBatches`."""
        return TokenBatches(self.test, batch_size, device=device)


def load_text(
    path: str | os.PathLike[str] | None,
    level: str = "byte",
    context: int = 128,
    limit: int | None = None,
    test_limit: int | None = None,
) -> TextDataset:
    """Read a text into memory.

    Args:
        path: a file, or a folder whose files (those in folders inside it too, without hidden
            ones and links) are read one after the other in the order of their names; a relative
            path is also looked up in ``LOCALGRAD_DATA``.
        level: what a token is. ``"byte"``: 256 of them, whatever the file holds. ``"char"``: the
            characters of the training part, and one more token for every other character.
        context: tokens in a window.
        limit: train on the first so many windows.
        test_limit: test on the first so many windows.

    Raises:
        LocalgradError: no path, a file that is missing, empty or not UTF-8 (for characters), or
            a text with no whole window of ``context`` tokens in each part.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.txt").write_text("to be or not to be, " * 20)
    ...     text = load_text(folder, level="char", context=16)
    >>> text.num_classes, len(text.train), len(text.test)
    (9, 21, 2)
    >>> x, y = next(text.test_batches(2).epoch(0))
    >>> text.decode(x[0]), text.decode(y[0])
    ('to be or not to ', 'o be or not to b')
    """
    if level not in LEVELS:
        raise LocalgradError(f"level must be 'byte' or 'char'; got {level!r}")
    check_whole("context", context, least=1)
    for option, value in (("limit", limit), ("test_limit", test_limit)):
        if value is not None:
            check_whole(option, value, least=1)
    if path is None:
        raise LocalgradError("text is read from a file or a folder of files: give its path")
    place = _existing(Path(path).expanduser())
    files = [place] if place.is_file() else _files_in(place)
    contents = [_read(file) for file in files]
    if level == "byte":
        points = torch.frombuffer(bytearray(b"".join(contents) or b"\0"), dtype=torch.uint8)
        points = points[: sum(map(len, contents))]
    else:
        points = _characters(files, contents)
    cut = len(points) - len(points) // TEST_SHARE
    train, test = points[:cut], points[cut:]
    unit = "bytes" if level == "byte" else "characters"
    if len(train) < 2 * context or len(test) < context + 1:
        raise LocalgradError(
            f"{place}: {len(points):,} {unit}, of which the last {len(test):,} are for testing, "
            f"are too few for a context of {context}: give a longer text or a smaller context"
        )
    vocabulary: tuple[int | str | None, ...] = tuple(range(256))
    if level == "char":
        known = torch.unique(train)  # sorted
        vocabulary = (*(chr(point) for point in known.tolist()), None)
        train, test = _numbered(train, known), _numbered(test, known)
    data = TextDataset(
        name="text",
        label=f"{place.name} ({unit})",
        train=Windows(train, context, count=len(train) // context - 1),
        test=Windows(test, context, count=(len(test) - 1) // context),
        level=level,
        vocabulary=vocabulary,
    )
    return replace(data, train=data.train.first(limit), test=data.test.first(test_limit))


def _existing(path: Path) -> Path:
    roots = os.environ.get("LOCALGRAD_DATA", "").split(os.pathsep)
    for place in (path, *(Path(root).expanduser() / path for root in roots if root)):
        if place.exists():
            return place.resolve()
    raise LocalgradError(f"{path}: no such file or folder: give that of a text")


def _files_in(folder: Path) -> list[Path]:
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.is_symlink()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]  # fmt: skip
    if not found:
        raise LocalgradError(f"{folder}: no file in it: give a text, or a folder of texts")
    return found


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise LocalgradError(f"cannot read {file}: {error.strerror}") from error


def _characters(files: list[Path], contents: list[bytes]) -> Tensor:
    """Return the texts' code points, ``(number,)``."""
    points = []
    for file, content in zip(files, contents, strict=True):
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise LocalgradError(
                f"{file}: not UTF-8 (byte 0x{content[error.start]:02x} at {error.start}): give "
                "another file, or level byte"
            ) from error
        raw = bytearray(text.encode("utf-32-le"))
        points.append(torch.frombuffer(raw, dtype=torch.int32) if raw else torch.empty(0).int())
    return torch.cat(points)


def _numbered(points: Tensor, known: Tensor) -> Tensor:
    """Return each point's place among the ``known``, or their number where it is none of them."""
    places = torch.searchsorted(known, points).clamp(max=len(known) - 1)
    return torch.where(known[places] == points, places, len(known)).int()
