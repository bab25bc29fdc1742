"""What a decoupling's training step takes, predicted: nothing is trained for what does not fit."""

from __future__ import annotations

import json
from dataclasses import dataclass

from torch import Tensor, nn

from localgrad import decouple, predict_flops, predict_memory
from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.experiment.build import Experiment
from localgrad.experiment.config import Config
from localgrad.experiment.schedule import build_optimizer
from localgrad.planning.predicted import predict


@dataclass(frozen=True)
class Cost:
    """A whole training step in the steady state.

    Args:
        memory: bytes at the peak, with gradients and the optimizer's state.
        flops: of a step.
    """

    memory: int
    flops: int


class Costs:
    """Predictions on one network, each made once.

    Args:
        experiment: of the network; its learner must be released.
        chain: the network.
        example: two rows.
    """

    def __init__(self, experiment: Experiment, chain: Chain, example: Tensor) -> None:
        self.config: Config = experiment.config
        self.chain, self.example, self.loss = chain, example, experiment.loss
        self._found: dict[str, Cost] = {}

    def of(self, decoupling: Decoupling) -> Cost:
        """Return what a training step at the configured batch size takes.

        Raises:
            LocalgradError: a head that cannot be built there.
        """
        key = identity(decoupling)
        if key not in self._found:
            self._found[key] = self._predicted(decoupling)
        return self._found[key]

    def _predicted(self, decoupling: Decoupling) -> Cost:
        config = self.config
        learner = decouple(
            self.chain,
            decoupling,
            example_input=self.example,
            loss=self.loss,
            ties=config.ties,
            checkpoint=config.activation_checkpoint,
        )

        def optimizer(parameters: object) -> object:
            return build_optimizer(config.optimizer, nn.ParameterList(list(parameters)))  # type: ignore[call-overload]

        batch = config.batch_size
        try:
            if config.optimizer.update == "step":
                found = predict(learner, self.example, batch, optimizer, config.precision)  # type: ignore[arg-type]
                return Cost(found.memory.total, found.flops)
            memory = predict_memory(
                learner,
                self.example,
                batch=batch,
                optimizer=optimizer,  # type: ignore[arg-type]
                precision=config.precision,
                update=config.optimizer.update,
            )
            return Cost(memory.total, predict_flops(learner, self.example, batch=batch))
        finally:
            learner.release()


def identity(decoupling: Decoupling) -> str:
    """Return a text that equal decouplings share."""
    return json.dumps(decoupling.to_dict(), sort_keys=True)
