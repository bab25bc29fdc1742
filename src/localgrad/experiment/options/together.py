"""Options that cannot go together: what no section knows by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localgrad.experiment.config import Config


def check_together(config: Config) -> None:
    """Refuse options of which each is right by itself.

    Raises:
        ValueError: names the two and the remedy; pydantic hands it on.
    """
    _finished(config)
    _scaler_sees_all(config)
    _links_can_be_late(config)
    _parts_can_run(config)


def _finished(config: Config) -> None:
    if config.decoupling is None:
        return
    taken = [key for key in ("blocks", "cuts", "balance") if getattr(config, key) is not None]
    if config.method != type(config).model_fields["method"].default:
        taken.insert(0, "method")
    if taken:
        raise ValueError(
            f"decoupling: {config.decoupling!r} has its heads and cuts: leave out "
            f"{' and '.join(taken)}"
        )


def _scaler_sees_all(config: Config) -> None:
    if config.precision == "fp16" and config.optimizer.update == "block":
        raise ValueError(
            "optimizer.update: 'block' cannot go with precision 'fp16', whose scaler must see "
            "all gradients before it decides whether to skip an update; use 'step' or bf16"
        )


def _links_can_be_late(config: Config) -> None:
    late = config.parallel.late_links
    if late is False:
        return
    if late is True and config.parallel.blocks == 1:
        raise ValueError(
            "parallel.late_links: 'true' means links between parts, and parallel.blocks is 1; "
            "name the blocks, as in [0, 2]"
        )
    for key, given in (("precision", config.precision == "fp16"), ("compile", config.compile)):
        if given:
            raise ValueError(
                f"parallel.late_links cannot go with {key} {getattr(config, key)!r}: leave one out"
            )


def _parts_can_run(config: Config) -> None:
    if config.parallel.processes == 1:
        return
    if config.precision == "fp16":
        raise ValueError(
            "parallel: precision 'fp16' needs a scaler that sees the gradients of all "
            "processes; use 'bf16'"
        )
    if config.compile:
        raise ValueError("parallel: compile is for one process; leave it out")
    if config.batch_size % config.parallel.data:
        raise ValueError(
            f"parallel: a batch_size of {config.batch_size} does not divide among "
            f"{config.parallel.data} replicas"
        )
