"""Checks of the options that networks share."""

from __future__ import annotations

from collections.abc import Sequence

from localgrad.errors import LocalgradError


def is_count(value: object) -> bool:
    """Whether ``value`` is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_counts(**values: object) -> None:
    """Refuse what is no whole number of at least 1.

    >>> check_counts(width=0)
    Traceback (most recent call last):
    localgrad.errors.LocalgradError: width must be a whole number of at least 1; got 0
    """
    for name, value in values.items():
        if not is_count(value) or int(value) < 1:  # type: ignore[call-overload]
            raise LocalgradError(f"{name} must be a whole number of at least 1; got {value!r}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse what is none of ``choices``.

    >>> check_choice("stem", "big", ("cifar", "imagenet"))
    Traceback (most recent call last):
    localgrad.errors.LocalgradError: stem must be one of cifar, imagenet; got 'big'
    """
    if value not in choices:
        raise LocalgradError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
