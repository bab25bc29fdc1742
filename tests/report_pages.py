"""Summaries and an analysis as runs write them, and a page as a reader's browser takes it in."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

RULES = {
    "BP": ("backprop", 1.0),
    "BP + checkpoint unit": ("backprop", 0.31),
    "Greedy": ("greedy", 0.2),
    "DGL": ("dgl", 0.24),
    "BackLink L=1": ("backlink", 0.36),
    "AugLocal d=2": ("auglocal", 0.29),
    "BWBPF": ("bwbpf", 0.19),
}
EVIL = """<script>alert("1")</script> & 'x' $a_b$ | *"""
Result = dict[str, Any]


def result(label: str = "DGL", seed: int = 0, units: int = 4, epochs: int = 3) -> Result:
    method, memory = RULES.get(label, ("dgl", 0.24))
    blocks = 1 if method == "backprop" else units
    accuracy = 0.8 + 0.01 * seed
    reach = [[blocks == 1 or row == unit for unit in range(units)] for row in range(blocks)]
    return {
        "label": label,
        "method": method,
        "network": "resnet20",
        "data": "digits",
        "blocks": blocks,
        "seed": seed,
        "epochs": epochs,
        "parameters": 1000,
        "test_accuracy": accuracy,
        "best_test_accuracy": accuracy,
        "train_seconds": 60.0,
        "images_per_second": 1000.0,
        "peak_activation_bytes": int(memory * 500 * 2**20),
        "peak_memory_bytes": 600 * 2**20,
        "flops_per_image": 1_000_000,
        "block_accuracy": [accuracy * (k + 1) / blocks for k in range(blocks)],
        "command": f"localgrad train --method.name {method} --seed {seed}",
        "versions": {"torch": "2.13.0", "python": "3.11"},
        "commit": "abc1234",
        "ratios": {"activation_memory": memory, "flops": 1.25, "time": 1.5},
        "curve": [
            {
                "epoch": epoch,
                "train_loss": 1 / epoch,
                "test_accuracy": accuracy * epoch / epochs,
                "seconds": 20.0,
                "losses": [1 / epoch] * blocks,
            }
            for epoch in range(1, epochs + 1)
        ],
        "reach": {
            "losses": [f"loss {row}" for row in range(blocks)],
            "units": [f"{unit}.0" for unit in range(units)],
            "measured": reach,
            "declared": copy.deepcopy(reach),
        },
    }


def seven(seeds: int = 1, **options: int) -> list[Result]:
    return [result(label, seed, **options) for label in RULES for seed in range(seeds)]


class Page(HTMLParser):
    """Collects the elements and the text of a page, and checks that they are closed in order."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(self.html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    @property
    def figures(self) -> list[str]:
        return re.findall(r'<title id="[\w-]+-title">(.*?)</title>', self.html)


def measured(
    seeds: int = 2, labels: tuple[str, ...] = tuple(RULES), **options: int
) -> list[Result]:
    """What runs of today have besides: ratios of memory, FLOPs of exits, the machine."""
    found = [item for item in seven(seeds, **options) if item["label"] in labels]
    for item in found:
        blocks = item["blocks"]
        item["ratios"]["memory"] = 0.5 + item["ratios"]["activation_memory"] / 2
        item["exit_flops"] = [100 * (k + 1) for k in range(blocks)]
        cheapest = {"exit": max(blocks - 2, 0), "accuracy": 0.8, "flops": 1 - 0.25 * (blocks > 1)}
        item["one_point_lower"] = cheapest
        item["head_parameters"] = 2345
        item |= {"parameter_bytes": 100 * 2**20, "optimizer_bytes": 200 * 2**20}
        item |= {"hardware": "a processor", "platform": "a system", "date": "2026-02-03T04:05:06"}
    return found


def analysis(units: int = 4, labels: tuple[str, ...] = tuple(RULES)) -> Result:
    """What ``compare`` finds of the networks that it has trained."""
    names = [f"{unit}.0" for unit in range(units)]
    runs = [
        {
            "label": label,
            "method": RULES[label][0],
            "seed": 0,
            "units": names,
            "agreement": [{"cosine": 1 / (k + 1)} for k in range(units + 1)],
            "history": [],
            "exits": None,
        }
        for label in labels
    ]
    alike = [[1 - abs(r - c) / units for c in range(units)] for r in range(units)]
    return {
        "reference": 0,
        "inputs": 500,
        "runs": runs,
        "cka": [{"reference": 0, "run": i, "values": alike} for i in range(len(runs))],
        "versions": {"torch": "2.13.0"},
        "commit": "abc1234",
    }


def figures_of_comparison(labels: Iterable[str]) -> list[str]:
    """Return the titles of all figures that the page of a comparison has."""
    names = list(labels)
    return [
        "Test accuracy over epochs",
        "Accuracy of every block's exit",
        "Heads as early exits",
        "Peak memory against time",
        "Peak activation memory",
        "Accuracy against memory",
        *(f"Reach of {label}" for label in names),
        "Agreement with the gradients of BP",
        "Similarity unit by unit",
        *(f"CKA of {label} with BP, seed 0" for label in names),
    ]
