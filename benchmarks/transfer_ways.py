"""The ways to cut a network that benchmarks/cpu/transfer.py compares."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import Tensor

from localgrad import Chain, Decoupling, Part, methods
from localgrad.balance import Balance
from localgrad.experiment.build import build
from localgrad.experiment.building.data import load_data
from localgrad.experiment.config import Config
from localgrad.search import transfer
from localgrad.search.costs import Costs
from localgrad.search.space import Space, stage_ends

DRAWS = 2000  # at most, for a random decoupling that fits


@dataclass(frozen=True)
class Way:
    """A way to cut a network.

    Args:
        name: of its row.
        decoupling: of the network; None: BP.
    """

    name: str
    decoupling: Decoupling | None


class Target:
    """A network with the data that it is trained on.

    Args:
        config: of its runs.
    """

    def __init__(self, config: Config) -> None:
        experiment = build(config, cached_data(config.model_dump_json()))
        experiment.learner.release()
        self.config = config
        self.example: Tensor = experiment.test.first()[0][:2]
        self.chain = Chain.of(experiment.learner.backbone, self.example)
        self.space = Space.of(self.chain, self.example, config.search)
        self.costs = Costs(experiment, self.chain, self.example)
        self.loss = experiment.loss

    def bp_memory(self) -> int:
        """Return the bytes of a step of BP."""
        return self.costs.of(methods.Backprop()(self.chain, None)).memory

    def by_rule(self, blocks: int) -> dict[str, tuple[int, ...]]:
        """Return the ends of all blocks but the last, as no search made them."""
        units = len(self.chain)
        ends = {"uniform": tuple(units * (k + 1) // blocks for k in range(blocks - 1))}
        balance = Balance(self.chain, self.example, self.loss)
        ends["memory-balanced"] = balance.memory(methods.Greedy(), blocks)[:-1]
        stages = stage_ends(self.chain, self.example)
        if len(stages) == blocks - 1:
            ends["stages"] = stages
        return ends

    def drawn(self, seed: int, most: int) -> Decoupling:
        """Return a random decoupling of the space that takes at most so many bytes."""
        dice = Dice(seed)
        for _ in range(DRAWS):
            found = self.space.draw(dice)
            if self.costs.of(found).memory <= most:
                return found
        raise SystemExit(f"error: none of {DRAWS} random decouplings takes at most {most} bytes")


class Dice(random.Random):
    """Draws as Optuna's random sampler does."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Return a whole number."""
        return self.randint(low, high)

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """Return a number."""
        return self.uniform(low, high)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Return one of the choices."""
        return self.choice(choices)


@cache
def cached_data(text: str) -> Any:
    """Return the data of a configuration, read once in a process for each set."""
    return load_data(Config.model_validate_json(text))


def best_of(found: dict[str, Any]) -> Decoupling:
    """Return the most accurate decoupling of a front."""
    best = max(
        (found["trials"][index] for index in found["front"]), key=lambda row: row["accuracy"]
    )
    decoupling: Decoupling = Decoupling.from_dict(best["decoupling"])
    return replace(decoupling, source=f"search on {found['network']['name']}, {found['data']}")


def ways(target: Target, found: dict[str, Decoupling], blocks: int, draws: int) -> list[Way]:
    """Return everything that a network is trained with.

    Args:
        target: the network.
        found: decouplings of the source network by the data that they were found on; the first is
            what others are compared with.
        blocks: number of blocks K.
        draws: random decouplings that take no more memory than the first found.

    Cuts by rule have the heads and links of the decoupling that was found on the same data, so that
    they differ from it in the cuts alone.
    """
    rows = [Way("BP", None)]
    for name, decoupling in found.items():
        there = transfer(decoupling, target.chain, target.example).decoupling
        rows.append(Way(f"found on {name}", there))
    first = next(iter(found.values()))
    heads = [plain(block.head) for block in first.blocks[:-1] if block.head]
    links = [block.link.length if block.link else 0 for block in first.blocks[1:]]
    for name, ends in target.by_rule(blocks).items():
        rows.append(Way(f"{name}, same heads", target.space.decoupling(ends, heads, links)))
    stages = target.by_rule(blocks).get("stages")
    if stages is not None:  # BWBPF's blocks; its output layer is the last block's tail here
        head = Part("pool_linear")
        rows.append(Way("stages, pool + linear", target.space.uniform(stages, head, 0)))
    carried = rows[1].decoupling
    assert carried is not None
    most = target.costs.of(carried).memory
    for number in range(draws):
        rows.append(Way(f"random {number}", target.drawn(number, most)))
    return rows


def plain(head: Part) -> Part:
    """Return a head as a space names it."""
    if head.name != "auglocal":
        return head
    return Part("auglocal", {"depth": len(head.options["units"])})
