"""Arguments: a command, flags of the command line itself, and dotted options of the config."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from localgrad.cli.commands import COMMANDS, FLAGS
from localgrad.errors import LocalgradError
from localgrad.experiment.config import build_config, keys
from localgrad.experiment.same_run import FREE
from localgrad.experiment.tree import override, read_options
from localgrad.experiment.yaml_text import loads

_OPEN = ("method.", "network.")  # their options are checked where they are built
_NOTHING = ("null", "None")


@dataclass
class Arguments:
    """What the user asked for."""

    command: str | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    options: list[tuple[str, Any]] = field(default_factory=list)
    operands: list[str] = field(default_factory=list)

    def tree(self) -> dict[str, Any]:
        """Return the options as a nested tree: a file's, then the command line's.

        The file is ``--config``; or, where a run is resumed with options that change no number,
        the configuration that its folder holds.
        """
        kept = self._kept()
        file = self.flags.get("config", kept)
        tree = {} if file is None else read_options(file)
        if kept is not None:
            _check_kept(tree, kept)
        for key, value in sorted(self.options, key=lambda option: not option[0].endswith(".name")):
            override(tree, key, value)
        return tree

    def _kept(self) -> Path | None:
        given = dict(self.options)
        if "resume" not in self.flags or "config" in self.flags or given.get("out") is None:
            return None
        if not set(given) <= set(FREE):
            return None
        kept = Path(given["out"]) / "config.yaml"
        return kept if kept.exists() else None


def _check_kept(tree: dict[str, Any], path: Path) -> None:
    try:
        build_config(tree)
    except LocalgradError as error:
        raise LocalgradError(f"{path}: {error}") from error


def parse(words: list[str]) -> Arguments:
    """Read ``command --flag --dotted.option value ...``.

    Raises:
        LocalgradError: an unknown command or option (the near match is named), or a value that is
            missing or out of place.

    >>> parse(["train", "--epochs", "5", "--resume"])
    Arguments(command='train', flags={'resume': True}, options=[('epochs', 5)], operands=[])
    """
    found = Arguments()
    given: list[tuple[str, str | None]] = []
    rest = list(words)
    while rest:
        word = "--help" if rest[0] == "-h" else rest[0]
        del rest[0]
        if not word.startswith("--"):
            if found.command is not None:
                if not COMMANDS[found.command].operands:
                    raise LocalgradError(f"{word!r} is not expected here: options start with --")
                found.operands.append(word)
                continue
            found.command = _known(word, list(COMMANDS), "command", "localgrad --help")
            continue
        key, equals, text = word[2:].partition("=")
        value: str | None = text if equals else None
        takes_value = key not in FLAGS or FLAGS[key].kind != "switch"
        if value is None and takes_value and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        given.append((key, value))
    for key, value in given:
        if _is_flag(key, found.command):
            found.flags[key] = _flag(key, value)
        else:
            found.options.append((key, _option(key, value, found.command)))
    if found.command is not None and "help" not in found.flags:
        _check_taken(found.command, found)
    return found


def _is_flag(key: str, command: str | None) -> bool:
    """Whether the key is a flag here; one that is an option elsewhere belongs to its commands."""
    if key not in FLAGS:
        return False
    return key not in dict(keys()) or command in FLAGS[key].commands


def _check_taken(command: str, found: Arguments) -> None:
    what = COMMANDS[command]
    if what.operands and not found.operands and "list" not in found.flags:
        raise LocalgradError(f"{command} needs {what.operands}: {what.example}")
    for key in found.flags:
        takers = [name for name in FLAGS[key].commands if name in COMMANDS]
        if command not in takers:
            raise LocalgradError(f"{command} takes no --{key}: it is for {' and '.join(takers)}")
    for key, _ in found.options:
        if not COMMANDS[command].reads(key):
            hint = "" if command == "list" else f": see localgrad {command} --help"
            raise LocalgradError(f"{command} takes no --{key}{hint}")


def _flag(key: str, value: str | None) -> str | bool:
    kind = FLAGS[key].kind
    if kind == "switch":
        if value is not None:
            raise LocalgradError(f"--{key} takes no value, got {value!r}")
        return True
    if not value:
        raise LocalgradError(f"--{key} needs a {'file' if kind == 'file' else 'value'}")
    return value


def _option(key: str, value: str | None, command: str | None) -> Any:
    known = dict(keys())
    if key in ("method", "network"):
        raise LocalgradError(f"unknown option --{key}; did you mean --{key}.name?")
    if key not in known and (not key.startswith(_OPEN) or key.endswith(".")):
        see = f"localgrad {command or 'COMMAND'} --help"
        _known(key, [*FLAGS, *known], "option", see, "--")
    kind = known[key].annotation if key in known else None
    if value is None:
        need = "true or false" if kind is bool else "a value"
        raise LocalgradError(f"--{key} needs {need}")
    try:
        return _plain(kind, value, key)
    except LocalgradError as error:
        raise LocalgradError(f"--{key}: {value!r} cannot be read: {error}") from error


def _plain(kind: Any, text: str, key: str) -> Any:
    """Return the value of the option: text stays text where the option's kind is text."""
    optional = get_origin(kind) is UnionType  # such as str | None
    if optional and text in _NOTHING:
        return None
    inner = get_args(kind)[0] if optional else kind
    if inner is str:
        return text
    if get_origin(inner) is list and not text.startswith("["):
        text = f"[{text}]"
    if key == "cuts":
        return _labels(text)
    return loads(text)


def _labels(text: str) -> Any:
    """Return a list of unit labels: 1.10 is a label, 3 a number."""
    items = [item.strip().strip("'\"") for item in text.strip("[]").split(",")]
    return [int(item) if item.isdecimal() else item for item in items if item]


def _known(word: str, known: list[str], kind: str, see: str, prefix: str = "") -> str:
    if word in known:
        return word
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not near:  # the last part may be right: --lr, --limit
        near = [key for key in known if key.rpartition(".")[2] == word][:1]
    hint = f"did you mean {prefix}{near[0]}?" if near else f"see {see}"
    if kind == "command" and not near:
        hint = f"choose from {', '.join(known)}"
    raise LocalgradError(f"unknown {kind} {prefix}{word}; {hint}")
