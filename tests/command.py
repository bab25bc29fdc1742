"""The command line as the tests call it: in this process, on a small network and few images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from localgrad.cli import main

SMALL: dict[str, Any] = {
    "network.name": "resnet20",
    "network.width": 4,
    "data.limit": 96,
    "data.test_limit": 40,
    "batch_size": 32,
    "epochs": 1,
    "device": "cpu",
}
COMPARE: dict[str, Any] = {**SMALL, "data.limit": 64, "methods": "backprop,greedy", "repeats": 5}


def words(options: dict[str, Any]) -> list[str]:
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


def train(out: Path, *more: str, **changed: Any) -> int:
    return main(["train", *words({**SMALL, **changed}), "--out", str(out), *more])


def compare(out: Path, *more: str, **changed: Any) -> int:
    return main(["compare", *words({**COMPARE, **changed}), "--out", str(out), *more])


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The epochs, without what a clock measured."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [json.loads(line) for line in lines]
    for epoch in epochs:
        del epoch["seconds"], epoch["images_per_second"]
    return epochs


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def error_line(capsys: Any) -> str:
    """The one line on stderr."""
    captured = capsys.readouterr().err
    assert captured.startswith("error: "), captured
    assert captured.count("\n") == 1, captured
    assert "Traceback" not in captured
    return str(captured.strip())
