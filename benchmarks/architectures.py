"""A table over many architectures: what can be cut, and whether local learning runs on it.

    python benchmarks/architectures.py --json benchmarks/results/architectures.json

Every architecture runs in a process of its own with a time limit: it is built with random weights,
cut, its units are compared with the model bit by bit (training mode with a fixed seed, and eval),
and one step of three rules is run and audited. benchmarks/tables.py makes a page of it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from localgrad import methods as M
from zoo_of_architectures import Entry, batch, entries

ROWS = 2
COLUMNS = ("cut", "equal", "greedy", "backlink", "auglocal")


def rules(units: int) -> dict[str, tuple[Any, int]]:
    """Return the rules of the table and their numbers of blocks, for a chain of so many units."""
    few, more = min(3, units), min(4, units)
    deep = M.AugLocal(max(1, min(2, more - 1)))
    return {"greedy": (M.Greedy(), few), "backlink": (M.BackLink(), few), "auglocal": (deep, more)}


def examine(entry: Entry) -> dict[str, Any]:
    """Return one row of the table."""
    family, name, make, shape = entry
    torch.manual_seed(0)
    row: dict[str, Any] = {"family": family, "name": name, "input": list(shape)}
    model, x = make(), batch(shape, ROWS)
    row["parameters"] = sum(p.numel() for p in model.parameters())
    keys = list(model.state_dict())
    chain = attempt(row, "cut", lambda: localgrad.Chain.of(model, x))
    if chain is None:
        return row
    row |= {"units": len(chain), "labels": list(chain.names), **traced_how(chain)}
    attempt(row, "equal", lambda: same_numbers(model, chain, x))
    for rule, (method, blocks) in rules(len(chain)).items():
        attempt(row, rule, partial(clean_step, chain, method, blocks, x))
    row["keys_unchanged"] = list(model.state_dict()) == keys
    return row


def attempt(row: dict[str, Any], column: str, what: Callable[[], Any]) -> Any:
    """Run one check; note whether it passed, or in one line why not."""
    try:
        result = what()
        row[column] = True
    except Exception as error:
        text = str(error).strip().splitlines()
        row[column], result = False, None
        row.setdefault("reason", f"{column}: {text[0] if text else type(error).__name__}")
    return result


def traced_how(chain: localgrad.Chain) -> dict[str, Any]:
    """Return the number of legal cuts, and which modules were called as they are."""
    cut = chain.tail.cutter.cuts[0]  # type: ignore[attr-defined]
    how = "opaque: " + ", ".join(list(cut.opaque)[:3]) if cut.opaque else "traced"
    return {"how": how, "legal_cuts": cut.legal}


def same_numbers(model: nn.Module, chain: localgrad.Chain, x: Tensor) -> None:
    """Compare the chain with the model, in both modes."""
    for training in (True, False):
        model.train(training)
        results = []
        for run in (model, chain):
            torch.manual_seed(1)
            with torch.no_grad():
                out = run(x)
            results.append(getattr(out, "logits", out))
        if not torch.equal(results[0], results[1]):
            raise AssertionError(f"training={training}: other numbers")
    model.train()


def clean_step(chain: localgrad.Chain, method: Any, blocks: int, x: Tensor) -> None:
    """Run one local step and audit it; of tied weights, the first block trains them."""
    scores = chain.shapes(x)[1]
    y = torch.arange(len(x)) % 5 if len(scores) == 1 else x
    learner = localgrad.decouple(
        chain, method, blocks=blocks, example_input=x, loss=loss, ties="first"
    )
    try:
        reach = localgrad.audit(lambda: learner.step(x, y), learner)
        if reach.violations:
            raise AssertionError(reach.violations[0])
    finally:
        learner.release().zero_grad()


def loss(scores: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of classes, or of every token."""
    return F.cross_entropy(scores.flatten(0, -2), y.flatten())


def _child(entry: Entry, pipe: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    try:
        row = examine(entry)
    except Exception as error:
        text = str(error).strip().splitlines()
        row = {"family": entry[0], "name": entry[1], "reason": text[0] if text else repr(error)}
    row["seconds"] = round(time.perf_counter() - start, 1)
    pipe.send(row)


def run(entry: Entry, limit: float) -> dict[str, Any]:
    """Examine one architecture in a process of its own."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(entry, theirs))
    process.start()
    theirs.close()
    row = {"family": entry[0], "name": entry[1], "reason": f"took more than {limit:.0f} s"}
    try:
        if ours.poll(limit):
            row = ours.recv()
    except EOFError:
        row["reason"] = "the process died"
    process.kill()
    process.join()
    return row


def passed(row: dict[str, Any]) -> bool:
    """Whether every check of a row passed."""
    return all(row.get(column) is True for column in COLUMNS)


def main() -> None:
    """Run the table from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--only", default="", help="names that contain this")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for each architecture")
    options = parser.parse_args()
    rows = []
    for entry in entries():
        if options.only in entry[1]:
            rows.append(run(entry, options.limit))
            row = rows[-1]
            state = "ok" if passed(row) else row.get("reason", "failed")
            print(f"{row['name']:45} {row.get('units', '-'):>4} {row.get('seconds', 0):6} {state}")
    print(f"{sum(map(passed, rows))} of {len(rows)} pass every check")
    if options.json:
        names = ("torch", "torchvision", "timm", "transformers")
        content = {
            "command": "python benchmarks/architectures.py --json FILE",
            "versions": {name: version(name) for name in names},
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "rows": rows,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
