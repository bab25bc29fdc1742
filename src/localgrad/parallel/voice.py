"""One message a run: the processes settle who of them speaks."""

from __future__ import annotations

import os
import time

from torch import distributed as dist

from localgrad.parallel.notes import Notes

ALIKE = 3.0  # seconds in which the others may say the same


def to_be_said(text: str, own: bool = True) -> str | None:
    """Return what this process has to say of why the run ends; None where another one does.

    Args:
        text: one sentence.
        own: something went wrong here, and not in another process that was lost. Where the
            processes had met, and the others do not say the same, the rank is named.
    """
    notes = Notes.find()
    if notes is None:
        return text
    rank, size = os.environ.get("RANK", "0"), int(os.environ["WORLD_SIZE"])
    try:
        if own:
            notes.put(f"error/{rank}", text)
            if dist.is_initialized() and not _all_say(notes, text, size):
                text = f"rank {rank}: {text}"
        return text if notes.first("word", rank) == rank else None
    except RuntimeError:  # the launcher is gone
        return text


def _all_say(notes: Notes, text: str, size: int) -> bool:
    names = [f"error/{rank}" for rank in range(size)]
    end = time.monotonic() + ALIKE
    while not notes.has(*names):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return all(found == text for found in notes.several(names))
