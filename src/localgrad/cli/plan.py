"""``localgrad plan``: what each way of training takes, and which one to choose for a budget."""

from __future__ import annotations

from typing import Any

from torch import nn

from localgrad.cli import plan_devices
from localgrad.cli.asked_files import check_writable, write_json
from localgrad.cli.progress_line import ProgressLine
from localgrad.cli.show_plan import Table, advice, times
from localgrad.errors import LocalgradError
from localgrad.experiment import environment, precision
from localgrad.experiment.building.method import build_method
from localgrad.experiment.config import Config
from localgrad.experiment.made_up import MadeUp, make, read_count, read_shape
from localgrad.experiment.schedule import build_optimizer
from localgrad.planning import Row, measure, plan, read_bytes, shown

BATCH, SECONDS = "128", "300"


def run(config: Config, flags: dict[str, Any], command: str) -> int:
    """Print the options as they become known, then the advice.

    Raises:
        LocalgradError: a flag that cannot be read, a network that cannot be cut, nothing that fits,
            or a time that is up before all options are known; what is known is printed first.
    """
    check_writable(flags.get("json"))
    if "budget" not in flags and "devices" not in flags:
        raise LocalgradError("plan needs a budget, --budget 8GiB, or a number of --devices")
    if config.optimizer.update != "step":
        raise LocalgradError(
            "plan predicts one update after the step: leave out --optimizer.update "
            f"{config.optimizer.update}"
        )
    batch = read_count("batch", flags.get("batch", BATCH))
    if "devices" in flags:
        return plan_devices.run(config, flags, command, batch)
    for flag in ("bandwidth", "micro_batches"):
        if flag in flags:
            raise LocalgradError(f"plan takes --{flag} with --devices N")
    budget = read_bytes(flags["budget"])
    blocks = (
        [read_count("blocks", k) for k in flags["blocks"].split(",")] if "blocks" in flags else None
    )
    seconds = read_count("seconds", flags.get("seconds", SECONDS))
    shape = read_shape(flags["input"]) if "input" in flags else None
    rules = [build_method(choice) for choice in config.methods] or None
    quiet = "quiet" in flags
    progress = ProgressLine(quiet)
    progress.say(f"cutting {config.network.name}")
    subject = make(config, shape)
    if "measure" in flags:
        precision.check(subject.device, config.precision)
    progress.clear()
    print(_title(config, subject, batch, budget))
    table = Table()

    def watch(what: Row | str) -> None:
        progress.clear()
        if isinstance(what, Row):
            print(table.line(what, budget, batch), flush=True)
        else:
            progress.say(f"predicting {what}")

    ties = config.ties or ("first" if subject.vocabulary is not None else None)
    found = plan(
        subject.chain,
        subject.example(),
        budget,
        batch,
        loss=subject.loss,
        optimizer=lambda parameters: build_optimizer(
            config.optimizer, nn.ParameterList(list(parameters))
        ),
        precision=config.precision,
        rules=rules,
        blocks=blocks,
        ties=ties,
        largest="largest" in flags,
        seconds=seconds,
        watch=watch,
    )
    progress.clear()
    if "measure" in flags and found.best is not None:
        found = measure(
            found,
            subject.chain,
            subject.batch,
            loss=subject.loss,
            optimizer=lambda parameters: build_optimizer(
                config.optimizer, nn.ParameterList(list(parameters))
            ),
            seconds=seconds,
            watch=lambda label: progress.say(f"measuring {label}"),
        )
        progress.clear()
        print(times(found))
    print(advice(found, table))
    about = environment.describe(subject.device, command)
    write_json(flags.get("json"), {**about, "input": subject.size, **found.to_dict()})
    if found.stopped is not None:
        raise LocalgradError(
            f"stopped after {seconds} s at {found.stopped}, with {len(found.rows)} of "
            f"{found.planned} options predicted: allow more --seconds, or fewer --methods"
        )
    if found.best is None:
        raise LocalgradError(found.advice.reason)
    return 0


def _title(config: Config, subject: MadeUp, batch: int, budget: int) -> str:
    return (
        f"{config.network.name}, {subject.size}, batch {batch}, {config.precision}, "
        f"{config.optimizer.name}, budget {shown(budget)}: {len(subject.chain)} units"
    )
