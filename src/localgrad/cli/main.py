"""``localgrad COMMAND ...``: from words to an exit code."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from importlib import import_module
from typing import Any

import torch

from localgrad.cli.interrupt import CtrlC
from localgrad.cli.last_word import left, say
from localgrad.errors import LocalgradError
from localgrad.parallel.roll import RankLostError
from localgrad.parallel.voice import to_be_said
from localgrad.starting import INTERRUPTED

FAULT, MISTAKE = 1, 2

# import name -> extra that installs it; the rest comes with torch
_EXTRAS = {
    "pydantic": "cli",
    "yaml": "cli",
    "rich": "cli",
    "safetensors": "cli",
    "numpy": "cli",
    "jinja2": "report",
    "matplotlib": "report",
    "optuna": "search",
    "sqlalchemy": "search",
}


def main(words: list[str] | None = None) -> int:
    """Run a command; return the exit code.

    0: done. 1: the audit found a reach other than the declared one, or some of several runs failed
    and the others came to their end. 2: a mistake in what was
    asked, or a process that was lost: one line on stderr, of one process where they are several.
    130: stopped by Ctrl-C, with the state saved.
    """
    ctrl_c = CtrlC(process=words is None)
    words = sys.argv[1:] if words is None else words
    try:
        ctrl_c.begin()
        code = _run(words)
        ctrl_c.check()
        sys.stdout.flush()
        ctrl_c.over()
        return code
    except (KeyboardInterrupt, Exception) as error:
        if ctrl_c.came or isinstance(error, KeyboardInterrupt):
            return _stopped()
        return _answer(words, error)
    finally:
        ctrl_c.over()


def _stopped() -> int:
    text = to_be_said("stopped at once; what was saved before is kept", own=False)
    if text is not None:
        print(text, file=sys.stderr)
    return left(INTERRUPTED)


def _answer(words: list[str], error: Exception) -> int:
    """Say what went wrong, return the exit code; raise what is a fault of the program."""
    if isinstance(error, LocalgradError):
        return _refuse(words, error, str(error), own=not isinstance(error, RankLostError))
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is not None:
            text = f"{error.name} is missing: pip install 'localgrad[{extra}]'"
            return _refuse(words, error, text)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        reason = str(error).partition(". ")[0].partition("\n")[0] or "out of memory"
        return _no_memory(words, error, reason)
    if isinstance(error, BrokenPipeError):  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if "can't allocate memory" in str(error):  # the CPU's allocator has no error of its own
        return _no_memory(words, error, "out of memory")
    return _fault(error)


def _refuse(words: list[str], error: Exception, text: str, own: bool = True) -> int:
    if "--debug" in words:
        traceback.print_exception(error)
    say(text, own)
    return left(MISTAKE)


def _no_memory(words: list[str], error: Exception, reason: str) -> int:
    batch = "--batch" if "bench" in words else "--batch_size"
    return _refuse(words, error, f"{reason}: lower {batch}, or cut into more --blocks")


def _fault(error: Exception) -> int:
    """A fault of the program: alone, Python shows it; of several processes, one does."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        raise error
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    say(reason, more="".join(traceback.format_exception(error)))
    return left(FAULT)


def _run(words: list[str]) -> int:
    from localgrad.cli import help
    from localgrad.cli.arguments import parse
    from localgrad.cli.commands import COMMANDS
    from localgrad.experiment.config import build_config, to_yaml

    arguments = parse(words)
    flags = arguments.flags
    if "help" in flags or not words:
        print(help.help_text(arguments.command))
        return 0
    if arguments.command is None:
        raise LocalgradError(f"no command: choose from {', '.join(COMMANDS)}")
    if arguments.command == "list":
        from localgrad.cli import listing

        return listing.run(flags)
    if os.getcwd() not in sys.path:  # for import paths, as with python -m
        sys.path.append(os.getcwd())
    typed = shlex.join(["localgrad", *words])
    if arguments.command == "reproduce":  # its configurations are in the table
        from localgrad.cli import reproduce

        return reproduce.run(arguments, typed)
    config = build_config(arguments.tree())
    if "print_config" in flags:
        print(to_yaml(config), end="")
        return 0
    # the other commands and what they need stay out: a command should start soon
    command: Any = import_module(f"localgrad.cli.{arguments.command}")
    operands = [arguments.operands] if arguments.operands else []
    code: int = command.run(*operands, config, flags, typed)
    return code
