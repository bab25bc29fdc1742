"""From a configuration to a data set and a learner on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from localgrad import Decoupling, LocalLearner, decouple, losses, methods
from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment import decoupling_file, precision
from localgrad.experiment.building.data import AnyBatches, batches, load_data
from localgrad.experiment.building.fit import check_fit
from localgrad.experiment.building.method import build_method
from localgrad.experiment.building.network import build_network
from localgrad.experiment.config import Config
from localgrad.experiment.host import find_device, prepare
from localgrad.parallel.mesh import Mesh


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
    train, test = batches(config, data, device)
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
    check_fit(config, learner, example, data)
    return Experiment(config, method, learner, data, train, test, device, loss, mesh)
