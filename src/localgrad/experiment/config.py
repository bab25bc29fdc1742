"""The configuration of a run: a tree of plain values, checked before anything is built."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from localgrad.errors import LocalgradError

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Choice(BaseModel):
    """A name and the options of what it names; those are checked where it is built."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class DataConfig(_Section):
    """Which images, and how they are fed."""

    name: str = Field("digits", description="data set: see `localgrad list`")
    path: str | None = Field(None, description="folder of parquet files; else LOCALGRAD_DATA, else download")
    limit: Positive | None = Field(None, description="train on the first N images")
    test_limit: Positive | None = Field(None, description="test on the first N images")
    augment: bool = Field(True, description="random crop and flip as published for the data set")
    drop_last: bool = Field(False, description="leave out a last batch of fewer images")


class OptimizerConfig(_Section):
    """How weights move."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="optimizer")
    lr: Rate = Field(0.1, description="peak learning rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD's momentum")
    nesterov: bool = Field(True, description="SGD with Nesterov momentum")
    weight_decay: Rate = Field(1e-4, description="on every parameter")


class ScheduleConfig(_Section):
    """How the learning rate moves, step by step."""

    name: Literal["cosine", "step", "constant"] = Field("cosine", description="shape")
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(0, description="linear warm-up, in epochs")
    warmup_lr: Rate = Field(0.01, description="learning rate at the start of the warm-up")
    milestones: list[float] = Field(
        [0.5, 0.75], description="step decay: parts of the run after which lr falls"
    )
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="step decay: factor")


class Config(_Section):
    """Everything that decides a run's numbers, and where they go."""

    method: Choice = Field(Choice(name="backprop"), description="rule: see `localgrad list`")
    network: Choice = Field(Choice(name="resnet20"), description="network: see `localgrad list`")
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    blocks: Positive | None = Field(None, description="number of blocks K; default: the method's")
    cuts: list[str | int] | None = Field(None, description="last unit of each block but the final")
    epochs: Positive = Field(10, description="passes over the training images")
    batch_size: Positive = Field(128, description="images a step")
    seed: int = Field(0, description="of weights, order and augmentation")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast")
    channels_last: bool = Field(True, description="memory layout of images and weights")
    device: str = Field("auto", description="cpu, cuda, cuda:1; auto: cuda where there is one")
    threads: Positive | None = Field(None, description="CPU threads; default: PyTorch's choice")
    out: str | None = Field(None, description="run folder; default: runs/<method>-<network>-...")
    methods: list[Choice] = Field([], description="`compare`: the rules to run")
    seeds: list[int] = Field([], description="`compare`: the seeds to run each rule with")
    repeats: Annotated[int, Field(ge=5)] = Field(7, description="`compare`: timed steps of each rule")


def build_config(tree: dict[str, Any]) -> Config:
    """Check a tree of plain values.

    Raises:
        LocalgradError: names every unknown key, with the near match, and every refused value.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise LocalgradError("; ".join(_sentence(e) for e in error.errors())) from error


def _sentence(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = dict(keys())
        near = difflib.get_close_matches(where, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown option {where!r}{hint}"
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}, got {error['input']!r}"


def keys() -> list[tuple[str, Any]]:
    """Return (dotted key, pydantic field) of every option."""

    def walk(model: type[BaseModel], prefix: str) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        for name, info in model.model_fields.items():
            kind = info.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += [(f"{prefix}{name}.{key}", field) for key, field in walk(kind, "")]
            else:
                found.append((f"{prefix}{name}", info))
        return found

    return walk(Config, "")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        LocalgradError: the file is missing, is not YAML or is not a mapping.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise LocalgradError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LocalgradError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, dict):
        raise LocalgradError(f"{path}: expected options, got {type(tree).__name__}")
    return tree


def to_yaml(config: Config) -> str:
    """Return the whole tree as YAML."""
    text: str = yaml.safe_dump(config.model_dump(), sort_keys=False)
    return text


def override(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``a.b.c`` in a nested tree; a new ``name`` drops the options of the old one.

    >>> tree = {"method": {"name": "auglocal", "depth": 2}}
    >>> override(tree, "method.name", "dgl"); tree
    {'method': {'name': 'dgl'}}
    """
    *path, last = dotted.split(".")
    for key in path:
        child = tree.setdefault(key, {})
        if not isinstance(child, dict):
            raise LocalgradError(f"option {dotted!r}: {key!r} holds a value, not options")
        tree = child
    if last == "name" and tree.get("name") not in (None, value):
        tree.clear()
    tree[last] = value
