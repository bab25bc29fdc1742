"""``localgrad audit``: the units of a network, and which of them each loss trains, measured."""

from __future__ import annotations

from typing import Any

from localgrad import Reach, audit
from localgrad.cli.asked_files import check_writable, write_json
from localgrad.cli.users_step import audit_step
from localgrad.errors import LocalgradError
from localgrad.experiment.build import build
from localgrad.experiment.config import Config
from localgrad.experiment.cost import first_batch
from localgrad.experiment.whole_file import cannot_write


def run(config: Config, flags: dict[str, Any], command: str) -> int:
    """Print units, decoupling and its measured reach; 1 where that is not the declared one."""
    check_writable(flags.get("json"))
    check_writable(flags.get("plot"))
    if "step" in flags:
        return _audit_step(config, flags)
    experiment = build(config)
    learner = experiment.learner
    x, y = first_batch(experiment)
    x, y = x[:4], y[:4]
    reach = audit(lambda: learner.step(x, y), learner)
    print(f"{learner.chain}\n")
    print(learner.decoupling)
    print(f"\nmeasured reach of {experiment.label} (# trained, . not, ! against the declaration)")
    print(reach)
    for violation in reach.violations:
        print(violation)
    return _write(reach, flags)


def _audit_step(config: Config, flags: dict[str, Any]) -> int:
    """Print which layers each loss of the user's step trains."""
    if config != Config():
        raise LocalgradError("--step brings its own network and data: leave the other options out")
    reach = audit_step(flags["step"])
    print(f"measured reach of {flags['step']} (# trained, . not)")
    print(reach)
    width = max(4, len(str(len(reach.names))))
    for k, name in enumerate(reach.names):
        nothing = "" if reach.parameters[k] else ": trains nothing"
        print(f"{k:>{width}} {name}{nothing}")
    for violation in reach.violations:
        print(violation)
    return _write(reach, flags)


def _write(reach: Reach, flags: dict[str, Any]) -> int:
    write_json(flags.get("json"), reach.to_dict())
    if "plot" in flags:
        try:
            reach.plot(flags["plot"])
        except OSError as error:
            raise cannot_write(flags["plot"], error) from error
    return 1 if reach.violations else 0
