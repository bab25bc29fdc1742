"""Train any network in blocks with local gradients instead of one global back-propagation."""

from localgrad import starting as starting  # first: Ctrl-C while torch is imported

# isort: split
from importlib import import_module
from typing import Any

from localgrad import losses, methods
from localgrad.assembly import decouple
from localgrad.audit import audit
from localgrad.captured import CapturedStep
from localgrad.chain import Chain, Unit
from localgrad.compiled import CompileReport
from localgrad.decoupling import Block, Decoupling, Link, Part
from localgrad.errors import LocalgradError
from localgrad.flops import measure_flops
from localgrad.freed_memory import keep_freed_memory
from localgrad.learner import LocalLearner, StepOutput
from localgrad.losses import Goal
from localgrad.memory import Memory, measure_memory
from localgrad.prediction import predict_flops, predict_memory
from localgrad.reach import Reach
from localgrad.site import Site

__version__ = "0.1.0"

__all__ = [
    "Block",
    "CapturedStep",
    "Chain",
    "CompileReport",
    "Decoupling",
    "Goal",
    "Link",
    "LocalLearner",
    "LocalgradError",
    "Memory",
    "Part",
    "Reach",
    "Site",
    "StepOutput",
    "Unit",
    "__version__",
    "audit",
    "decouple",
    "keep_freed_memory",
    "losses",
    "measure_flops",
    "measure_memory",
    "methods",
    "predict_flops",
    "predict_memory",
]


def __getattr__(name: str) -> Any:
    """Load a room that few need when it is first asked for."""
    if name in ("data", "networks", "parallel", "planning", "search"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
