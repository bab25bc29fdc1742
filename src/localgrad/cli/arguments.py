"""Arguments: a command, flags of the command line itself, and dotted options of the config."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

import yaml

from localgrad.errors import LocalgradError
from localgrad.experiment.config import keys, override, read_yaml

FLAGS = {
    "config": "FILE: options from a YAML file; options on the command line win",
    "resume": "go on where --out stopped; start it if there is nothing yet",
    "json": "FILE: also write what is printed as JSON",
    "plot": "FILE: also write the reach matrix as SVG",
    "print_config": "show the whole tree of options and stop",
    "debug": "show the traceback of an error",
    "quiet": "no progress",
    "help": "show this and stop",
}
_WITH_VALUE = {"config", "json", "plot"}
_OPEN = ("method.", "network.")  # their options are checked where they are built


@dataclass
class Arguments:
    """What the user asked for."""

    command: str | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    options: list[tuple[str, Any]] = field(default_factory=list)

    def tree(self) -> dict[str, Any]:
        """Return the options as a nested tree: the file's, then the command line's."""
        tree = read_yaml(self.flags["config"]) if "config" in self.flags else {}
        for key, value in sorted(self.options, key=lambda option: not option[0].endswith(".name")):
            override(tree, key, value)
        return tree


def parse(words: list[str], commands: list[str]) -> Arguments:
    """Read ``command --flag --dotted.option value ...``.

    Raises:
        LocalgradError: an unknown command or option (the near match is named), or a value that is
            missing or out of place.

    >>> parse(["train", "--epochs", "5", "--resume"], ["train"])
    Arguments(command='train', flags={'resume': True}, options=[('epochs', 5)])
    """
    found = Arguments()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "-h":
            word = "--help"
        if not word.startswith("--"):
            if found.command is not None:
                raise LocalgradError(f"{word!r} is not expected here: options start with --")
            found.command = _near(word, commands, "command")
            continue
        key, equals, text = word[2:].partition("=")
        value: str | None = text if equals else None
        if value is None and rest and not rest[0].startswith("--") and _takes_value(key, rest[0]):
            value = rest.pop(0)
        if key in FLAGS:
            if (value is None) == (key in _WITH_VALUE):
                need = "needs a file" if key in _WITH_VALUE else "takes no value"
                raise LocalgradError(f"--{key} {need}")
            found.flags[key] = True if value is None else value
            continue
        known = [name for name, _ in keys()]
        if key not in known and not key.startswith(_OPEN) or key in ("method", "network"):
            _near(key, [*FLAGS, *known, "method.name", "network.name"], "option", "--")
        if value is None:
            raise LocalgradError(f"--{key} needs a value")
        found.options.append((key, _plain(key, value)))
    return found


def _takes_value(key: str, following: str) -> bool:
    return key in _WITH_VALUE or key not in FLAGS


def _plain(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LocalgradError(f"--{key}: {text!r} cannot be read") from error


def _near(word: str, known: list[str], kind: str, prefix: str = "") -> str:
    if word in known:
        return word
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"; did you mean {prefix}{near[0]}?" if near else f" (see localgrad {prefix}help)"
    if kind == "command" and not near:
        hint = f"; choose from {', '.join(known)}"
    raise LocalgradError(f"unknown {kind} {prefix}{word}{hint}")
