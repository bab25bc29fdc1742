"""Local losses.

A local loss is called as ``loss(output, target, image)``: what the head returned, the batch's
targets, and the network's input (InfoPro reconstructs it). It comes from a builder, called as
``builder(goal, **options)``; a builder of one's own is any importable callable with that signature.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from localgrad.decoupling import Part
from localgrad.errors import LocalgradError

LocalLoss = Callable[[Any, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Goal:
    """What the network learns, for builders of local losses.

    Args:
        loss: the task loss, ``loss(logits, y) -> scalar``, as given to ``decouple``.
        classes: size of the network's output; 0 where ``decouple`` had no example input.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    classes: int = 0


class HeadOutput(NamedTuple):
    """What a head with several branches returns; a plain classifier returns its logits alone."""

    logits: Tensor | None = None
    features: Tensor | None = None
    image: Tensor | None = None


def logits_of(output: Any) -> Tensor | None:
    """Return a head's class scores, ``(batch, classes)``, or None where it has none."""
    scores: Tensor | None = output.logits if isinstance(output, HeadOutput) else output
    return scores


def each_token(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every token's scores against its target; a task loss for ``decouple``.

    Args:
        scores: ``(batch, tokens, vocabulary)``.
        targets: class indices, ``(batch, tokens)``; -100 leaves a token out.

    Returns:
        The mean over all tokens, in nats.

    Raises:
        LocalgradError: the shapes do not fit.

    >>> each_token(torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.long)).exp()
    tensor(4.)
    """
    if scores.dim() != 3 or scores.shape[:2] != targets.shape:
        raise LocalgradError(
            f"scores {tuple(scores.shape)} and targets {tuple(targets.shape)} do not fit: expected "
            "(batch, tokens, vocabulary) and (batch, tokens)"
        )
    return F.cross_entropy(scores.flatten(0, 1), targets.flatten())


def next_token(scores: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of each token's scores against the token that follows it.

    A task loss for ``decouple``, with the input itself as ``y``: ``learner.step(ids, ids)``.

    Args:
        scores: ``(batch, tokens, vocabulary)``; the last token's are not used.
        tokens: ``(batch, tokens)``, as they went in; -100 leaves a token out as a target.

    Returns:
        The mean over all but the last position, in nats.

    Raises:
        LocalgradError: the shapes do not fit, or there is a single token.
    """
    if tokens.dim() == 2 and tokens.shape[1] < 2:
        raise LocalgradError("next_token needs at least two tokens a row: the second is a target")
    if scores.shape[:2] != tokens.shape:
        return each_token(scores, tokens)  # says what does not fit
    return each_token(scores[:, :-1], tokens[:, 1:])


class Task:
    """The task's own loss (usually cross-entropy) on the head's logits."""

    def __init__(self, goal: Goal) -> None:
        self.loss = goal.loss

    def __call__(self, output: Any, target: Tensor, image: Tensor) -> Tensor:
        return self.loss(logits_of(output), target)  # type: ignore[arg-type]


def similarity_matrix(features: Tensor) -> Tensor:
    """Cosine similarity between the rows of a batch, ``(batch, ...)`` to ``(batch, batch)``.

    Where a feature map has more than 3 channels, each channel counts by its standard deviation
    over positions. Rows are centred and normalised (Nokland & Eidnes 2019, section 2.2 and code).
    """
    if features.dim() == 4:
        if features.shape[1] > 3 and features.shape[2] * features.shape[3] > 1:
            features = features.flatten(2).std(dim=2)
        else:
            features = features.flatten(1)
    # 1e-8 is zero in fp16, and a row of zeros then NaN
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    centred = features - features.mean(dim=1, keepdim=True)
    # not sqrt(sum of squares), whose gradient at a row of zeros is NaN
    rows: Tensor = centred / (1e-8 + torch.linalg.vector_norm(centred, dim=1, keepdim=True))
    with torch.autocast(rows.device.type, enabled=False):
        return (rows @ rows.t()).clamp(-1, 1)


class PredSimLoss:
    """``(1 - beta) * similarity matching + beta * task loss`` (Nokland & Eidnes 2019).

    Similarity matching is the mean squared difference between the similarity matrices of the
    head's feature map and of the one-hot targets.
    """

    def __init__(self, goal: Goal, beta: float) -> None:
        self.task, self.beta, self.classes = goal.loss, beta, goal.classes

    def __call__(self, output: HeadOutput, target: Tensor, image: Tensor) -> Tensor:
        assert output.features is not None
        assert output.logits is not None
        # not F.one_hot, which on some devices looks at the largest label: a GPU would be waited for
        labels = torch.arange(self.classes, device=target.device)
        onehot = (target[:, None] == labels).to(output.features.dtype)
        similar = F.mse_loss(similarity_matrix(output.features), similarity_matrix(onehot))
        return (1 - self.beta) * similar + self.beta * self.task(output.logits, target)


