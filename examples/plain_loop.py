"""Local learning in a plain loop: your model, your optimizer, your batches.

Trains one small network on the digits by back-propagation and by two local rules, and prints what
each loss trains, how accurate the network is, and how accurate each block's head is by itself.

    pip install localgrad scikit-learn
    python examples/plain_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import localgrad


def network() -> nn.Module:
    """Eight layers; any module that maps one tensor to one will do."""

    def layer(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *layer(1, 16), *layer(16, 16), *layer(16, 16), *layer(16, 32, 2), *layer(32, 32),
        *layer(32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def main() -> dict[str, float]:
    """Return the test accuracy of each rule."""
    digits = load_digits()
    images, labels = torch.from_numpy(digits.images).float()[:, None] / 16, digits.target
    x_test, y_test = images[1400:], torch.from_numpy(labels[1400:])
    train = TensorDataset(images[:1400], torch.from_numpy(labels[:1400]))

    found = {}
    for method, blocks in [("backprop", 1), ("greedy", 3), ("backlink", 3)]:
        torch.manual_seed(0)
        learner = localgrad.decouple(network(), method, blocks=blocks, example_input=images[:2])
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.05, momentum=0.9)
        for _ in range(5):
            for x, y in DataLoader(train, 64, shuffle=True):
                learner.step(x, y)  # in place of forward, loss and backward
                optimizer.step()
                optimizer.zero_grad()

        learner.eval()
        exits = [(scores.argmax(1) == y_test).float().mean() for scores in learner.exits(x_test)]
        found[method] = float(exits[-1])  # the last exit is the model's own output
        print(learner.decoupling)
        print("accuracy of each block's exit:", ", ".join(f"{e:.1%}" for e in exits), end="\n\n")
        learner.release()  # gives the plain model back
    return found


if __name__ == "__main__":
    main()
