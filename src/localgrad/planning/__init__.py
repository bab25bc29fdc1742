"""Choosing how to train a network within a budget of memory, before anything is run.

:func:`plan` predicts what BP, activation checkpointing, gradient accumulation and the local rules
take, and says which one to choose and why. ``options`` says what is tried, ``planner`` goes through
them, ``predicted`` says how, ``search`` finds the largest batch, ``advice`` holds the order and its
reasons. :func:`devices` does the same for many devices, whose steps ``paper`` simulates.
"""

from localgrad.planning.advice import Advice, advise
from localgrad.planning.devices import Devices, devices
from localgrad.planning.measured import measure
from localgrad.planning.options import Option, options
from localgrad.planning.paper import DeviceRow
from localgrad.planning.plan import Plan, plan
from localgrad.planning.predicted import training_step
from localgrad.planning.row import Row
from localgrad.planning.search import largest_batch, micro_batch
from localgrad.sizes import read_bytes, shown

__all__ = [
    "Advice",
    "DeviceRow",
    "Devices",
    "Option",
    "Plan",
    "Row",
    "advise",
    "devices",
    "largest_batch",
    "measure",
    "micro_batch",
    "options",
    "plan",
    "read_bytes",
    "shown",
    "training_step",
]
