"""A rule of one's own: a head, a loss and a reach, in under 40 lines.

Blocks learn in pairs: the loss of every second block also trains the block before it. An early
block is not asked for more certainty than it can have: its targets are smoothed. Nothing is
registered, and the audit measures that each loss trains what the rule declares.

    pip install localgrad scikit-learn
    python examples/own_rule.py
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from localgrad import Block, Chain, Decoupling, Goal, Part, Site

# ---- the rule: from here ...


def hidden_layer(site: Site, width: int) -> nn.Module:
    """Return a head: pool, one hidden layer, classes. ``site`` knows the shapes."""
    return nn.Sequential(
        site.pool(), nn.Linear(site.width, width), nn.ReLU(), nn.Linear(width, site.classes)
    )


def softened(goal: Goal, smoothing: float) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """Return a local loss: the task's, mixed with cross-entropy to equal classes."""
    return lambda output, y, image: (
        (1 - smoothing) * goal.loss(output, y) - smoothing * F.log_softmax(output, -1).mean()
    )


@dataclass(frozen=True)
class Pairs:
    """loss_k trains block k and head_k; for odd k it trains block k - 1 too."""

    width: int = 64
    smoothing: float = 0.2
    name: ClassVar[str] = "pairs"

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        ends = cuts or tuple(range(1, len(chain) + 1))  # by default one block a unit
        last = len(ends) - 1
        blocks = []
        for k, (start, stop) in enumerate(zip((0, *ends), ends, strict=False)):
            soft = round(self.smoothing * (1 - k / last), 3) if last else 0.0
            head = Part.of(hidden_layer, width=self.width) if k < last else None  # or the tail
            loss = Part.of(softened, smoothing=soft)
            blocks.append(Block(start, stop, head, loss, open=k % 2 == 1))
        return Decoupling(self.name, chain.names, tuple(blocks), asdict(self))


# ---- ... to here


def network() -> nn.Module:
    """Return a small plain network."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in [(1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1)]:
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def main() -> tuple[float, localgrad.Reach]:
    """Return the test accuracy and the measured reach."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    labels = torch.from_numpy(digits.target)
    torch.manual_seed(0)
    learner = localgrad.decouple(network(), Pairs(), example_input=images[:2])
    print(learner.decoupling)

    reach = localgrad.audit(lambda: learner.step(images[:32], labels[:32]), learner)
    print(f"\nmeasured (a mark: this loss trains this unit):\n{reach}")
    print(f"gradients where none was declared: {len(reach.violations)}\n")

    optimizer = torch.optim.SGD(learner.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(6):
        for rows in torch.randperm(1400).split(64):
            out = learner.step(images[rows], labels[rows])
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: losses " + ", ".join(f"{loss:.2f}" for loss in out.losses))
    model = learner.release().eval()
    with torch.no_grad():
        accuracy = float((model(images[1400:]).argmax(1) == labels[1400:]).float().mean())
    print(f"test accuracy {accuracy:.1%}")
    return accuracy, reach


if __name__ == "__main__":
    main()
