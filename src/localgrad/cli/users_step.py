"""A user's own training step, found by name and audited."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from localgrad import LocalLearner, Reach, audit
from localgrad.errors import LocalgradError
from localgrad.layer_columns import layer_columns

_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


def audit_step(path: str) -> Reach:
    """Measure the reach of the step that ``package.module:function`` makes.

    The function takes nothing. It returns ``(model, step)``, or yields them once, so that it can
    clean up afterwards: a module, and a callable that runs one training step on it (losses,
    ``backward``, and the optimizer's update or not).

    Raises:
        LocalgradError: it cannot be found, returns something else, or fails; a failure is told with
            the user's file and line.
    """
    with _named(path):
        module, colon, name = path.partition(":")
        if not (module and colon and name):
            raise LocalgradError(f"--step {path!r}: expected package.module:function")
        imported = importlib.import_module(module)
        function = getattr(imported, name, None)
        if not callable(function):
            what = (
                "no function" if function is None else f"a {type(function).__name__}, no function,"
            )
            raise LocalgradError(f"--step {path!r}: {module} has {what} called {name!r}")
        made = function()
        running = made if isinstance(made, Generator) else None
        if running is not None:
            made = next(running, None)
        model, step = _checked(path, made)
        try:
            units = None if isinstance(model, LocalLearner) else layer_columns(model)
            reach = audit(step, model, units)
            if running is not None:
                next(running, None)
            return reach
        finally:
            if running is not None:
                running.close()


def _checked(path: str, made: Any) -> tuple[nn.Module, Callable[[], Any]]:
    expected = f"--step {path!r} must return (model, step), a torch.nn.Module and a callable"
    if not isinstance(made, tuple) or len(made) != 2:
        got = f"{len(made)} values" if isinstance(made, tuple) else f"a {type(made).__name__}"
        raise LocalgradError(f"{expected}; got {got}")
    model, step = made
    if not isinstance(model, nn.Module) or not callable(step):
        names = f"a {type(model).__name__} and a {type(step).__name__}"
        raise LocalgradError(f"{expected}; got {names}")
    if not any(p.requires_grad for p in model.parameters()):
        raise LocalgradError(f"--step {path!r}: the model has no parameter that could be trained")
    return model, step


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Tell any error of the user's code in one line, with its place."""
    try:
        yield
    except LocalgradError:
        raise
    # the code is the user's: it may raise anything
    except Exception as error:
        what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise LocalgradError(f"--step {path!r}: {_place(error)}{what.rstrip(': ')}") from error


def _place(error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*_OURS, "<"))
    ]
    library = str(Path(importlib.__file__ or "").parents[1])  # site-packages are in it
    own = [frame for frame in frames if not frame.filename.startswith(library)] or frames
    return f"{own[-1].filename}:{own[-1].lineno}: " if own else ""
