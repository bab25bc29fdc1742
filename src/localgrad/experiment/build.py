"""From a configuration to a data set and a learner on a device."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from localgrad import Decoupling, LocalLearner, decouple, losses, methods, networks
from localgrad.data import (
    Batches,
    Dataset,
    StreamedBatches,
    TextDataset,
    TokenBatches,
    load,
    load_text,
)
from localgrad.data.held_out import of_text
from localgrad.errors import LocalgradError
from localgrad.experiment import decoupling_file, precision
from localgrad.experiment.config import Choice, Config, sentence
from localgrad.experiment.host import prepare
from localgrad.parallel.mesh import Mesh

AnyBatches = Batches | StreamedBatches | TokenBatches
TEST_BYTES = 2**26  # of the images of a test batch, 111 of 224x224x3
TEST_TOKENS = 8192  # a batch of a text when testing


@dataclass(frozen=True, eq=False)
class Experiment:
    """What a run trains, and on what."""

    config: Config
    method: methods.Method | Decoupling
    learner: LocalLearner
    data: Dataset | TextDataset
    train: AnyBatches
    test: AnyBatches
    device: torch.device
    loss: Callable[[Tensor, Tensor], Tensor]
    mesh: Mesh | None = None

    @property
    def label(self) -> str:
        """The display name of the method, or of the decoupling's file."""
        if isinstance(self.method, Decoupling):
            file = self.config.decoupling
            return self.method.method if file is None else decoupling_file.label(file)
        return methods.label(self.method)

    @property
    def targets_each(self) -> int:
        """Targets of one input: 1 for an image, one a token for a text."""
        return self.data.context if isinstance(self.data, TextDataset) else 1


def build(
    config: Config,
    data: Dataset | TextDataset | None = None,
    mesh: Mesh | None = None,
    decoupling: Decoupling | None = None,
) -> Experiment:
    """Build everything a run needs; seeds the global random state.

    Args:
        config: the checked configuration.
        data: a data set already loaded by the same ``data`` options.
        mesh: the processes that train together, where they are several.
        decoupling: finished blocks in the method's place; default: what the configured file holds.

    Raises:
        LocalgradError: for anything in the configuration that cannot be built.
    """
    if config.parallel.processes > 1 and mesh is None:
        raise LocalgradError("parallel.blocks and parallel.data are for `train`: leave them out")
    device = find_device(config.device) if mesh is None else mesh.device
    prepare(config.threads, device)
    precision.check(device, config.precision)
    build_method(config.method)  # a misspelt option is found before the data is read
    if config.decoupling is not None and decoupling is None:
        decoupling = decoupling_file.read(config.decoupling)
    if data is None:
        data = load_data(config)
    torch.manual_seed(config.seed)
    model = build_network(config.network, data)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = model.to(device)
    train, test = _batches(config, data, device)
    example = test.first()[0][:2]
    method: methods.Method | Decoupling = build_method(config.method, data)
    if decoupling is not None:
        method = decoupling_file.for_data(decoupling, data)
    loss = losses.each_token if isinstance(data, TextDataset) else F.cross_entropy
    learner = decouple(
        model,
        method,
        config.blocks,
        config.cuts,
        example,
        loss,
        config.granularity,
        config.units,
        ties=config.ties,
        balance=config.balance,
        checkpoint=config.activation_checkpoint,
    )
    _check_outputs(config, learner, example, data)
    _check_last_batch(config, learner, len(data.train))
    _check_rows(config, len(data.train))
    return Experiment(config, method, learner, data, train, test, device, loss, mesh)


def load_data(config: Config, validation: float | None = None) -> Dataset | TextDataset:
    """Read the data set that the configuration names; ``digits`` has no use for a path.

    Args:
        config: of which ``data`` counts.
        validation: test on this part of the training data; the test data are not read.
    """
    wanted = config.data
    if wanted.name == "text":
        text = load_text(wanted.path, wanted.level, wanted.context, wanted.limit, wanted.test_limit)
        return text if validation is None else of_text(text, validation)
    data = load(
        wanted.name,
        None if wanted.name == "digits" else wanted.path,
        wanted.limit,
        wanted.test_limit,
        size=wanted.size,
        channels=wanted.channels,
        stream=wanted.stream,
        crop=wanted.crop,
        on_corrupt=wanted.on_corrupt,
        validation=validation,
    )
    given = {"pad": wanted.pad, "padding": wanted.padding, "flip": wanted.flip}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(data, **changed)


