"""Whether a decoupling that was found on a small network is a good one on others.

    python benchmarks/cpu/transfer.py --out runs/transfer --json benchmarks/results/transfer.json

Searches on ResNet-20, on a part of CIFAR-10 and on the digits, at one number of blocks and within a
part of BP's memory; carries the most accurate decoupling of each over to deeper networks on
CIFAR-10; trains it there with several seeds, beside cuts that no search made and random decouplings
of the same number of blocks that take no more memory. Then the rank correlation between the
search's short training and a longer one, over decouplings drawn at random.

Every run is a folder under ``--out``: stopped and started again, the script goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from localgrad import Decoupling
from localgrad.cli.show import table
from localgrad.experiment.build import build
from localgrad.experiment.config import Config, build_config
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.loop import train
from localgrad.search.search import search

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from transfer_rows import Job, Row, described, rows_of, shown
from transfer_ways import Target, Way, best_of, cached_data, ways

SOURCE = "resnet20"


def configured(options: argparse.Namespace, data: str, **changed: Any) -> Config:
    """Return a configuration of the benchmark."""
    images = {"name": data, "limit": options.limit, "test_limit": options.test_limit}
    if data == "cifar10" and options.data is not None:
        images["path"] = options.data
    tree = {
        "network": {"name": SOURCE, "width": options.width},
        "data": {key: value for key, value in images.items() if value is not None},
        "batch_size": options.batch,
        "epochs": options.epochs,
        "optimizer": {"lr": 0.1, "weight_decay": 5e-4},
        "schedule": {"name": "cosine", "warmup_epochs": 1},
        "device": options.device,
        "threads": 1,
    }
    return build_config({**tree, **changed})


def searched(options: argparse.Namespace, out: Path, data: str, **changed: Any) -> Row:
    """Search, or take what an earlier start found."""
    section = {
        "trials": options.trials,
        "epochs": options.proxy_epochs,
        "blocks": [options.blocks],
        "validation": options.validation,
        "processes": options.processes,
        **changed,
    }
    config = configured(options, data, search=section)
    limit = options.proxy_limit if data == "cifar10" else None
    config = config.model_copy(update={"data": config.data.model_copy(update={"limit": limit})})
    if "budget" not in changed and options.budget:
        most = int(options.budget * Target(config).bp_memory())
        section["budget"] = str(most)
        config = build_config({**config.model_dump(), "search": section})
    print(f"search in {out}", flush=True)
    return search(config, out, resume=True)


def run(job: tuple[str, str]) -> str:
    """Train one run to its end, in a process of its own."""
    text, folder = job
    torch.set_num_threads(1)
    config = Config.model_validate_json(text)
    data = config.model_copy(update={"seed": 0, "decoupling": None, "out": None, "epochs": 1})
    data = data.model_copy(update={"network": Config().network})
    train(build(config, cached_data(data.model_dump_json())), RunFolder(folder), resume=True)
    return folder


def trained(jobs: Iterable[tuple[Config, Path]], processes: int) -> None:
    """Train what is not finished yet, several at a time."""
    left = [
        (config.model_dump_json(), str(folder))
        for config, folder in jobs
        if not RunFolder(folder).finished
    ]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for number, folder in enumerate(pool.imap_unordered(run, left), start=1):
            print(f"{number}/{len(left)} {folder}", flush=True)


def jobs_of(config: Config, rows: list[Way], out: Path, seeds: range) -> list[Job]:
    """Write the decouplings and return a run for each, with each seed."""
    jobs = []
    for way in rows:
        slug = way.name.replace(" ", "-").replace(",", "").replace("+", "and")
        update: dict[str, Any] = {}
        if way.decoupling is not None:
            file = out / f"{slug}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            way.decoupling.save(file)
            update["decoupling"] = str(file)
        for seed in seeds:
            folder = out / f"{slug}-s{seed}"
            one = config.model_copy(update={**update, "seed": seed, "out": str(folder)})
            jobs.append((one, folder, way.name, seed))
    return jobs


def ranked(options: argparse.Namespace, out: Path) -> Row:
    """Return the rank correlation of short and longer trainings of random decouplings."""
    settings = {"sampler": "random", "reduction": None, "trials": options.ranked, "budget": None}
    twice = []
    for seed in (0, 1):  # the same decouplings, trained from other weights: how far the short
        # training agrees with itself
        if seed == 0:
            proxy = searched(options, out / "rank-proxy", "cifar10", **settings)
            twice.append([row["accuracy"] for row in proxy["trials"]])
            continue
        limit = options.proxy_limit
        short = configured(options, "cifar10", epochs=options.proxy_epochs)
        short = short.model_copy(update={"data": short.data.model_copy(update={"limit": limit})})
        twice.append(_accuracies(options, short, proxy, out / "rank-again", seed))
    longer = _accuracies(
        options, configured(options, "cifar10", epochs=options.long_epochs), proxy,
        out / "rank-long", 0,
    )  # fmt: skip
    pairs = {"longer": (twice[0], longer), "short again": (twice[0], twice[1])}
    found = {name: spearmanr(*both) for name, both in pairs.items()}
    return {
        "decouplings": len(longer),
        "proxy": {"epochs": options.proxy_epochs, "images": options.proxy_limit},
        "longer": {"epochs": options.long_epochs, "images": options.limit},
        "spearman": {
            name: {"rho": float(one.statistic), "p": float(one.pvalue)}
            for name, one in found.items()
        },
        "proxy_accuracies": twice[0],
        "proxy_again_accuracies": twice[1],
        "longer_accuracies": longer,
    }


def _accuracies(
    options: argparse.Namespace, config: Config, proxy: Row, out: Path, seed: int
) -> list[float]:
    rows = [
        Way(f"trial {row['trial']}", Decoupling.from_dict(row["decoupling"]))
        for row in proxy["trials"]
    ]
    jobs = jobs_of(config, rows, out, range(seed, seed + 1))
    trained([job[:2] for job in jobs], options.processes)
    return [RunFolder(folder).read_json("summary.json")["test_accuracy"] for _, folder, *_ in jobs]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", help="folder of CIFAR-10")
    parser.add_argument("--networks", nargs="+", default=["resnet32", "resnet56"])
    parser.add_argument("--width", type=int, default=8, help="of the first stage; published: 16")
    parser.add_argument("--blocks", type=int, default=3, help="K; 3: the stages are one way")
    parser.add_argument("--budget", type=float, default=0.7, help="of BP's memory; 0: none")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--proxy-epochs", type=int, default=6)
    parser.add_argument("--proxy-limit", type=int, default=4000, help="CIFAR-10 images")
    parser.add_argument("--validation", type=float, default=0.25, help="of the search's images")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--limit", type=int, default=4000, help="training images")
    parser.add_argument("--test-limit", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--random", type=int, default=3, help="random decouplings a network")
    parser.add_argument("--ranked", type=int, default=12, help="decouplings of the correlation")
    parser.add_argument("--long-epochs", type=int, default=15)
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main() -> None:
    """Search, transfer, train, compare, write."""
    options = arguments()
    torch.set_num_threads(1)
    searches = {
        data: searched(options, options.out / f"search-{data}", data)
        for data in ("cifar10", "digits")
    }
    found = {name: best_of(one) for name, one in searches.items()}
    rows: list[Row] = []
    for network in options.networks:
        section = {"blocks": [options.blocks]}
        where = {"name": network, "width": options.width}
        config = configured(options, "cifar10", network=where, search=section)
        target = Target(config)
        chosen = ways(target, found, options.blocks, options.random)
        jobs = jobs_of(config, chosen, options.out / network, range(options.seeds))
        trained([job[:2] for job in jobs], options.processes)
        rows += rows_of(jobs, target, chosen)
    rank = ranked(options, options.out)
    print(table([shown(row) for row in rows]))
    for name, one in rank["spearman"].items():
        print(f"rank correlation, short against {name}: {one['rho']:.2f} (p = {one['p']:.3f})")
    if options.json:
        document = described(options, searches, rows, rank)
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
