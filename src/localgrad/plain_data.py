"""Dataclasses from plain data, which a person may have edited, and text that one can edit."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from localgrad.errors import LocalgradError

T = TypeVar("T")


def text(data: dict[str, Any]) -> str:
    """Return JSON with a line for each key, and for each object of a list.

    >>> print(text({"name": "x", "sizes": [1, 2], "blocks": [{"start": 0}, {"start": 1}]}))
    {
     "name": "x",
     "sizes": [1, 2],
     "blocks": [
      {"start": 0},
      {"start": 1}
     ]
    }
    <BLANKLINE>
    """
    lines = []
    for key, value in data.items():
        shown = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            shown = "[\n  " + ",\n  ".join(json.dumps(item) for item in value) + "\n ]"
        lines.append(f" {json.dumps(key)}: {shown}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def load(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: the file.
        kind: what it should be, such as "a schedule file".

    Raises:
        LocalgradError: the file is missing, is not JSON, or holds something else.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise LocalgradError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise LocalgradError(f"{path} is not {kind}: {error}") from error
    if not isinstance(data, dict):
        raise LocalgradError(f"{path} is not {kind}: expected an object")
    return data


def read(cls: type[T], data: Any, place: str) -> T:
    """Build the dataclass ``cls`` from a dict of lists, dicts, strings and numbers.

    Args:
        cls: a dataclass; its fields' annotations say what fits.
        data: what a JSON file holds.
        place: what errors call ``data``.

    Raises:
        LocalgradError: a key is missing or unknown, or a value is of the wrong kind.
    """
    if not isinstance(data, dict):
        raise LocalgradError(f"{place} is {data!r}: expected an object")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise LocalgradError(
                f"{place} has an unknown key {key!r}: known are {', '.join(fields)}"
            )
    kinds = get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(kinds[name], data[name], f"{place}: {name}")
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise LocalgradError(f"{place} has no key {name!r}")
    return cls(**values)


def _value(kind: Any, value: Any, place: str) -> Any:
    choices = get_args(kind) if NoneType in get_args(kind) else (kind,)  # X | None
    if value is None and NoneType in choices:
        return None
    kind = choices[0]
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return read(kind, value, place)
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise LocalgradError(f"{place} is {value!r}: expected a list")
        inner = get_args(kind)[0]
        return tuple(_value(inner, item, f"{place} {i}") for i, item in enumerate(value))
    wanted = get_origin(kind) or kind
    fits = isinstance(value, int | float if wanted is float else wanted)
    if not fits or (isinstance(value, bool) and wanted is not bool):
        raise LocalgradError(f"{place} is {value!r}: expected {_WORDS[wanted]}")
    return value


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "an object",
}
