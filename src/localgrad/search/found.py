"""A finished decoupling in a rule's place, so that whatever takes a rule takes one that was found.

localgrad train --method.name localgrad.search.found:Found --method.file front/00.yaml
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError

PATH = f"{__name__}:Found"


@dataclass(frozen=True)
class Found:
    """Blocks as a file or plain data say.

    Args:
        file: of :meth:`localgrad.Decoupling.save`.
        decoupling: what such a file holds, in its place.
        title: what it is called beside others.
    """

    file: str | None = field(default=None, repr=False)
    decoupling: dict[str, Any] | None = field(default=None, repr=False)
    title: str = ""
    name: ClassVar[str] = "found"

    def __post_init__(self) -> None:
        if (self.file is None) == (self.decoupling is None):
            raise LocalgradError("Found: give the file of a decoupling, or what it holds")
        _ = self.value  # an unreadable file is found at once

    @cached_property
    def value(self) -> Decoupling:
        """The decoupling."""
        if self.file is not None:
            return Decoupling.load(self.file)
        return Decoupling.from_dict(self.decoupling or {})

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        """Return the decoupling.

        Raises:
            LocalgradError: it is for other units, or ``cuts`` are given.
        """
        if cuts is not None:
            raise LocalgradError("a finished decoupling has its cuts: give neither blocks nor cuts")
        if self.value.units != chain.names:
            raise LocalgradError(
                f"the decoupling is for {len(self.value.units)} units ({self.value.units[0]} .. "
                f"{self.value.units[-1]}), the network has {len(chain)} ({chain.names[0]} .. "
                f"{chain.names[-1]}): `localgrad transfer` maps it"
            )
        return self.value
