"""From ``network`` and its options to a module that fits the data."""

from __future__ import annotations

from torch import nn

from localgrad import networks
from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment.building.by_path import made_by
from localgrad.experiment.options.kinds import Choice


def build_network(choice: Choice, data: Dataset | TextDataset) -> nn.Module:
    """Build a network by name or import path ``package.module:callable``.

    A network by name gets the data set's number of classes and channels, and the size of its
    images where it is built for one size, unless options say otherwise.
    """
    if networks.is_known_form(choice.name):
        return by_name(choice, _facts(choice, data))
    model = made_by(choice.name, choice.options, "network")
    if not isinstance(model, nn.Module):
        raise LocalgradError(
            f"network {choice.name!r} returned a {type(model).__name__}, expected an nn.Module"
        )
    return model


def by_name(choice: Choice, facts: networks.Facts | networks.TextFacts | None) -> nn.Module:
    """Build a network by name, with what it has to know of the data; None: its own defaults."""
    try:
        return networks.get(choice.name, facts, **choice.options)
    except LocalgradError:
        raise
    except (TypeError, ValueError) as error:
        raise LocalgradError(f"network {choice.name!r}: {error}") from error


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
