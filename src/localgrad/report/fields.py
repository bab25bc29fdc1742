"""Reading values out of JSON; what is missing or of the wrong kind is named in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from localgrad.errors import LocalgradError


def get(data: Mapping[str, object], key: str, where: str) -> object:
    """The value of a key that must be there."""
    if key not in data:
        raise LocalgradError(f'{where}: key "{key}" is missing')
    return data[key]


def text(data: Mapping[str, object], key: str, where: str) -> str:
    """A name on one line. Numbers are taken too: a seed is shown, never computed with."""
    value = get(data, key, where)
    if not isinstance(value, str | int) or not str(value).strip():
        raise LocalgradError(f'{where}: key "{key}" must be a name, not {value!r}')
    return " ".join(str(value).split())


def whole(data: Mapping[str, object], key: str, where: str) -> int:
    """An integer."""
    value = get(data, key, where)
    if not isinstance(value, int) or isinstance(value, bool):
        raise LocalgradError(f'{where}: key "{key}" must be an integer, not {value!r}')
    return value


def number(data: Mapping[str, object], key: str, where: str) -> float | None:
    """A number, or None for null and for what is not finite (a diverged loss)."""
    return optional(get(data, key, where), f'{where}: key "{key}"')


def optional(value: object, where: str) -> float | None:
    """A number that may be null."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise LocalgradError(f"{where} must be a number or null, not {value!r}")
    return float(value) if math.isfinite(value) else None


def mapping(value: object, where: str) -> Mapping[str, object]:
    """An object with named values."""
    if not isinstance(value, Mapping):
        raise LocalgradError(f"{where} must be an object, not {type(value).__name__}")
    return value


def sequence(value: object, where: str) -> Sequence[object]:
    """A list."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise LocalgradError(f"{where} must be a list, not {type(value).__name__}")
    return value
