"""Libraries of models, imported when they are first used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from localgrad.errors import LocalgradError


@dataclass(frozen=True)
class Facts:
    """What the data set says about a network.

    Attributes:
        num_classes: logits to give.
        in_channels: channels of the images.
        size: height and width of the images, in pixels.
    """

    num_classes: int
    in_channels: int
    size: tuple[int, int]

    @property
    def image_size(self) -> int | tuple[int, int]:
        """One number where the images are square."""
        return self.size[0] if self.size[0] == self.size[1] else self.size


def imported(name: str, extra: str) -> ModuleType:
    """Import the library called ``name``.

    Args:
        name: a module's name.
        extra: the extra of this package that installs it.

    Raises:
        LocalgradError: the library, or one that it needs, is missing or cannot be imported.

    >>> imported("no_such_library", "vision")
    Traceback (most recent call last):
    localgrad.errors.LocalgradError: no_such_library is not installed: \
pip install 'localgrad[vision]'
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        if missing != name:
            missing = f"{missing}, which {name} needs,"
        raise LocalgradError(
            f"{missing} is not installed: pip install 'localgrad[{extra}]'"
        ) from error
    # an extension built for another PyTorch raises anything
    except Exception as error:
        raise unusable(name, error) from error


def unusable(name: str, error: BaseException) -> LocalgradError:
    """Say that a library is installed, but cannot be imported, and why."""
    while error.__cause__ is not None:
        error = error.__cause__
    hint = (
        "; torchvision must be built for this PyTorch (see pytorch.org)"
        if "torchvision" in str(error)
        else ""
    )
    return LocalgradError(f"{name} is installed but cannot be imported: {reason(error)}{hint}")


def reason(error: BaseException) -> str:
    """Return an error's kind and text in one line.

    >>> reason(RuntimeError("no licence\\nfor this"))
    'RuntimeError: no licence for this'
    """
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text[:300]}"


def built(name: str, build: Callable[[], Any]) -> nn.Module:
    """Return ``build()``; whatever it raises becomes one line that names the network.

    Raises:
        LocalgradError: the call fails, or returns something else than a module.
    """
    try:
        model = build()
    except LocalgradError:
        raise
    # options go to the library as they are: it may raise anything
    except Exception as error:
        raise LocalgradError(f"network {name!r} cannot be built: {reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise LocalgradError(f"network {name!r} is a {type(model).__name__}, not an nn.Module")
    return model


def unknown(what: str, name: str, known: Iterable[str]) -> LocalgradError:
    """Say that no ``what`` is called ``name``, and which known name is near.

    >>> print(unknown("network", "resnet21", ["resnet20", "vgg11"]))
    unknown network 'resnet21': did you mean 'resnet20'?
    """
    near = nearest(name, known)
    hint = f"did you mean {near!r}?" if near else "see `localgrad list`"
    return LocalgradError(f"unknown {what} {name!r}: {hint}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``name`` may stand for: the one of its family nearest in number.

    >>> nearest("resnet51", ["resnet18", "resnet50", "resnet152"]), nearest("vg11", ["vgg11"])
    ('resnet50', 'vgg11')
    """
    known = list(known)
    family, number = _numbered(name)
    distances = []
    for other in known:
        its_family, its_number = _numbered(other)
        if number is not None and its_number is not None and its_family == family:
            distances.append((abs(its_number - number), its_number, other))
    if distances:
        return min(distances)[2]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return near[0] if near else None


def _numbered(name: str) -> tuple[str, int | None]:
    family = name.rstrip("0123456789")
    return family, int(name[len(family) :]) if family and family != name else None