def supervised_contrast(features: Tensor, target: Tensor, temperature: float = 0.07) -> Tensor:
    """Supervised contrastive loss with one view, as in InfoPro's released code.

    Args:
        features: ``(batch, dimension)``; normalised here to length one.
        target: class indices, ``(batch,)``.
        temperature: divides the cosine similarities.

    Returns:
        The mean over the batch; a row whose class no other row shares counts as zero.
    """
    features = F.normalize(features, dim=1)
    scores = features @ features.t() / temperature
    itself = torch.eye(len(target), dtype=torch.bool, device=target.device)
    scores = scores.masked_fill(itself, torch.finfo(scores.dtype).min / 2)
    log_prob = (scores - scores.logsumexp(dim=1, keepdim=True)).masked_fill(itself, 0.0)
    same = ((target[:, None] == target[None, :]) & ~itself).to(features.dtype)
    return -((same * log_prob).sum(dim=1) / same.sum(dim=1).clamp(min=1)).mean()


class InfoProLoss:
    """``reconstruct * BCE(decoded image, image) + classify * (contrast or task loss)``.

    Source: Wang et al., ICLR 2021, equation 7 and released code. The image is brought back to
    the range 0..1 with ``mean`` and ``std`` before it is compared.
    """

    def __init__(
        self,
        goal: Goal,
        reconstruct: float,
        classify: float,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.task, self.reconstruct, self.classify = goal.loss, reconstruct, classify
        self.mean, self.std = mean, std

    def check(self, image: Tensor) -> None:
        """Refuse a normalisation that does not bring ``image`` back to 0..1."""
        channels = image.shape[1]
        if len(self.mean) not in (1, channels) or len(self.std) not in (1, channels):
            raise LocalgradError(f"InfoPro mean and std must have {channels} values, one a channel")
        pixels = self._undo(image)
        low, high = float(pixels.min()), float(pixels.max())
        if self.reconstruct and (low < -0.01 or high > 1.01):
            raise LocalgradError(
                f"InfoPro reconstructs images in 0..1, but they range from {low:.2f} to "
                f"{high:.2f}: give InfoPro the mean= and std= that they were normalised with"
            )

    def _undo(self, image: Tensor) -> Tensor:
        return image * _per_channel(self.std, image) + _per_channel(self.mean, image)

    def pixels(self, image: Tensor) -> Tensor:
        """Undo the normalisation: ``(batch, channels, height, width)`` in 0..1."""
        return self._undo(image).clamp(0, 1)

    def __call__(self, output: HeadOutput, target: Tensor, image: Tensor) -> Tensor:
        terms: list[Tensor] = []
        if output.image is not None:
            # BCE on probabilities is not defined under autocast; the decoder is tiny
            decoded, pixels = output.image.to(image.dtype), self.pixels(image)
            with torch.autocast(image.device.type, enabled=False):
                terms.append(self.reconstruct * F.binary_cross_entropy(decoded, pixels))
        if output.features is not None:
            contrast = supervised_contrast(output.features.to(image.dtype), target)
            terms.append(self.classify * contrast)
        elif output.logits is not None:
            terms.append(self.classify * self.task(output.logits, target))
        return torch.stack(terms).sum()


def _per_channel(values: Sequence[float], image: Tensor) -> Tensor:
    """Return one value a channel, filled in on the device: copied from the host it would wait."""
    return torch.stack([image.new_full((), value) for value in values]).view(-1, 1, 1)


def resolve(name: str, kind: str, known: dict[str, Any]) -> Any:
    """Return a built-in by name, or import ``package.module:attribute``."""
    if name in known:
        return known[name]
    if ":" not in name:
        raise LocalgradError(
            f"unknown {kind} {name!r}: use one of {', '.join(known)}, or package.module:attribute"
        )
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise LocalgradError(f"{kind} {name!r} cannot be imported: {error}") from error
    return found


LOSSES: dict[str, Callable[..., LocalLoss]] = {
    "task": Task,
    "predsim": PredSimLoss,
    "infopro": InfoProLoss,
}


def build(part: Part, goal: Goal) -> LocalLoss:
    """Make the local loss that ``part`` names.

    >>> build(Part("task"), Goal(F.mse_loss))(torch.ones(2), torch.zeros(2), None)
    tensor(1.)

    Raises:
        LocalgradError: the loss is unknown, cannot be imported, or refuses its options.
    """
    builder: Any = resolve(part.name, "loss", LOSSES)
    try:
        loss: LocalLoss = builder(goal, **part.options)
    except TypeError as error:
        raise LocalgradError(f"loss {part}: {error}") from error
    if not callable(loss):
        raise LocalgradError(f"loss {part} is a {type(loss).__name__}: a builder makes a loss")
    return loss
