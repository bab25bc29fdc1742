"""A published table as data: every row a full recipe, with the published figure and its source."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from localgrad.errors import LocalgradError
from localgrad.experiment.config import Config, build_config, sentence
from localgrad.experiment.options.kinds import Choice, Count, Room
from localgrad.experiment.yaml_text import read_yaml

FOLDER = Path(__file__).resolve().parents[2] / "recipes"

#: What a figure says, and its unit.
UNITS = {
    "test error": "%",
    "test accuracy": "%",
    "accuracy above": "points",
    "memory": "GB",
    "memory below": "%",
    "time above": "%",
    "time below": "%",
}
Certainty = Literal[
    "as published",
    "as cited by another paper",
    "from memory, unverified",
    "derived, not published",
]


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Published(_Plain):
    """A figure of a paper.

    Attributes:
        what: what it measures, a key of :data:`UNITS`.
        value: in that unit; memory in GB of 1e9 bytes.
        digits: decimals that the paper prints, where zeros at the end would be lost.
        than: the row that a difference is against.
        n: how many runs it is the mean of, where that is stated.
        source: paper and table.
        certainty: how sure we are that the figure stands there.
        note: how a claim was read.
    """

    what: Literal[
        "test error",
        "test accuracy",
        "accuracy above",
        "memory",
        "memory below",
        "time above",
        "time below",
    ]
    value: float = Field(allow_inf_nan=False)
    digits: Room | None = None
    than: str | None = None
    n: Count | None = None
    source: str
    certainty: Certainty
    note: str | None = None

    @property
    def unit(self) -> str:
        """Unit of the value."""
        return UNITS[self.what]

    @property
    def is_difference(self) -> bool:
        """Whether it is against another row."""
        return self.what.endswith(("above", "below"))

    @model_validator(mode="after")
    def _whole(self) -> Published:
        if not self.is_difference and self.than is not None:
            raise ValueError(f"{self.what} is against no row: leave out 'than'")
        if self.is_difference and self.than is None:
            raise ValueError(f"{self.what} needs 'than': the row that it is against")
        return self


class Row(_Plain):
    """One row: a run's full recipe and what the paper found.

    Attributes:
        config: the recipe, at seed 0; None where ``lacks`` says why there is none.
        losses: how many losses its learner has.
        assumed: option to the reason, for what the source leaves open.
        lacks: why it cannot be run at all.
    """

    name: str
    network: str
    config: Config | None
    losses: Count | None = None
    published: tuple[Published, ...] = ()
    assumed: dict[str, str] = {}
    lacks: str | None = None
    note: str | None = None


class Table(_Plain):
    """A table's rows, in the published order.

    Attributes:
        name: ``paper/table``, or the path of a file of one's own.
        images: training images of the whole data set.
    """

    name: str
    title: str
    paper: str
    images: Count | None = None
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """Return the row called ``name``."""
        return next(row for row in self.rows if row.name == name)

    def chosen(self, names: list[str] | None) -> list[Row]:
        """Return the named rows, in the table's order; all for None.

        Raises:
            LocalgradError: a row is unknown (the near match is named), named twice, or cannot
                be run.
        """
        if names is None:
            return list(self.rows)
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
                raise LocalgradError(f"table {self.name} has no row {name!r}; {hint}")
            if names.count(name) > 1:
                raise LocalgradError(f"row {name!r} is named twice")
            if self.row(name).lacks is not None:
                raise LocalgradError(f"row {name!r} cannot be run: {self.row(name).lacks}")
        return [row for row in self.rows if row.name in names]


def names() -> tuple[str, ...]:
    """Return the tables that come with the package.

    >>> names()[:2]
    ('auglocal/resnet110', 'auglocal/resnet32')
    """
    found = (path.relative_to(FOLDER).with_suffix("") for path in FOLDER.glob("*/*.yaml"))
    return tuple(sorted(path.as_posix() for path in found))


def read(name: str) -> Table:
    """Read a table by name, or one's own by the path of its file.

    Raises:
        LocalgradError: there is none (the near match is named), or the file is damaged: the row
            and what is wrong in it are named.

    >>> read("infopro/cifar10").row("resnet32-dgl-k4").published[0].value
    11.48
    """
    is_file = name.endswith((".yaml", ".yml"))
    if not is_file and name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
        near = near or [known for known in names() if name in known.split("/")]
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names())}"
        raise LocalgradError(f"unknown table {name!r}; {hint} A path ends in .yaml")
    path = Path(name) if is_file else FOLDER / f"{name}.yaml"
    tree = read_yaml(path)
    try:
        return _table(Path(name).stem if is_file else name, tree)
    except ValidationError as error:
        raise LocalgradError(f"{path}: {sentence(error.errors()[0])}") from error
    except LocalgradError as error:
        raise LocalgradError(f"{path}: {error}") from error


def _table(name: str, tree: dict[str, Any]) -> Table:
    tree = {key: value for key, value in tree.items() if key != "notes"}  # anchors for its rows
    shared = {key: tree.pop(key, {}) or {} for key in ("recipe", "published", "assumed")}
    given = tree.pop("rows", None)
    if not isinstance(given, list) or not all(isinstance(row, dict) for row in given):
        raise LocalgradError("rows: must be a list of rows (name: value)")
    for key, value in shared.items():
        if not isinstance(value, dict):
            raise LocalgradError(f"{key}: must be options (name: value), got {value!r}")
    rows = [_row(dict(row), **shared) for row in given]
    known = [row.name for row in rows]
    for row in rows:
        if known.count(row.name) > 1:
            raise LocalgradError(f"row {row.name!r} stands there twice")
        for figure in row.published:
            if figure.than is not None and figure.than not in known:
                raise LocalgradError(f"row {row.name!r}: there is no row {figure.than!r}")
    return Table(name=name, rows=tuple(rows), **tree)


def _row(
    given: dict[str, Any],
    recipe: dict[str, Any],
    published: dict[str, Any],
    assumed: dict[str, str],
) -> Row:
    name = given.get("name")
    if not isinstance(name, str) or not name or not set(name) <= _LETTERS:
        raise LocalgradError(f"a row's name must be of a-z, 0-9, '.' and '-', got {name!r}")
    own = {**recipe, **(given.pop("recipe", None) or {})}
    for key in ("network", "method", "blocks", "cuts"):
        if key in given:
            own[key] = given.pop(key)
    figures = given.pop("published", [])
    try:
        whole = [
            {**published, **(figure if isinstance(figure, dict) else {"value": figure})}
            for figure in (figures if isinstance(figures, list) else [figures])
        ]
        for figure in whole:  # what a row is against belongs to differences alone
            if not str(figure.get("what", "")).endswith(("above", "below")):
                figure.pop("than", None)
        config = None
        if given.get("lacks") is None:
            for key in ("network", "method", "epochs", "batch_size", "optimizer"):
                if key not in own:
                    raise LocalgradError(f"its recipe has no {key!r}")
            config = build_config(own)
        network = Choice.model_validate(own.get("network", "?")).name
        told = {**assumed, **(given.pop("assumed", None) or {})}
        row = {**given, "network": network, "config": config, "published": whole, "assumed": told}
        return Row.model_validate(row)
    except ValidationError as error:
        raise LocalgradError(f"row {name!r}: {sentence(error.errors()[0])}") from error
    except LocalgradError as error:
        raise LocalgradError(f"row {name!r}: {error}") from error


_LETTERS = set("abcdefghijklmnopqrstuvwxyz0123456789.-")
