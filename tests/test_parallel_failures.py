"""Processes that are lost, or fail, or cannot begin: all end, and one of them says why, once."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from localgrad import LocalgradError
from localgrad.parallel import voice
from localgrad.parallel.mesh import Mesh
from localgrad.parallel.notes import Notes
from localgrad.parallel.roll import CLOSED, LATE, RankLostError, Roll
from test_parallel_training import together

TWO = {"parallel.blocks": 2}
FOUR = {"parallel.blocks": 2, "parallel.data": 2, "method.name": "greedy", "data.drop_last": "true"}


TEXT = {"data.name": "text", "data.path": "some.txt", "data.context": 8, "network.name": "gpt",
        "network.layers": 3, "network.width": 8, "network.heads": 2, "ties": "untie"}  # fmt: skip
#: processes, what happens, options: exit codes, the one line
LOST: list[tuple[int, str, list[int], str]] = [
    (2, "1:die:4", [2, -9], "rank 1 was lost after step {}: it closed the connection"),
    (2, "0:die:4", [-9, 2], "rank 0 was lost after step {}: it closed the connection"),
    (4, "3:die:3", [2, 2, 2, -9], "rank 3 was lost after step {}: it closed the connection"),
    (4, "1:stop:3", [2, -9, 2, 2], "rank 1 was lost after step {}: it did not answer in time"),
    (2, "1:sleep:3", [2, 2], "rank 1 was lost after step {}: it did not answer in time"),
    (2, "1:no_memory:3", [2, 2], "rank 1: no room for 3 bytes: lower --batch_size, or cut into"),
    (2, "0:refuse:2", [2, 2], "rank 0: an image cannot be read"),
    (2, "1:fault:3", [2, 1], "rank 1: KeyError: 'a fault of the program'"),
]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("-", {"parallel.blocks": 3}, "parallel.blocks 3 x parallel.data 1 = 3 processes, but 2 were"),
    ("-", {"parallel.blocks": 1}, "torchrun has started 2 processes, but parallel.blocks x"),
    ("-", {**TWO, "blocks": 1}, "2 parts, but backlink has 1 group of blocks that can be apart"),
    ("-", {"parallel.data": 2, "data.limit": 83, "batch_size": 20}, "the last batch of 3 images"),
    ("-", {"parallel.data": 2, "batch_size": 21}, "parallel: a batch_size of 21 does not divide"),
    (
        "-",
        {**TWO, "parallel.memory": "1KiB"},
        "3 groups of blocks do not fit on 2 ranks of",
    ),
    ("-", {**TWO, "blokcs": 3}, "unknown option --blokcs"),
    ("1:path:none", {**TWO, **TEXT}, "rank 1: "),
    ("1:path:longer", {**TWO, **TEXT}, "rank 1 differs from rank 0 in data (train_tokens) ("),
    ("1:path:other", {**TWO, **TEXT}, "rank 1 differs from rank 0 in train tokens ("),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SimpleNamespace]:
    """All of them, by what happens and what is expected."""
    folder = tmp_path_factory.mktemp("failures")
    texts = {"here": "some " * 300, "longer": "some " * 400, "other": "emos " * 300}
    for name, content in texts.items():
        (folder / name).mkdir()
        (folder / name / "some.txt").write_text(content, encoding="utf-8")
    cases: dict[str, tuple[int, str, dict[str, Any]]] = {}
    for size, what, _, message in LOST:
        waits = 6.0 if "stop" in what or "sleep" in what else 30.0
        grid = TWO if size == 2 else FOUR
        cases[what + message] = size, what, {**grid, "parallel.timeout": waits}
    for what, changed, message in REFUSED:
        cases[what + message] = 2, what.replace("path:", f"path:{folder}/"), changed
    given = [
        (size, what, {**changed, "out": folder / f"run{number}"}, [])
        for number, (size, what, changed) in enumerate(cases.values())
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCALGRAD_DATA", str(folder / "here"))
        found = together(*given)
    for number, run in enumerate(found):
        run.folder = folder / f"run{number}"
    return dict(zip(cases, found, strict=True))


def the_line(run: SimpleNamespace) -> str:
    lines = [line for line in run.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, run.err
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize(("size", "what", "codes", "message"), LOST)
def test_one_process_says_which_one_was_lost(
    size: int, what: str, codes: list[int], message: str, runs: dict[str, SimpleNamespace]
) -> None:
    run = runs[what + message]
    line = the_line(run)
    after = int(what.rpartition(":")[2])
    # a neighbour may be a step ahead of what is lost, or one behind
    starts = [message.format(step) for step in range(after - 2, after + 3)]
    assert any(line.startswith(start) for start in starts), line
    assert (run.codes, run.left) == (codes, 0)
    assert ("Traceback" in run.err) == ("fault" in what)
    assert not (run.folder / "summary.json").exists()


@pytest.mark.parametrize(("what", "changed", "message"), REFUSED)
def test_one_process_says_what_cannot_be(
    what: str, changed: dict[str, Any], message: str, runs: dict[str, SimpleNamespace]
) -> None:
    run = runs[what + message]
    assert the_line(run).removeprefix(": ").startswith(message)
    assert (run.codes, run.left) == ([2, 2], 0)
    assert "Traceback" not in run.err
    assert not run.folder.exists()


def test_a_port_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                            "MASTER_PORT": str(other.getsockname()[1])}.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        with pytest.raises(LocalgradError, match=r"cannot be reached: .*; is the port in use, or"):
            Mesh.start(2, 1, "cpu", timeout=1)


# --- the roll, without processes


class OneStore:
    """A store in this process, as torch's are."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    def set(self, name: str, text: str) -> None:
        self.held[name] = text

    def compare_set(self, name: str, expected: str, text: str) -> bytes:
        if self.held.get(name, "") == expected:
            self.held[name] = text
        return self.held[name].encode()

    def check(self, names: list[str]) -> bool:
        return all(name in self.held for name in names)

    def get(self, name: str) -> bytes:
        return self.held[name].encode()

    def multi_get(self, names: list[str]) -> list[bytes]:
        return [self.get(name) for name in names]

    def delete_key(self, name: str) -> None:
        self.held.pop(name, None)


