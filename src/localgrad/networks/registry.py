"""Networks by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from types import MappingProxyType

from torch import nn

from localgrad.errors import LocalgradError
from localgrad.networks import resnet_cifar as cifar
from localgrad.networks.gpt import gpt

_BUILDERS: MappingProxyType[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "resnet20": cifar.resnet20,
        "resnet32": cifar.resnet32,
        "resnet44": cifar.resnet44,
        "resnet56": cifar.resnet56,
        "resnet110": cifar.resnet110,
        "resnet_cifar": cifar.resnet_cifar,
        "gpt": gpt,
    }
)


def names() -> tuple[str, ...]:
    """The names that :func:`get` takes.

    >>> names()
    ('resnet20', 'resnet32', 'resnet44', 'resnet56', 'resnet110', 'resnet_cifar', 'gpt')
    """
    return tuple(_BUILDERS)


def reads_text(name: str) -> bool:
    """Whether the network called ``name`` takes tokens.

    >>> reads_text("gpt"), reads_text("resnet20")
    (True, False)
    """
    return name in _BUILDERS and "vocabulary" in inspect.signature(_BUILDERS[name]).parameters


def get(name: str, **options: object) -> nn.Module:
    """Build the network called ``name``.

    Args:
        name: one of :func:`names`.
        options: passed to its builder, such as ``num_classes=100``.

    Raises:
        LocalgradError: for an unknown name, or an option that the network does not take or lacks.

    >>> get("resnet20", num_classes=100).head.fc
    Linear(in_features=64, out_features=100, bias=True)
    """
    builder = _BUILDERS.get(name)
    if builder is None:
        near = difflib.get_close_matches(str(name), _BUILDERS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise LocalgradError(f"unknown network {name!r}: {hint}known are {', '.join(_BUILDERS)}")
    signature = inspect.signature(builder)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise LocalgradError(
            f"network {name!r}: {error}; its options are {', '.join(signature.parameters)}"
        ) from None
    return builder(**options)
