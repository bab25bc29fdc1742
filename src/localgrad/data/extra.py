"""Packages that only reading data needs, imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from localgrad.errors import LocalgradError


def extra(module: str, why: str) -> ModuleType:
    """Import ``module``, an optional dependency.

    Args:
        module: dotted name, such as ``"pyarrow.parquet"``.
        why: what needs it, for the error: ``"to read parquet files"``.

    Raises:
        LocalgradError: if it cannot be imported, with the command that installs it.

    >>> extra("no_such_package.part", "to show an error")
    Traceback (most recent call last):
    localgrad.errors.LocalgradError: to show an error, no_such_package must be installed: \
pip install localgrad[data]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise LocalgradError(
            f"{why}, {package} must be installed: pip install localgrad[data]"
        ) from error


@contextmanager
def no_bars_in_files(datasets: ModuleType) -> Iterator[None]:
    """No progress bars from ``datasets`` where nobody watches: stderr is a file or a pipe."""
    shown = not datasets.are_progress_bars_disabled()
    hide = shown and not sys.stderr.isatty()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()