def _batches(
    config: Config, data: Dataset | TextDataset, device: torch.device
) -> tuple[AnyBatches, AnyBatches]:
    """Training and test batches."""
    wanted = config.data
    if isinstance(data, TextDataset):
        shift, drop_last = wanted.augment, wanted.drop_last
        rows = max(1, min(TEST_TOKENS // data.context, len(data.test)))
        return (
            data.train_batches(
                config.batch_size, seed=config.seed, drop_last=drop_last, device=device, shift=shift
            ),
            data.test_batches(rows, device=device),
        )
    shared: dict[str, Any] = {
        "device": device,
        "channels_last": config.channels_last,
        "workers": config.data.workers,
        "prefetch": config.data.prefetch,
    }
    train = data.train_batches(
        config.batch_size,
        seed=config.seed,
        drop_last=config.data.drop_last,
        augment=config.data.augment,
        **shared,
    )
    room = TEST_BYTES // (4 * math.prod(data.image_shape))
    test = data.test_batches(max(1, min(1000, len(data.test), room)), **shared)
    return train, test


def find_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` takes a CUDA device where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # the meta device holds no number
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise LocalgradError(f"device {name!r} cannot be used: {reason}") from error
    return device


def made_by(path: str, options: dict[str, Any], what: str) -> Any:
    """Call what ``package.module:callable`` names, with the options.

    Raises:
        LocalgradError: it cannot be imported, or the call fails, for whatever reason.
    """
    module, _, attribute = path.partition(":")
    try:
        builder = getattr(importlib.import_module(module), attribute)
        return builder(**options)
    except LocalgradError:
        raise
    # the code is the user's: it may raise anything
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise LocalgradError(
            f"{what} {path!r} cannot be built: {type(error).__name__}: {reason}"
        ) from error


def build_network(choice: Choice, data: Dataset | TextDataset) -> nn.Module:
    """Build a network by name or import path ``package.module:callable``.

    A network by name gets the data set's number of classes and channels, and the size of its
    images where it is built for one size, unless options say otherwise.
    """
    if networks.is_known_form(choice.name):
        facts = _facts(choice, data)
        try:
            return networks.get(choice.name, facts, **choice.options)
        except LocalgradError:
            raise
        except (TypeError, ValueError) as error:
            raise LocalgradError(f"network {choice.name!r}: {error}") from error
    model = made_by(choice.name, choice.options, "network")
    if not isinstance(model, nn.Module):
        raise LocalgradError(
            f"network {choice.name!r} returned a {type(model).__name__}, expected an nn.Module"
        )
    return model


def _facts(choice: Choice, data: Dataset | TextDataset) -> networks.Facts | networks.TextFacts:
    """Return what a built-in network has to know of the data."""
    is_text = isinstance(data, TextDataset)
    if choice.name in networks.names() and networks.reads_text(choice.name) != is_text:
        reads = "images" if is_text else "text"
        remedy = "set --network.name gpt" if is_text else "set --data.name text"
        raise LocalgradError(f"network {choice.name!r} reads {reads}, not {data.name}: {remedy}")
    if isinstance(data, TextDataset):
        return networks.TextFacts(data.num_classes, data.context)
    channels, height, width = data.image_shape
    return networks.Facts(data.num_classes, channels, (height, width))


def build_method(choice: Choice, data: Dataset | TextDataset | None = None) -> methods.Method:
    """Build a rule by name, its options' kinds checked; InfoPro learns the normalisation."""
    options = choice.options
    if ":" in choice.name:
        made: methods.Method = made_by(choice.name, options, "method")
        return made
    if choice.name == methods.InfoPro.name and isinstance(data, Dataset):
        options = {"mean": data.mean, "std": data.std, **options}
    methods.check(choice.name, options)
    try:
        method: methods.Method = TypeAdapter(methods.KNOWN[choice.name]).validate_python(options)
    except ValidationError as error:
        raise LocalgradError(sentence(error.errors()[0], "method")) from error
    return method


def _check_outputs(
    config: Config, learner: LocalLearner, example: Tensor, data: Dataset | TextDataset
) -> None:
    _, out = learner.chain.shapes(example)
    if isinstance(data, TextDataset):
        expected = (data.context, data.num_classes)
        if tuple(out) != expected:
            raise LocalgradError(
                f"the network returns {tuple(out)} for {data.context} tokens, expected {expected}: "
                f"a score for each of the vocabulary's {data.num_classes} tokens at each of them"
            )
        _check_causal(config, learner, example)
        return
    if tuple(out) != (data.num_classes,):
        remedy = (
            f"give {config.network.name} {data.num_classes} outputs"
            if ":" in config.network.name
            else f"set --network.num_classes {data.num_classes}"
        )
        raise LocalgradError(
            f"the network has {out[-1]} outputs, {data.name} has {data.num_classes} classes: "
            f"{remedy}"
        )


@torch.no_grad()
def _check_causal(config: Config, learner: LocalLearner, example: Tensor) -> None:
    """Refuse a network that sees the token which it is to predict."""
    tokens = learner.chain.sample(example)
    changed = tokens.clone()
    changed[:, -1] = (tokens[:, -1] + 1) % learner.chain.outputs[-1][-1]
    training = learner.backbone.training
    learner.eval()
    scores, others = learner.chain(tokens), learner.chain(changed)
    learner.train(training)
    if not torch.allclose(scores[:, :-1], others[:, :-1], rtol=1e-4, atol=1e-5):
        raise LocalgradError(
            f"network {config.network.name!r} sees later tokens: to predict the next one, its "
            "scores must depend on earlier ones alone (--network.is_decoder true makes a decoder "
            "of some models of transformers)"
        )


def _check_rows(config: Config, images: int) -> None:
    rest = images % config.batch_size
    if rest % config.parallel.data and not config.data.drop_last:
        raise LocalgradError(
            f"the last batch of {rest} images does not divide among {config.parallel.data} "
            "replicas: set --data.drop_last true"
        )


def _check_last_batch(config: Config, learner: LocalLearner, images: int) -> None:
    rest = images % config.batch_size
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in learner.modules())
    alone = config.batch_size == 1 or (rest == 1 and not config.data.drop_last)
    if norms and alone:
        raise LocalgradError(
            f"{images} images in batches of {config.batch_size} leave a batch of 1, on which batch "
            "norm cannot train: change --batch_size or set --data.drop_last true"
        )
