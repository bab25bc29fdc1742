"""A network by name with made-up inputs: for what asks how much a step costs, not what it learns.

No data set says what the network reads: the network itself does, or the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localgrad import Chain, losses, networks
from localgrad.errors import LocalgradError
from localgrad.experiment.building.by_path import made_by
from localgrad.experiment.building.network import by_name
from localgrad.experiment.config import Config
from localgrad.experiment.host import find_device, prepare
from localgrad.experiment.options.kinds import Choice

VOCABULARY, CONTEXT = 256, 128  # of a language model that says neither
LONGEST = 1024  # tokens in a row, where a network would take more
_CONTEXTS = ("n_positions", "max_position_embeddings", "seq_length", "n_ctx")


@dataclass(frozen=True, eq=False)
class MadeUp:
    """A network cut into units, and inputs of the right shape.

    Attributes:
        chain: the network.
        shape: of one input, ``(channels, height, width)`` or ``(tokens,)``.
        vocabulary: number of different tokens; None where the inputs are numbers.
        outputs: shape of what the network returns for one input.
        device: where network and inputs are.
        channels_last: memory layout of images.
    """

    chain: Chain
    shape: tuple[int, ...]
    vocabulary: int | None
    outputs: tuple[int, ...]
    device: torch.device
    channels_last: bool

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The task loss that takes the network's scores."""
        return losses.each_token if len(self.outputs) == 2 else F.cross_entropy

    @property
    def inputs(self) -> str:
        """What is counted: images, tokens or inputs."""
        if self.vocabulary is not None:
            return "tokens"
        return "images" if len(self.shape) == 3 else "inputs"

    @property
    def each(self) -> int:
        """How many of them one input holds."""
        return self.shape[0] if self.vocabulary is not None else 1

    @property
    def size(self) -> str:
        """The shape as it is typed, such as ``3x224x224``."""
        return "x".join(map(str, self.shape))

    def example(self, rows: int = 2) -> Tensor:
        """Return inputs, ``(rows, *shape)``."""
        return _inputs(self.shape, self.vocabulary, rows, self.device, self.channels_last)

    def batch(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, both random."""
        *each, classes = self.outputs
        return self.example(rows), torch.randint(classes, (rows, *each), device=self.device)


def make(config: Config, shape: tuple[int, ...] | None = None) -> MadeUp:
    """Build the configured network and cut it into units; seeds the global random state.

    Args:
        config: of which network, granularity, units, device, layout and seed count.
        shape: of one input; default: what the network says.

    Raises:
        LocalgradError: the network cannot be built or cut, says nothing of its input, or does not
            take inputs of that shape.
    """
    device = find_device(config.device)
    prepare(config.threads, device)
    torch.manual_seed(config.seed)
    model, own = _model(config.network, shape)
    shape = shape or own
    if shape is None:
        raise LocalgradError(
            f"network {config.network.name!r} does not say what it reads: give --input, such as "
            "3x224x224, or 1024 for tokens"
        )
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = model.to(device)
    vocabulary = _vocabulary(model) if len(shape) == 1 else None
    example = _inputs(shape, vocabulary, 2, device, config.channels_last)
    chain = Chain.of(model, example, config.granularity, config.units)
    _, outputs = chain.shapes(example)
    if len(outputs) not in (1, 2):
        raise LocalgradError(
            f"network {config.network.name!r} returns {tuple(outputs)} per input: expected scores, "
            "(classes,) or (tokens, classes)"
        )
    return MadeUp(chain, shape, vocabulary, tuple(outputs), device, config.channels_last)


def read_shape(text: str) -> tuple[int, ...]:
    """Read the shape of one input.

    Raises:
        LocalgradError: it is no row of positive whole numbers.

    >>> read_shape("3x224x224"), read_shape("1024")
    ((3, 224, 224), (1024,))
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise LocalgradError(
            f"--input {text}: expected channels x height x width, such as 3x224x224, or a number "
            "of tokens, such as 1024"
        )
    return tuple(int(size) for size in text.split("x"))


def read_count(name: str, text: str) -> int:
    """Read a whole number of at least 1.

    >>> read_count("batch", "128")
    128
    """
    if not re.fullmatch(r"0*[1-9]\d*", text):
        raise LocalgradError(f"--{name} {text}: must be a whole number of at least 1")
    return int(text)


def _inputs(
    shape: tuple[int, ...],
    vocabulary: int | None,
    rows: int,
    device: torch.device,
    channels_last: bool,
) -> Tensor:
    if vocabulary is not None:
        return torch.randint(vocabulary, (rows, *shape), device=device)
    x = torch.rand(rows, *shape, device=device)
    # a stride of its own for every row: to(channels_last) may keep those of a batch of one
    return x.contiguous(memory_format=torch.channels_last) if channels_last and x.dim() == 4 else x


def _vocabulary(model: nn.Module) -> int | None:
    """Return the size of the first embedding: what turns tokens into vectors."""
    found = (m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding))
    return next(found, None)


