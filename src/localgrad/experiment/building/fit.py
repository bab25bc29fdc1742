"""Whether network, rule and data fit each other; found out before the first step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from localgrad import LocalLearner
from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment.config import Config


def check_fit(
    config: Config, learner: LocalLearner, example: Tensor, data: Dataset | TextDataset
) -> None:
    """Refuse outputs, or a last batch, that cannot be trained on.

    Args:
        config: of the run.
        learner: of its network.
        example: inputs of two rows.
        data: of the run.

    Raises:
        LocalgradError: names what does not fit, and the option that helps.
    """
    _check_outputs(config, learner, example, data)
    _check_last_batch(config, learner, len(data.train))
    _check_rows(config, len(data.train))


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
