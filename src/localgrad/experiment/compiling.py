"""Compiled steps of a run, where its configuration asks for them."""

from __future__ import annotations

from localgrad import CompileReport, LocalLearner
from localgrad.experiment.build import Experiment
from localgrad.experiment.precision import autocast


def compile_steps(experiment: Experiment, learner: LocalLearner) -> CompileReport | None:
    """Compile a learner's steps on the first batch; None where that is not asked for.

    Raises:
        LocalgradError: a block cannot be compiled, and ``compile_fallback`` is off.
    """
    config = experiment.config
    if not config.compile:
        return None
    learner.train()
    x, y = experiment.train.first()
    with autocast(experiment.device, config.precision):
        return learner.compile(x, y, fallback=config.compile_fallback)
