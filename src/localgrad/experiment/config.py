"""The configuration of a run: a tree of plain values, checked before anything is built."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from localgrad.errors import LocalgradError
from localgrad.experiment.kept_options import CheckpointConfig, LogConfig
from localgrad.experiment.option_kinds import Choice as Choice
from localgrad.experiment.option_kinds import (
    Count,
    Factor,
    Momentum,
    Rate,
    Room,
    Section,
    Seed,
    Share,
)
from localgrad.experiment.search_options import SearchConfig
from localgrad.experiment.yaml_text import dumps, read_yaml
from localgrad.sizes import read_bytes


class DataConfig(Section):
    """Which images, and how they are fed."""

    name: str = Field("digits", description="data set: see `localgrad list`")
    path: str | None = Field(None, description="folder of parquet files or images; text: a file")
    limit: Count | None = Field(None, description="train on the first N images")
    test_limit: Count | None = Field(None, description="test on the first N images")
    size: Count | None = Field(None, description="resize to N by N pixels")
    channels: Literal["rgb", "grey"] | None = Field(None, description="make all images rgb or grey")
    augment: bool = Field(True, description="random crop and flip as published for the data set")
    crop: Literal["pad", "resized"] | None = Field(
        None, description="pad and crop, or a random part resized; default: as published"
    )
    pad: Room | None = Field(None, description="pixels on each side; default: as published")
    padding: Literal["reflect", "zero"] | None = Field(
        None, description="what the pad holds; default: as published"
    )
    flip: bool | None = Field(None, description="mirror left to right; default: as published")
    drop_last: bool = Field(False, description="leave out a last batch of fewer images")
    stream: bool | None = Field(
        None, description="read images while training; default: imagenet alone"
    )
    on_corrupt: Literal["stop", "skip"] = Field(
        "stop", description="at an image that cannot be decoded; skip counts and names it"
    )
    workers: Room = Field(2, description="processes that read streamed images; 0: none")
    prefetch: Count = Field(2, description="batches that each of them has ready")
    level: Literal["byte", "char"] = Field("byte", description="text: what a token is")
    context: Count = Field(128, description="text: tokens in a window")

    @property
    def inputs(self) -> str:
        """What one input is called."""
        return "sequences" if self.name == "text" else "images"


class OptimizerConfig(Section):
    """How weights move."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="sgd or adamw")
    lr: Rate = Field(0.1, description="peak learning rate")
    momentum: Momentum = Field(0.9, description="SGD's momentum")
    nesterov: bool = Field(True, description="SGD with Nesterov momentum")
    weight_decay: Rate = Field(1e-4, description="on every parameter")
    update: Literal["step", "block"] = Field(
        "step", description="after the whole step, or block by block: the same bits, less memory"
    )
    fused: bool | None = Field(
        None, description="one kernel for all of an update; default: PyTorch's choice"
    )


class ScheduleConfig(Section):
    """How the learning rate moves, step by step."""

    name: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="cosine, step or constant"
    )
    warmup_epochs: Rate = Field(0, description="linear warm-up, in epochs")
    warmup_lr: Rate | None = Field(
        None, description="learning rate at the start of the warm-up; default: a tenth of lr"
    )
    milestones: list[Share] = Field(
        [0.5, 0.75], description="step decay: parts of the run after which lr falls"
    )
    gamma: Factor = Field(0.1, description="step decay: factor")


class ParallelConfig(Section):
    """How many processes train together; torchrun starts them."""

    blocks: Count = Field(1, description="parts that the network's blocks are spread over")
    data: Count = Field(1, description="replicas of each part, each with rows of the batch")
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] = Field(
        20.0, description="seconds that a process waits for another before the run ends"
    )
    late_links: bool | list[Room] = Field(
        False,
        description="links between processes come one step late, so that none waits; or the blocks "
        "whose link does",
    )
    memory: str | float | None = Field(
        None, description="most that a process's part may hold, such as 2GiB; default: no bound"
    )

    @field_validator("memory")
    @classmethod
    def _is_a_size(cls, given: str | float | None) -> str | float | None:
        if given is not None:
            read_bytes(given, "memory")
        return given

    @property
    def processes(self) -> int:
        """How many processes there are."""
        return self.blocks * self.data


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
    def _finished(self) -> Config:
        if self.decoupling is None:
            return self
        taken = [key for key in ("blocks", "cuts", "balance") if getattr(self, key) is not None]
        if self.method != type(self).model_fields["method"].default:
            taken.insert(0, "method")
        if taken:
            raise ValueError(
                f"decoupling: {self.decoupling!r} has its heads and cuts: leave out "
                f"{' and '.join(taken)}"
            )
        return self

    @model_validator(mode="after")
    def _scaler_sees_all(self) -> Config:
        if self.precision == "fp16" and self.optimizer.update == "block":
            raise ValueError(
                "optimizer.update: 'block' cannot go with precision 'fp16', whose scaler must see "
                "all gradients before it decides whether to skip an update; use 'step' or bf16"
            )
        return self

    @model_validator(mode="after")
    def _links_can_be_late(self) -> Config:
        late = self.parallel.late_links
        if late is False:
            return self
        if late is True and self.parallel.blocks == 1:
            raise ValueError(
                "parallel.late_links: 'true' means links between parts, and parallel.blocks is 1; "
                "name the blocks, as in [0, 2]"
            )
        for key, given in (("precision", self.precision == "fp16"), ("compile", self.compile)):
            if given:
                raise ValueError(
                    f"parallel.late_links cannot go with {key} {getattr(self, key)!r}: leave one "
                    "out"
                )
        return self

    @model_validator(mode="after")
    def _parts_can_run(self) -> Config:
        if self.parallel.processes == 1:
            return self
        if self.precision == "fp16":
            raise ValueError(
                "parallel: precision 'fp16' needs a scaler that sees the gradients of all "
                "processes; use 'bf16'"
            )
        if self.compile:
            raise ValueError("parallel: compile is for one process; leave it out")
        if self.batch_size % self.parallel.data:
            raise ValueError(
                f"parallel: a batch_size of {self.batch_size} does not divide among "
                f"{self.parallel.data} replicas"
            )
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


def read_options(path: str | Path) -> dict[str, Any]:
    """Read a file of options; a dotted key, ``data.limit: 100``, stands for a nested one."""
    tree = read_yaml(path)
    for key in [key for key in tree if isinstance(key, str) and "." in key]:
        override(tree, key, tree.pop(key))
    return tree


def to_yaml(config: Config) -> str:
    """Return the whole tree as YAML, which ``--config`` reads back."""
    return dumps(config.model_dump())


def override(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``a.b.c`` in a nested tree; another rule or network drops the options of the old one.

    >>> tree = {"method": {"name": "auglocal", "depth": 2}}
    >>> override(tree, "method.name", "dgl"); tree
    {'method': {'name': 'dgl'}}
    """
    *path, last = dotted.split(".")
    inner = tree
    for key in path:
        if isinstance(inner.get(key), str) and key in ("method", "network"):
            inner[key] = {"name": inner[key]}
        child = inner.setdefault(key, {})
        if not isinstance(child, dict):
            raise LocalgradError(f"option {dotted!r}: {key!r} holds {child!r}, not options")
        inner = child
    if dotted in ("method.name", "network.name") and inner.get("name") not in (None, value):
        inner.clear()
    inner[last] = value
