"""Runs of several that fail while the others go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from localgrad.errors import LocalgradError

FAILED = 1  #: exit code of a command that ends with what some of its runs found


class RunsFailedError(LocalgradError):
    """Some runs failed; the others came to their end.

    Args:
        failed: what the run is called, with the reason.
        runs: how many runs there are in all.
        results: of those that came to their end.
    """

    def __init__(self, failed: dict[str, str], runs: int, results: list[dict[str, Any]]) -> None:
        self.failed, self.results = failed, results
        super().__init__(failed_line(failed, runs))


def failed_line(failed: dict[str, str], runs: int) -> str:
    """Return the line that a command ends with.

    >>> failed_line({"Greedy, seed 0": "the loss of block 1 is not finite"}, 4)
    '1 of 4 runs failed: Greedy, seed 0 (the loss of block 1 is not finite); --resume tries again'
    """
    named = "; ".join(f"{name} ({reason})" for name, reason in failed.items())
    return f"{len(failed)} of {runs} runs failed: {named}; --resume tries again"


def why_failed(run: Callable[[], Any]) -> str | None:
    """Call ``run``; return in a line why it failed, None where it did not.

    What is no fault of a run (the user stops it, an error in the program) passes through.
    """
    try:
        run()
    except LocalgradError as error:
        return " ".join(str(error).split())
    except (MemoryError, torch.OutOfMemoryError):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return "out of memory: lower --batch_size"
    return None
