"""From a configuration to a data set and a learner on a device."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from localgrad import LocalLearner, decouple, methods, networks
from localgrad.data import Batches, Dataset, load
from localgrad.errors import LocalgradError
from localgrad.experiment.config import Choice, Config, sentence


@dataclass(frozen=True, eq=False)
class Experiment:
    """What a run trains, and on what."""

    config: Config
    method: methods.Method
    learner: LocalLearner
    data: Dataset
    train: Batches
    test: Batches
    device: torch.device

    @property
    def label(self) -> str:
        """The method's display name."""
        return methods.label(self.method)


def build(config: Config, data: Dataset | None = None) -> Experiment:
    """Build everything a run needs; seeds the global random state.

    Args:
        config: the checked configuration.
        data: a data set already loaded by the same ``data`` options.

    Raises:
        LocalgradError: for anything in the configuration that cannot be built.
    """
    device = find_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    build_method(config.method)  # a misspelt option is found before the data is read
    if data is None:
        data = load_data(config)
    torch.manual_seed(config.seed)
    model = build_network(config.network, data)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = model.to(device)
    train = _batches(config, data, device)
    test = data.test_batches(
        min(1000, len(data.test)), device=device, channels_last=config.channels_last
    )
    example, _ = next(test.evaluation())
    method = build_method(config.method, data)
    learner = decouple(
        model, method, blocks=config.blocks, cuts=config.cuts, example_input=example[:2]
    )
    _check_outputs(config, learner, example, data)
    _check_last_batch(config, learner, len(data.train))
    return Experiment(config, method, learner, data, train, test, device)


def load_data(config: Config) -> Dataset:
    """Read the data set that the configuration names; ``digits`` has no use for a path."""
    wanted = config.data
    path = None if wanted.name == "digits" else wanted.path
    return load(wanted.name, path, wanted.limit, wanted.test_limit)


def _batches(config: Config, data: Dataset, device: torch.device) -> Batches:
    if not config.data.augment:
        data = dataclasses.replace(data, pad=0, flip=False)
    return data.train_batches(
        config.batch_size,
        seed=config.seed,
        drop_last=config.data.drop_last,
        device=device,
        channels_last=config.channels_last,
    )


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


def build_network(choice: Choice, data: Dataset) -> nn.Module:
    """Build a network by name or import path ``package.module:callable``.

    A network by name gets the data set's number of classes and channels, and the size of its
    images where it is built for one size, unless options say otherwise.
    """
    if networks.is_known_form(choice.name):
        channels, height, width = data.image_shape
        facts = networks.Facts(data.num_classes, channels, (height, width))
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


def build_method(choice: Choice, data: Dataset | None = None) -> methods.Method:
    """Build a rule by name, its options' kinds checked; InfoPro learns the normalisation."""
    options = choice.options
    if ":" in choice.name:
        made: methods.Method = made_by(choice.name, options, "method")
        return made
    if choice.name == methods.InfoPro.name and data is not None:
        options = {"mean": data.mean, "std": data.std, **options}
    methods.check(choice.name, options)
    try:
        method: methods.Method = TypeAdapter(methods.KNOWN[choice.name]).validate_python(options)
    except ValidationError as error:
        raise LocalgradError(sentence(error.errors()[0], "method")) from error
    return method


def _check_outputs(config: Config, learner: LocalLearner, example: Tensor, data: Dataset) -> None:
    _, out = learner.chain.shapes(example)
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


def _check_last_batch(config: Config, learner: LocalLearner, images: int) -> None:
    rest = images % config.batch_size
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in learner.modules())
    alone = config.batch_size == 1 or (rest == 1 and not config.data.drop_last)
    if norms and alone:
        raise LocalgradError(
            f"{images} images in batches of {config.batch_size} leave a batch of 1, on which batch "
            "norm cannot train: change --batch_size or set --data.drop_last true"
        )