def rolls(monkeypatch: pytest.MonkeyPatch, size: int, steps: list[int]) -> list[Roll]:
    monkeypatch.setattr("localgrad.parallel.roll.ANSWERS", 0.1)
    store: Any = OneStore()
    found = [Roll(Notes(store), rank, size, 1.0) for rank in range(size)]
    for one, step in zip(found, steps, strict=True):
        one.progress = lambda step=step: step  # type: ignore[misc]
    return found


def answer(one: Roll) -> None:
    assert one._notes is not None
    one._answer(one._notes)


def test_who_does_not_answer_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the neighbour whose connection broke because of it."""
    first, second, _, last = rolls(monkeypatch, 4, [7, 6, 5, 5])
    answer(second)
    answer(last)
    error = first.lost(1, CLOSED)
    assert isinstance(error, RankLostError)
    assert str(error) == "rank 2 was lost after step 5: it closed the connection"
    assert str(last.lost(None, LATE)) == str(error)


def test_who_waits_for_nobody_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = rolls(monkeypatch, 3, [4, 3, 3])
    with second.waiting():
        answer(second)
    answer(third)
    assert str(first.lost(1, LATE)) == "rank 2 was lost after step 3: it did not answer in time"


def test_several_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = rolls(monkeypatch, 3, [4, 3, 3])
    assert str(first.lost(None, CLOSED)).startswith("ranks 1, 2 were lost after step 4: the first")


def test_who_has_left_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, _ = rolls(monkeypatch, 3, [4, 3, 3])
    second.leave()
    assert "rank 2 was lost" in str(first.lost(None, CLOSED))


def test_without_a_launcher_each_says_what_it_has_seen() -> None:
    one = Roll(None, 0, 2, 1.0)
    assert str(one.lost(1, CLOSED)) == "rank 1 was lost after step 0: it closed the connection"
    assert str(one.lost(None, LATE)) == "a process was lost after step 0: it did not answer in time"
    assert not one.all_note("stops")


def test_one_waits_while_another_works(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = rolls(monkeypatch, 2, [0, 0])
    done: list[int] = []
    first.meanwhile(0, lambda: done.append(1))
    second.meanwhile(0, lambda: done.append(2))
    assert done == [1]
    error = first.lost(1, CLOSED)
    with pytest.raises(RankLostError, match="rank 1 was lost") as found:
        second.meanwhile(0, lambda: done.append(3))
    assert str(found.value) == str(error)


def test_alone_one_says_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert voice.to_be_said("something") == "something"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")  # nobody is there
    assert voice.to_be_said("something") == "something"
