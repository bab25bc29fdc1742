"""The configuration of a run: all sections in one tree, checked before anything is built."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from localgrad.errors import LocalgradError
from localgrad.experiment.options.data import DataConfig
from localgrad.experiment.options.kept import CheckpointConfig, LogConfig
from localgrad.experiment.options.kinds import Choice, Count, Room, Section, Seed
from localgrad.experiment.options.optimizer import OptimizerConfig, ScheduleConfig
from localgrad.experiment.options.parallel import ParallelConfig
from localgrad.experiment.options.search import SearchConfig
from localgrad.experiment.options.together import check_together
from localgrad.experiment.yaml_text import dumps


class Config(Section):
    """Everything that decides a run's numbers, and where they go."""

    method: Choice = Field(Choice(name="backprop"), description="rule: see `localgrad list`")
    network: Choice = Field(Choice(name="resnet20"), description="network: see `localgrad list`")
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    blocks: Count | None = Field(None, description="number of blocks K; default: the rule's own")
    cuts: list[str | int] | None = Field(
        None, description="last unit of each block but the final one: labels or numbers"
    )
    decoupling: str | None = Field(
        None, description="train, audit: file of finished blocks, or a shipped one, for a method"
    )
    granularity: Literal["stage", "unit", "layer"] = Field(
        "unit", description="how finely the network is cut into units"
    )
    units: list[str] | None = Field(
        None, description="submodules that units end with, in place of a granularity"
    )
    balance: Literal["memory", "time"] | None = Field(
        None, description="cut into K blocks for the smallest peak, or the shortest longest block"
    )
    ties: Literal["first", "last", "untie"] | None = Field(
        None, description="who trains a tied weight: the first or last block, or each its copy"
    )
    epochs: Count = Field(10, description="passes over the training images")
    batch_size: Count = Field(128, description="images a step")
    checkpoint_every: Count | None = Field(
        None, description="save every N steps too; without it after every epoch"
    )
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    seed: Seed = Field(0, description="of weights, order and augmentation")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="fp32, or bf16 or fp16 by autocast (fp16 with a gradient scaler)"
    )
    activation_checkpoint: Literal["unit", "sqrt"] | None = Field(
        None, description="recompute activations in every block: each unit, or sqrt(n) groups"
    )
    compile: bool = Field(
        False, description="compile blocks' units with torch.compile; off where it does not pay"
    )
    compile_fallback: bool = Field(
        False, description="leave blocks that cannot be compiled as they are"
    )
    parallel: ParallelConfig = ParallelConfig()
    channels_last: bool = Field(True, description="memory layout of images and weights")
    device: str = Field("auto", description="cpu, cuda, cuda:1; auto: cuda where there is one")
    threads: Count | None = Field(None, description="CPU threads; default: PyTorch's choice")
    out: str | None = Field(None, description="folder of the results; default: runs/...")
    methods: list[Choice] = Field([], description="compare, bench, plan: the rules to run")
    seeds: list[Seed] = Field([], description="compare: the seeds to run each rule with")
    repeats: Annotated[int, Field(ge=5, strict=True)] = Field(
        7, description="compare, bench: timed steps of each rule"
    )
    analyse: Room = Field(
        500, description="compare: test images on which similarity (CKA) is measured; 0: none"
    )
    search: SearchConfig = SearchConfig()

    @field_validator("method", "network", mode="before")
    @classmethod
    def _default_name(cls, given: Any, info: Any) -> Any:
        """Let options alone mean those of the default."""
        if not isinstance(given, dict) or "name" in given:
            return given
        near = difflib.get_close_matches("name", [str(key) for key in given], n=1, cutoff=0.7)
        if near:
            key = f"{info.field_name}.{near[0]}"
            raise ValueError(f"unknown option {key!r}; did you mean '{info.field_name}.name'?")
        return {"name": cls.model_fields[info.field_name].default.name, **given}

    @field_validator("cuts", mode="before")
    @classmethod
    def _labels(cls, given: Any) -> Any:
        """A label such as 1.10 must not turn into the number 1.1."""
        for cut in given if isinstance(given, list) else ():
            if isinstance(cut, bool) or not isinstance(cut, int | str):
                raise ValueError(f"{cut!r} is no unit: put labels in quotes, as in ['1.0', '2.0']")
        return given

    @model_validator(mode="after")
    def _together(self) -> Config:
        check_together(self)
        return self

    @field_validator("seeds")
    @classmethod
    def _different(cls, given: list[int]) -> list[int]:
        if len(set(given)) < len(given):
            raise ValueError(f"the same seed twice in {given}")
        return given


def build_config(tree: dict[str, Any]) -> Config:
    """Check a tree of plain values.

    Raises:
        LocalgradError: names every unknown key, with the near match, and every refused value.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise LocalgradError("; ".join(sentence(e) for e in error.errors())) from error


def sentence(error: Any, place: str = "") -> str:
    """Return what pydantic found wrong: where, what was expected, what came."""
    where = ".".join(str(part) for part in (*([place] if place else []), *error["loc"]))
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, [key for key, _ in keys()], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown option {where!r}{hint}"
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] == "value_error":
        text = str(error["ctx"]["error"])
        return f"{where}: {text}" if where and not text.startswith("unknown option") else text
    given = repr(error["input"])
    given = given if len(given) <= 60 else f"{given[:57]}..."
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{where}: must be options (name: value), got {given}"
    text = error["msg"].replace("Input should be", "must be")
    text = text.replace("a valid integer", "a whole number").replace("a valid ", "a ")
    return f"{where}: {text[0].lower()}{text[1:]}, got {given}"


def keys() -> list[tuple[str, Any]]:
    """Return (dotted key, pydantic field) of every option."""

    def walk(model: type[BaseModel], prefix: str) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        for name, info in model.model_fields.items():
            kind = info.annotation
            if kind is Choice:
                named = Field(info.default.name, description=info.description)
                named.annotation = str
                found.append((f"{prefix}{name}.name", named))
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                found += walk(kind, f"{prefix}{name}.")
            else:
                found.append((f"{prefix}{name}", info))
        return found

    return walk(Config, "")


def to_yaml(config: Config) -> str:
    """Return the whole tree as YAML, which ``--config`` reads back."""
    return dumps(config.model_dump())
