"""Kinds of values that options take, with what is checked of each."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1, strict=True)]
Room = Annotated[int, Field(ge=0, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Momentum = Annotated[float, Field(ge=0, lt=1, strict=True)]
Factor = Annotated[float, Field(gt=0, le=1, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Part = Annotated[float, Field(gt=0, lt=1, strict=True)]


class Section(BaseModel):
    """Options that belong together; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Choice(BaseModel):
    """A name and the options of what it names; those are checked where it is built.

    Options stand beside the name, or in a mapping ``options``: ``{name: vgg11, width: 8}`` and
    ``{name: vgg11, options: {width: 8}}`` are the same.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @model_validator(mode="before")
    @classmethod
    def _beside_the_name(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"name": given}
        if not isinstance(given, dict) or given.get("options") is None:
            return given
        beside = {key: value for key, value in given.items() if key != "options"}
        inside = given["options"]
        if not isinstance(inside, dict):
            raise ValueError(f"options must be a mapping (name: value), got {inside!r}")
        twice = sorted(str(key) for key in beside if key in inside)
        if twice:
            raise ValueError(f"{twice[0]!r} stands both beside options and in them")
        return {**beside, **inside}

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})
