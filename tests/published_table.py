"""The decouplings that ship: of which rule, on which network, cut how, and who says so.

The files are what the rules make of this table, and what our own searches found, as
``benchmarks/results/transfer.json`` has it. ``python tests/published_table.py`` writes them anew,
where the format of decoupling files or the result has changed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import localgrad
from localgrad import Decoupling, networks
from localgrad import methods as M
from localgrad.experiment.decoupling_file import FOLDER
from localgrad.networks import MEMORY_BALANCED

BWBPF = (
    "Cheng et al., BWBPF, ICASSP 2024, arXiv 2312.13311; cuts: released code "
    "(github.com/Belis0811/BWBPF), distributed/{}"
)
INFOPRO = (
    "Wang et al., InfoPro, ICLR 2021, arXiv 2101.10832; cuts: released code "
    "(github.com/blackfeather-wang/InfoPro-Pytorch), networks/configs.py{}; loss weights: of "
    "CIFAR-10"
)
AUGLOCAL = (
    "Ma et al., AugLocal, ICLR 2024, arXiv 2402.17318; one unit a block, copied units and depths: "
    "released code"
)
BACKLINK = (
    "Guo et al., BackLink, arXiv 2205.07141, ResNet-32 with K=16; no code was released: the head "
    "(InfoPro's 1c2f) and the length of 1 are this library's reading"
)
COMPARED = "{}; cuts: as compared in {}"
DGL = "Belilovsky et al., DGL, ICML 2020, arXiv 1901.08164"
PREDSIM = "Nokland and Eidnes, PredSim, ICML 2019, arXiv 1901.06656"
TABLE_OF_INFOPRO = "InfoPro's table, arXiv 2101.10832, whose released code cuts so"
TABLE_OF_AUGLOCAL = "AugLocal's tables, arXiv 2402.17318: one unit a block"


@dataclass(frozen=True)
class Shipped:
    """A rule on a network, in K blocks; the network's published cuts unless others are given."""

    rule: M.Method
    network: str
    blocks: int | None
    source: str
    cuts: tuple[str, ...] | None = None

    def made(self, **options: Any) -> Decoupling:
        """Let the rule make it, on the network with such options."""
        model, x = networks.get(self.network, None, **options), torch.rand(2, 3, 32, 32)
        blocks = None if self.cuts else self.blocks
        learner = localgrad.decouple(model, self.rule, blocks, self.cuts, example_input=x)
        return replace(learner.decoupling, source=self.source)


def _table() -> dict[str, Shipped]:
    found: dict[str, Shipped] = {}
    for network, blocks, file in [
        ("resnet50", 4, "ResNet_4out.py"),
        ("resnet101", 4, "ResNet_4out.py"),
        ("resnet101", 8, "ResNet_8out.py"),
        ("resnet152", 4, "ResNet_4out.py"),
        ("resnet152", 8, "ResNet_8out.py"),
        ("vgg19", 5, "VGG.py"),
    ]:
        found[f"bwbpf-{network}-k{blocks}"] = Shipped(
            M.BWBPF(), network, blocks, BWBPF.format(file)
        )
    for network in ("resnet32", "resnet110"):
        for blocks in (2, 4, 8, 16):
            found[f"infopro-{network}-k{blocks}"] = Shipped(
                M.InfoPro(), network, blocks, INFOPRO.format("")
            )
            found[f"dgl-{network}-k{blocks}"] = Shipped(
                M.DGL(), network, blocks, COMPARED.format(DGL, TABLE_OF_INFOPRO)
            )
    for blocks in (2, 4):
        found[f"infopro-resnet110-k{blocks}-memory"] = Shipped(
            M.InfoPro(),
            "resnet110",
            blocks,
            INFOPRO.format(", InfoPro_balanced_memory"),
            MEMORY_BALANCED[110][blocks],
        )
    for network, blocks, depths in [("resnet32", 16, (2, 5)), ("resnet110", 55, (2, 6))]:
        found[f"predsim-{network}-k{blocks}"] = Shipped(
            M.PredSim(), network, blocks, COMPARED.format(PREDSIM, TABLE_OF_AUGLOCAL)
        )
        for depth in depths:
            found[f"auglocal-{network}-k{blocks}-d{depth}"] = Shipped(
                M.AugLocal(depth), network, blocks, AUGLOCAL
            )
    found["backlink-resnet32-k16"] = Shipped(M.BackLink(), "resnet32", 16, BACKLINK)
    return found


TABLE = _table()
RESULT = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "transfer.json"
SEARCHED = {f"found-resnet20-k3-{data}": data for data in ("cifar10", "digits")}


def searched(name: str) -> Decoupling:
    """Return what the search on ResNet-20 found, as the result has it."""
    searches = json.loads(RESULT.read_text(encoding="utf-8"))["searches"]
    best = Decoupling.from_dict(searches[SEARCHED[name]]["best"])
    return replace(best, source=f"{best.source}; benchmarks/results/{RESULT.name}")


if __name__ == "__main__":
    for name in SEARCHED:
        searched(name).save(FOLDER / f"{name}.yaml")
    for name, shipped in TABLE.items():
        shipped.made(width=4).save(FOLDER / f"{name}.yaml")
