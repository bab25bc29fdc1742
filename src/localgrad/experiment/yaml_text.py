"""Options as text: YAML in which ``1e-4`` is a number, and a date, ``1:30`` or ``010`` is text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from localgrad.errors import LocalgradError

_PREFIX = "tag:yaml.org,2002:"
_SCALARS = {
    "int": (r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    "float": (
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "null": (r"~|null|Null|NULL|None|", ["~", "n", "N", ""]),
}


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    replaced = {f"{_PREFIX}{kind}" for kind in (*_SCALARS, "timestamp")}
    return {
        first: [(tag, pattern) for tag, pattern in found if tag not in replaced]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()


class _Dumper(yaml.SafeDumper):
    """Quotes just the text that the loader would take for something else."""

    yaml_implicit_resolvers = _resolvers()


for _kind, (_pattern, _first) in _SCALARS.items():
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(
            f"{_PREFIX}{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first)
        )


def loads(text: str) -> Any:
    """Return the plain value that ``text`` stands for.

    >>> loads("1e-4"), loads("[0, true]"), loads("None"), loads("2024-01-31")
    (0.0001, [0, True], None, '2024-01-31')

    Raises:
        LocalgradError: it is not YAML; the message has the line and what is wrong there.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise LocalgradError(f"{where}{problem or str(error).splitlines()[0]}") from error
    except ValueError as error:  # such as a tag whose text does not fit it
        raise LocalgradError(str(error)) from error


def dumps(tree: Any) -> str:
    """Return YAML that :func:`loads` reads back as it was."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a file of options.

    Raises:
        LocalgradError: the file is missing, is not YAML or does not hold options.
    """
    try:
        tree = loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise LocalgradError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LocalgradError(f"{path} is not YAML: it is no text in UTF-8") from error
    except LocalgradError as error:
        raise LocalgradError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        what = "nothing" if tree is None else f"a {type(tree).__name__}"
        raise LocalgradError(f"{path}: expected options (name: value), got {what}")
    return tree
