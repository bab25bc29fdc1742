"""``localgrad COMMAND ...``: from words to an exit code."""

from __future__ import annotations

import os
import shlex
import sys
import traceback

import torch

from localgrad.errors import LocalgradError

MISTAKE, INTERRUPTED = 2, 130

# import name -> extra that installs it; the rest comes with torch
_EXTRAS = {
    "pydantic": "cli",
    "yaml": "cli",
    "rich": "cli",
    "safetensors": "cli",
    "numpy": "cli",
    "jinja2": "report",
    "matplotlib": "report",
}


def main(words: list[str] | None = None) -> int:
    """Run a command; return the exit code.

    0: done. 1: the audit found a reach other than the declared one. 2: a mistake in what was
    asked, one line on stderr. 130: stopped by Ctrl-C, with the state saved.
    """
    words = sys.argv[1:] if words is None else words
    try:
        return _run(words)
    except LocalgradError as error:
        return _refuse(words, str(error))
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _refuse(words, f"{error.name} is missing: pip install 'localgrad[{extra}]'")
    except (MemoryError, torch.OutOfMemoryError) as error:
        reason = str(error).partition(". ")[0].partition("\n")[0] or "out of memory"
        batch = "--batch" if "bench" in words else "--batch_size"
        return _refuse(words, f"{reason}: lower {batch}, or cut into more --blocks")
    except KeyboardInterrupt:
        print("stopped at once; what was saved before is kept", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _refuse(words: list[str], text: str) -> int:
    if "--debug" in words:
        traceback.print_exc()
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return MISTAKE


def _run(words: list[str]) -> int:
    from localgrad.cli import audit, bench, compare, help, listing, plan, reproduce, train
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
        return listing.run(flags)
    if os.getcwd() not in sys.path:  # for import paths, as with python -m
        sys.path.append(os.getcwd())
    if arguments.command == "reproduce":  # its configurations are in the table
        return reproduce.run(arguments, shlex.join(["localgrad", *words]))
    config = build_config(arguments.tree())
    if "print_config" in flags:
        print(to_yaml(config), end="")
        return 0
    commands = {
        "train": train.run,
        "compare": compare.run,
        "audit": audit.run,
        "bench": bench.run,
        "plan": plan.run,
    }
    return commands[arguments.command](config, flags, shlex.join(["localgrad", *words]))
