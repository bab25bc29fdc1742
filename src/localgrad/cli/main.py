"""``localgrad COMMAND ...``: from words to an exit code."""

from __future__ import annotations

import os
import shlex
import sys
import traceback

import torch

from localgrad.cli.last_word import left, say
from localgrad.errors import LocalgradError
from localgrad.parallel.roll import RankLostError
from localgrad.parallel.voice import to_be_said

FAULT, MISTAKE, INTERRUPTED = 1, 2, 130

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

    0: done. 1: the audit found a reach other than the declared one. 2: a mistake in what was
    asked, or a process that was lost: one line on stderr, of one process where they are several.
    130: stopped by Ctrl-C, with the state saved.
    """
    words = sys.argv[1:] if words is None else words
    try:
        return _run(words)
    except LocalgradError as error:
        return _refuse(words, str(error), own=not isinstance(error, RankLostError))
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            return _fault(error)
        return _refuse(words, f"{error.name} is missing: pip install 'localgrad[{extra}]'")
    except (MemoryError, torch.OutOfMemoryError) as error:
        reason = str(error).partition(". ")[0].partition("\n")[0] or "out of memory"
        return _no_memory(words, reason)
    except KeyboardInterrupt:
        text = to_be_said("stopped at once; what was saved before is kept", own=False)
        if text is not None:
            print(text, file=sys.stderr)
        return left(INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if "can't allocate memory" in str(error):  # the CPU's allocator has no error of its own
            return _no_memory(words, "out of memory")
        return _fault(error)


def _refuse(words: list[str], text: str, own: bool = True) -> int:
    if "--debug" in words:
        traceback.print_exc()
    say(text, own)
    return left(MISTAKE)


def _no_memory(words: list[str], reason: str) -> int:
    batch = "--batch" if "bench" in words else "--batch_size"
    return _refuse(words, f"{reason}: lower {batch}, or cut into more --blocks")


def _fault(error: Exception) -> int:
    """A fault of the program: alone, Python shows it; of several processes, one does."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        raise error
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    say(reason, more="".join(traceback.format_exception(error)))
    return left(FAULT)


def _run(words: list[str]) -> int:
    from localgrad.cli import (
        analyse,
        audit,
        bench,
        compare,
        help,
        listing,
        plan,
        report,
        reproduce,
        search,
        train,
        transfer,
    )
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
    typed = shlex.join(["localgrad", *words])
    if arguments.operands:
        taking = {"analyse": analyse.run, "report": report.run, "transfer": transfer.run}
        return taking[arguments.command](arguments.operands, config, flags, typed)
    commands = {
        "train": train.run,
        "compare": compare.run,
        "audit": audit.run,
        "bench": bench.run,
        "plan": plan.run,
        "search": search.run,
    }
    return commands[arguments.command](config, flags, typed)
