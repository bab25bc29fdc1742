"""A local step that forgets to stop a gradient, and how the audit shows it.

Four blocks, each with a head of its own, trained by hand: every loss should train its block and its
head alone. In ``forgetful`` the input of one block is not detached, so its loss trains the block
before it too. Nothing fails, and the network learns; only the reach is not what was meant, and the
memory of two blocks is held at once.

    pip install localgrad scikit-learn
    python examples/forgotten_detach.py
    cd examples; localgrad audit --step forgotten_detach:forgetful
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from localgrad.layer_columns import layer_columns

WIDTHS = (1, 8, 16, 16, 32)


class Blocks(nn.Module):
    """Four blocks of a convolution each, and a linear head for each."""

    def __init__(self) -> None:
        super().__init__()
        pairs = pairwise(WIDTHS)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairs
        )
        self.heads = nn.ModuleList(nn.Linear(b, 10) for b in WIDTHS[1:])

    def local_step(self, x: Tensor, y: Tensor, stopped: Callable[[int, Tensor], Tensor]) -> None:
        """Run each block on its stopped input, and each loss's backward."""
        for k, (block, head) in enumerate(zip(self.blocks, self.heads, strict=True)):
            x = block(stopped(k, x))
            loss = F.cross_entropy(head(x.mean(dim=(2, 3))), y)
            loss.backward(retain_graph=True)


def made(stopped: Callable[[int, Tensor], Tensor]) -> tuple[nn.Module, Callable[[], None]]:
    """Return a model, and a step on 32 digits that updates it."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.from_numpy(digits.images[:32]).float()[:, None] / 16
    y = torch.from_numpy(digits.target[:32])
    model = Blocks()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step() -> None:
        model.local_step(x, y, stopped)
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def forgetful() -> tuple[nn.Module, Callable[[], None]]:
    """Block 2 is forgotten: its input is not detached."""
    return made(lambda k, x: x if k == 2 else x.detach())


def repaired() -> tuple[nn.Module, Callable[[], None]]:
    """Every input is detached."""
    return made(lambda k, x: x.detach())


def main() -> dict[str, localgrad.Reach]:
    """Return the measured reach of both steps."""
    found = {}
    for build in (forgetful, repaired):
        model, step = build()
        reach = localgrad.audit(step, model, layer_columns(model))
        print(f"{build.__name__}: which layers each loss trains\n{reach}\n")
        found[build.__name__] = reach
    return found


if __name__ == "__main__":
    main()
