"""Which process is lost? The others call a roll in the launcher's store, and agree on one answer.

Every process has a thread that writes down now and then that it is there. Who loses another, at a
border or where all work together, raises the alarm; the threads answer with the step that theirs
has done. Who does not answer is the one that was lost, and not the neighbour that gave up because
of it. Where all answer, it is the one that failed by itself, or else the one that waits for nobody.

A process that is stuck in an operation on the device cannot hear of that. A program may therefore
have its thread end it (``ends``); a loop of one's own gets an exception where it next waits.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from localgrad.errors import LocalgradError
from localgrad.parallel.notes import Notes

TICK = 0.25  # seconds between looks
ANSWERS = 3.0  # seconds in which who is there answers
GRACE = 2.0  # seconds in which a process may come to its end by itself
LATE, CLOSED, ENDED = "did not answer in time", "closed the connection", "has ended"


class RankLostError(LocalgradError):
    """A process was lost: the same text in all that are left."""


class Roll:
    """This process's entry in the roll.

    Args:
        notes: what all processes write to; None: each can only say what it has seen.
        rank, size: this process, and the number of all.
        timeout: seconds without a sign after which a process counts as lost.

    Attributes:
        progress: returns the number of steps done.
        ends: ends the process, told why ("": silently); None: nothing but exceptions end it.
        asked: set where a signal asked this process to end, as the launcher does where one is lost.
    """

    def __init__(self, notes: Notes | None, rank: int, size: int, timeout: float) -> None:
        self._notes, self._rank, self._size, self._timeout = notes, rank, size, timeout
        self._left = threading.Event()
        self._answered = self._waits = False
        self._over_since: float | None = None
        self._signs = self._turns = 0
        self._last: dict[int, tuple[str, float]] = {}
        self.progress: Callable[[], int] = lambda: 0
        self.ends: Callable[[str], None] | None = None
        self.asked = threading.Event()

    @classmethod
    def join(cls, rank: int, size: int, timeout: float) -> Roll:
        """Enter the roll; others may look for this process from now on."""
        roll = cls(Notes.find(), rank, size, timeout)
        if roll._notes is not None:
            about = {"host": socket.gethostname(), "pid": os.getpid(), "parent": os.getppid()}
            roll._notes.put(f"about/{rank}", json.dumps(about))
            roll._notes.drop(f"left/{rank}")  # of a grid before this one
            roll._sign(roll._notes)
        return roll

    def listen(self) -> None:
        """Answer and look for the others, in a thread; all have joined."""
        if self._notes is not None and self._size > 1:
            args = (self._notes,)
            threading.Thread(target=self._listen, args=args, name="roll", daemon=True).start()

    def leave(self) -> None:
        """Go, with nothing left to do for the others."""
        self._left.set()
        if self._notes is not None:
            with suppress(RuntimeError):  # nobody is there to know
                self._notes.put(f"left/{self._rank}")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Whoever asks meanwhile is told that this process waits for others."""
        self._waits = True
        yield
        self._waits = False  # whose wait was in vain waits on

    def meanwhile(self, rank: int, does: Callable[[], None]) -> None:
        """Let one process do something; the others wait for it, as long as it is there.

        Raises:
            RankLostError: it is not there any more, or another one is not.
        """
        self._turns += 1
        done = f"done/{self._turns}"
        if self._rank == rank:
            does()
        notes = self._notes
        if notes is None:
            return
        try:
            if self._rank == rank:
                notes.put(done)
                return
            with self.waiting():
                while not notes.has(done):
                    if _over(notes):
                        raise RankLostError(_why(notes))
                    time.sleep(TICK / 10)
        except RuntimeError as error:
            raise self.lost(rank, CLOSED) from error

    def all_note(self, what: str) -> bool:
        """Note something; return whether all the others note it soon."""
        if self._notes is None:
            return False
        self._notes.put(f"{what}/{self._rank}")
        names = [f"{what}/{rank}" for rank in range(self._size)]
        end = time.monotonic() + ANSWERS
        while not self._notes.has(*names):
            if time.monotonic() > end:
                return False
            time.sleep(TICK / 5)
        return True

    def lost(self, peer: int | None, reason: str) -> RankLostError:
        """Return the error for a process that is lost, alike in all that are left.

        Args:
            peer: the one that this process heard nothing of, where it is known.
            reason: how that showed.
        """
        if self._notes is not None:
            with suppress(RuntimeError):  # the launcher is gone, too
                return RankLostError(self._verdict(self._notes, peer, reason))
        return RankLostError(_told([] if peer is None else [peer], self.progress(), reason))

    def _verdict(self, notes: Notes, peer: int | None, reason: str) -> str:
        alarm = {"by": self._rank, "peer": peer, "reason": reason}
        notes.first("alarm", json.dumps(alarm))
        self._answer(notes)
        end = time.monotonic() + ANSWERS
        while missing := self._missing(notes):
            if notes.has("verdict"):
                return notes.get("verdict")
            if time.monotonic() > end:
                break
            time.sleep(TICK / 5)
            self._sign(notes)
        text = notes.first("verdict", self._judged(notes, missing))
        if self.ends is not None:
            _end_here(notes, missing)
        return text

    def _missing(self, notes: Notes) -> list[int]:
        everyone = range(self._size)
        return [r for r in everyone if not (notes.has(f"answer/{r}") or notes.has(f"left/{r}"))]

    def _judged(self, notes: Notes, missing: list[int]) -> str:
        """Return in words who was lost, from the answers."""
        alarm = json.loads(notes.get("alarm"))
        everyone = [rank for rank in range(self._size) if notes.has(f"answer/{rank}")]
        answers = {rank: json.loads(notes.get(f"answer/{rank}")) for rank in everyone}
        step, reason = min(answer["step"] for answer in answers.values()), alarm["reason"]
        if missing:
            return _told(missing, step, reason)
        if notes.has("word") and notes.has(f"error/{notes.get('word')}"):
            rank = notes.get("word")
            return f"rank {rank} failed after step {step}: {notes.get(f'error/{rank}')}"
        at_work = [r for r in everyone if not answers[r]["waits"] and r != alarm["by"]]
        if reason == LATE and at_work:
            return _told(at_work[:1], step, reason)
        return _told([] if alarm["peer"] is None else [alarm["peer"]], step, reason)

    def _answer(self, notes: Notes) -> None:
        if not self._answered:
            self._answered = True
            told = {"step": self.progress(), "waits": self._waits}
            notes.put(f"answer/{self._rank}", json.dumps(told))

    def _sign(self, notes: Notes) -> None:
        self._signs += 1
        notes.put(f"here/{self._rank}", str(self._signs))

    def _listen(self, notes: Notes) -> None:
        while not self._left.wait(TICK):
            try:
                self._sign(notes)
                self._look(notes)
            except RuntimeError:
                if not self._left.is_set() and self.ends is not None:
                    # nothing is left to settle by who speaks: the first one of each machine does
                    first = os.environ.get("LOCAL_RANK", "0") == "0"
                    self.ends("torchrun, which held the store, is gone" if first else "")
                return

    def _look(self, notes: Notes) -> None:
        if notes.has("alarm"):
            self._answer(notes)
        now = time.monotonic()
        if _over(notes):
            self._over_since = now if self._over_since is None else self._over_since
            if now - self._over_since > GRACE and self.ends is not None:
                self.ends(_why(notes))
            return
        silent = self._silent(notes, now)
        if silent is not None:
            self._verdict(notes, silent, ENDED if self.asked.is_set() else LATE)

    def _silent(self, notes: Notes, now: float) -> int | None:
        """Return a process that has given no sign for too long, if there is one."""
        limit = ANSWERS if self.asked.is_set() else max(self._timeout, ANSWERS)
        others = [rank for rank in range(self._size) if rank != self._rank]
        signs = notes.several([f"here/{rank}" for rank in others])
        for rank, sign in zip(others, signs, strict=True):
            before = self._last.get(rank)
            if before is None or before[0] != sign:
                self._last[rank] = sign, now
            elif now - before[1] > limit and not notes.has(f"left/{rank}"):
                return rank
        return None


def _over(notes: Notes) -> bool:
    return notes.has("verdict") or notes.has("word")


def _why(notes: Notes) -> str:
    if notes.has("verdict"):
        return notes.get("verdict")
    return f"rank {notes.get('word')} has ended the run"


def _told(ranks: list[int], step: int, reason: str) -> str:
    names = ", ".join(map(str, ranks))
    if len(ranks) > 1:
        return f"ranks {names} were lost after step {step}: the first one {reason}"
    who = f"rank {names}" if ranks else "a process"
    return f"{who} was lost after step {step}: it {reason}"


def _end_here(notes: Notes, ranks: list[int]) -> None:
    """Leave no process on this machine that hangs, where the same launcher has started it."""
    for rank in ranks:
        about = json.loads(notes.get(f"about/{rank}"))
        here = about["host"] == socket.gethostname() and about["parent"] == os.getppid()
        if here and _parent(about["pid"]) == os.getppid():
            with suppress(ProcessLookupError):
                os.kill(about["pid"], signal.SIGKILL)


def _parent(process: int) -> int | None:
    """Return the parent of a process, where the kernel tells it."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[1])
