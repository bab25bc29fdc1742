"""``torch.compile`` of a learner's blocks: one graph a segment, checked, and kept where it pays.

Each run of units that a group executes as one segment, and each head, becomes one graph; losses
and what passes between blocks stay as they are. The compiled step is compared with the plain one
on the batch at hand: its gradients, and what it does to buffers. A fused kernel adds in another
order, so that they differ by rounding (:mod:`localgrad.step_difference`).
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from localgrad.compiled_run import CompiledRun, CompileError
from localgrad.errors import LocalgradError
from localgrad.step_difference import as_it_was, difference, results_of, tolerance_of

if TYPE_CHECKING:
    from localgrad.learner import LocalLearner

KEEP = ("if_faster", "always")
RECORDING = ("reduce-overhead", "max-autotune")  # modes that record CUDA graphs of their own


@dataclass(frozen=True)
class CompileReport:
    """What compiling a learner's blocks gave.

    Args:
        graphs: number of graphs, each with its backward.
        seconds: time that the first compiled step took, most of it compiling.
        difference: largest ``|compiled - plain| / |plain|`` (norms) over gradients, losses and
            buffers; None: not checked.
        tolerance: what ``difference`` may be.
        plain_ms, compiled_ms: median times of a step, taken in turn; None: not timed.
        kept: the learner's steps run compiled from now on.
        plain: runs that stay as they are, ``"block 0 head"``, and why.
    """

    graphs: int
    seconds: float
    difference: float | None
    tolerance: float
    plain_ms: float | None
    compiled_ms: float | None
    kept: bool
    plain: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        noun = "graph" if self.graphs == 1 else "graphs"
        parts = [f"{self.graphs} {noun} compiled in {self.seconds:.1f} s"]
        if self.difference is not None:
            parts.append(
                f"gradients differ by {self.difference:.1e} (at most {self.tolerance:.0e})"
            )
        if self.plain_ms is not None and self.compiled_ms is not None:
            parts.append(f"a step takes {self.compiled_ms:.1f} ms, plain {self.plain_ms:.1f} ms")
        parts.append("kept" if self.kept else "not kept")
        parts += [f"{name} stays plain: {why}" for name, why in self.plain.items()]
        return "; ".join(parts)


def compile_learner(
    learner: LocalLearner,
    x: Tensor,
    y: Any,
    keep: str,
    fallback: bool,
    check: bool,
    rtol: float | None,
    repeats: int,
    options: dict[str, Any],
) -> CompileReport:
    """Compile a learner's blocks; see :meth:`LocalLearner.compile`."""
    options = _checked(keep, repeats, options)
    take_away(learner)
    # what cannot run at all must not be called not compilable
    plain = results_of(learner, x, y)
    tolerance = tolerance_of(learner) if rtol is None else rtol
    runs = _attach(learner, options, fallback)
    try:
        seconds = _compile(learner, x, y, fallback, runs)
        apart = None
        if check:
            apart, where = difference(plain, results_of(learner, x, y))
            if not apart <= tolerance:
                raise LocalgradError(
                    f"compiled steps differ from plain ones: {where} by {apart:.1e} of its "
                    f"norm, more than {tolerance:.0e}: leave this learner uncompiled, or give rtol"
                )
        graphs = sum(run.graphs for run in runs if run.failed is None)
        times = _timed(learner, x, y, repeats) if keep == "if_faster" and graphs else None
    except BaseException:
        take_away(learner)
        raise
    kept = bool(graphs) and (times is None or times[1] < times[0])
    if not kept:
        take_away(learner)
    failed = {f"block {r.block} {r.part}": r.failed for r in runs if r.failed is not None}
    plain_ms, compiled_ms = (None, None) if times is None else (1e3 * t for t in times)
    return CompileReport(graphs, seconds, apart, tolerance, plain_ms, compiled_ms, kept, failed)