def _model(
    choice: Choice, shape: tuple[int, ...] | None
) -> tuple[nn.Module, tuple[int, ...] | None]:
    """Build the network, and return the shape of input that it names itself."""
    name, options = choice.name, choice.options
    if not networks.is_known_form(name):
        model = made_by(name, options, "network")
        if not isinstance(model, nn.Module):
            raise LocalgradError(
                f"network {name!r} returned a {type(model).__name__}, expected an nn.Module"
            )
        return model, None
    if name in networks.names() and networks.reads_text(name):
        _check_rank(name, shape, 1)
        context = shape[0] if shape else int(options.get("context", CONTEXT))
        tokens = networks.TextFacts(int(options.get("vocabulary", VOCABULARY)), context)
        return by_name(choice, tokens), (context,)
    model = by_name(choice, None)
    own = _own_shape(choice, model)
    if shape is None or shape == own:
        return model, own
    if own is not None:
        _check_rank(name, shape, len(own))
    if len(shape) == 1:
        longest = _context(model)
        if longest is not None and shape[0] > longest:
            raise LocalgradError(f"--input {shape[0]}: {name} takes at most {longest} tokens")
        return model, own
    facts = networks.Facts(_classes(choice, model), shape[0], (shape[1], shape[2]))
    return by_name(choice, facts), own


def _check_rank(name: str, shape: tuple[int, ...] | None, rank: int) -> None:
    if shape is not None and len(shape) != rank:
        wanted = "a number of tokens, such as 1024" if rank == 1 else "a shape such as 3x224x224"
        given = "x".join(map(str, shape))
        raise LocalgradError(f"--input {given}: network {name!r} takes {wanted}")


def _own_shape(choice: Choice, model: Any) -> tuple[int, ...] | None:
    """Return the shape of the inputs for which the network was made."""
    library, colon, kind = choice.name.partition(":")
    if not colon:
        side = 224 if choice.options.get("stem") == "imagenet" else 32
        side = choice.options.get("image_size", side)
        return (int(choice.options.get("in_channels", 3)), *_sides(side))
    if library == "timm":
        return tuple(model.pretrained_cfg["input_size"])
    if library == "torchvision":
        side = getattr(model, "image_size", 299 if kind == "inception_v3" else 224)
        return (3, *_sides(side))
    config = model.config
    if getattr(model, "main_input_name", "") == "pixel_values":
        config = getattr(config, "vision_config", config)
        side = getattr(config, "image_size", 224)
        return (getattr(config, "num_channels", 3), *_sides(side))
    return (min(LONGEST, _context(model) or LONGEST),)


def _sides(side: Any) -> tuple[int, ...]:
    """Return height and width, which networks give as one number or as two."""
    return (int(side), int(side)) if isinstance(side, int) else tuple(side)


def _context(model: Any) -> int | None:
    """Return the longest row of tokens that a model of transformers takes."""
    config = getattr(model, "config", None)
    found = (getattr(config, key, None) for key in _CONTEXTS)
    return next((int(value) for value in found if value), None)


def _classes(choice: Choice, model: Any) -> int:
    """Return the number of classes that the network has by itself."""
    if ":" not in choice.name:
        return int(choice.options.get("num_classes", 10))
    own = getattr(model, "num_classes", None) or getattr(
        getattr(model, "config", None), "num_labels", None
    )
    return int(own or choice.options.get("num_classes", 1000))
