"""The help texts."""

from __future__ import annotations

import textwrap
from typing import Any

from localgrad.cli.commands import COMMANDS, FLAGS

_WIDTH = 100
_COLUMN = 30


def help_text(command: str | None) -> str:
    """Return what the commands do, or every flag and option of one command."""
    if command is None:
        return _overview()
    what = COMMANDS[command]
    lines = [f"localgrad {command}: {what.text}", ""]
    options = "" if what.options == () else " [--OPTION VALUE] ..."
    operands = f" {what.operands}" if what.operands else ""
    lines += [f"usage: localgrad {command}{operands} [FLAGS]{options}", "", "flags"]
    lines += [_flag(name) for name, flag in FLAGS.items() if command in flag.commands]
    if options:
        lines += _options(command)
    return "\n".join([*lines, "", f"example: {what.example}"])


def _overview() -> str:
    lines = ["localgrad: train networks in blocks with local gradients", ""]
    lines += ["usage: localgrad COMMAND [--config FILE] [--OPTION VALUE] ...", "", "commands"]
    lines += [_row(name, command.text) for name, command in COMMANDS.items()]
    lines += ["", "localgrad COMMAND --help shows the options of a command.", "", "examples"]
    lines += [f"  {command.example}" for command in COMMANDS.values()]
    lines += ["", "exit codes: 0 done; 1 audit found another reach, or a run of several failed;"]
    lines += ["2 a mistake in what was asked, in one line on stderr; 130 stopped, state saved"]
    return "\n".join(lines)


def _options(command: str) -> list[str]:
    from localgrad.experiment.config import keys

    in_recipes = COMMANDS[command].operands == "TABLE"
    where = (
        "in place of the recipe's" if in_recipes else "on the command line or in the --config file"
    )
    lines = ["", f"options, {where}"]
    section = ""
    for key, info in keys():
        if not COMMANDS[command].reads(key) or (key in FLAGS and command in FLAGS[key].commands):
            continue
        text = info.description or ""
        only, colon, rest = text.partition(": ")
        takers = only.split(", ")
        if colon and takers[0] in COMMANDS:
            if command not in takers:
                continue
            text = rest
        if command == "compare" and key == "method.name":
            continue
        group = key.partition(".")[0] if "." in key else ""
        if group != section:
            section = group
        if not (in_recipes and key == "network.name"):  # it belongs to the row
            lines.append(_row(f"--{key}", text if in_recipes else text + _default(info)))
        if key in ("method.name", "network.name"):
            what = "the rule" if group == "method" else "the network"
            lines.append(_row(f"--{group}.OPTION", f"options of {what}"))
    return lines


def _default(info: Any) -> str:
    default = info.get_default(call_default_factory=True)
    if default is None or default == []:
        return ""
    if isinstance(default, list):
        return f" [{', '.join(map(str, default))}]"
    shown = str(default).lower() if isinstance(default, bool) else default
    return f" [{shown}]"


def _flag(name: str) -> str:
    flag = FLAGS[name]
    return _row(f"--{name}{'' if flag.kind == 'switch' else f' {flag.value}'}", flag.text)


def _row(name: str, text: str) -> str:
    gap = " " * _COLUMN
    return textwrap.fill(
        text, _WIDTH, initial_indent=f"  {name}".ljust(_COLUMN), subsequent_indent=gap
    )