def _checked(keep: str, repeats: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return ``backend`` and ``options`` for each run.

    Raises:
        LocalgradError: an option that cannot be, or that blocks decide themselves.
    """
    options = dict(options)
    if keep not in KEEP:
        raise LocalgradError(f"keep={keep!r}: expected one of {', '.join(map(repr, KEEP))}")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise LocalgradError(f"repeats={repeats!r}: must be a whole number of at least 1")
    backend, mode = options.pop("backend", "inductor"), options.pop("mode", None)
    settings = dict(options.pop("options", None) or {})
    if options:
        raise LocalgradError(
            f"compile does not take {next(iter(options))!r}: of torch.compile's options it hands "
            "on backend, mode and options; graphs are always full and of fixed shapes"
        )
    if mode in RECORDING or settings.get("triton.cudagraphs"):
        raise LocalgradError(
            f"mode {mode or 'triton.cudagraphs'!r} records CUDA graphs of each piece: use "
            "localgrad.CapturedStep for the whole step, with mode 'max-autotune-no-cudagraphs'"
        )
    if mode is not None and mode != "default":
        if backend != "inductor":
            raise LocalgradError(f"mode {mode!r} is inductor's: leave out backend={backend!r}")
        try:
            settings = {**torch._inductor.list_mode_options(mode), **settings}
        except RuntimeError as error:
            raise LocalgradError(f"mode {mode!r}: {str(error).splitlines()[0]}") from error
    return {"backend": backend, "options": settings}


def _attach(learner: LocalLearner, options: dict[str, Any], fallback: bool) -> list[CompiledRun]:
    """Give every group its runs; they compile when they are first called."""
    found = []
    for group in learner._groups:
        for stage in group.stages:
            linked = group.linked if stage is group.stages[-1] else 0
            sizes = {"units": len(stage.units) - linked, "link": linked, "head": 1}
            for part, size in sizes.items():
                if not size:
                    continue
                twice = bool(linked) and part != "units"
                splits = part == "link" and not group._own
                run = CompiledRun(stage.index, part, twice, splits, **options)
                if stage.block.checkpoint is not None and part != "head":
                    run.failed = f"its units are checkpointed ({stage.block.checkpoint})"
                    if not fallback:
                        raise LocalgradError(
                            f"block {stage.index}: {run.failed}, which a compiled graph cannot do: "
                            "decouple without checkpoint, or give fallback=True"
                        )
                    continue_with = run
                    found.append(continue_with)
                    continue
                found.append(run)
                group.runs[stage.index, part] = run
    return found


def take_away(learner: LocalLearner) -> None:
    """Let steps run as they are."""
    for group in learner._groups:
        group.runs = {}


def _compile(
    learner: LocalLearner, x: Tensor, y: Any, fallback: bool, runs: list[CompiledRun]
) -> float:
    """Run steps until every run is compiled or given up; return the seconds it took."""
    start = time.perf_counter()
    while True:
        try:
            with as_it_was(learner, x.device), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, on what it looks at to compile
                learner.step(x, y)
            return time.perf_counter() - start
        except CompileError as error:
            if not fallback:
                raise
            error.run.failed = error.reason
        except LocalgradError:
            raise
        except Exception as error:  # of a backward: torch does not say whose
            text = str(error).splitlines()
            why = f"{type(error).__name__}: {text[0] if text else 'no reason given'}"
            if not fallback:
                raise LocalgradError(
                    f"torch.compile cannot compile the blocks' backward ({why}): give "
                    "fallback=True to leave them as they are"
                ) from error
            for run in runs:
                run.failed = run.failed or why


def _timed(learner: LocalLearner, x: Tensor, y: Any, repeats: int) -> tuple[float, float]:
    """Return median seconds of plain and compiled steps, taken in turn after one of each."""
    attached = [group.runs for group in learner._groups]
    nothing: list[dict[tuple[int, str], Any]] = [{} for _ in attached]
    times: tuple[list[float], list[float]] = ([], [])
    try:
        with as_it_was(learner, x.device):
            for turn in range(repeats + 1):
                for found, runs in zip(times, (nothing, attached), strict=True):
                    for group, own in zip(learner._groups, runs, strict=True):
                        group.runs = own
                    learner.zero_grad()
                    seconds = _seconds(lambda: learner.step(x, y), x.device)
                    if turn:
                        found.append(seconds)
    finally:
        for group, own in zip(learner._groups, attached, strict=True):
            group.runs = own
    return statistics.median(times[0]), statistics.median(times[1])


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
