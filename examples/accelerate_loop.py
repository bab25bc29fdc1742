"""Local learning with Accelerate: the same loop on one device or on several.

pip install 'localgrad[accelerate]' scikit-learn
python examples/accelerate_loop.py
accelerate launch --num_processes 2 examples/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import localgrad
from localgrad.adapters.accelerate import prepare, step


def network() -> nn.Module:
    """Return a small plain network."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in [(1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1)]:
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def main() -> float:
    """Return the test accuracy."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    labels = torch.from_numpy(digits.target)

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)  # without cpu=True: any
    torch.manual_seed(0)
    learner = localgrad.decouple(network(), "backlink", blocks=2, example_input=images[:2])
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
    batches = DataLoader(TensorDataset(images[:1400], labels[:1400]), 32, shuffle=True)

    prepare(accelerator, learner)  # not through accelerator.prepare: only step() touches it
    optimizer, batches = accelerator.prepare(optimizer, batches)
    for epoch in range(5):
        for x, y in batches:
            with accelerator.accumulate(learner):
                out = step(accelerator, learner, x, y)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(learner.parameters(), 5.0)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.print(f"epoch {epoch + 1}: losses", [f"{loss:.2f}" for loss in out.losses])

    learner.eval()
    x, y = images[1400:].to(accelerator.device), labels[1400:].to(accelerator.device)
    with torch.no_grad():
        accuracy = float((learner(x).argmax(1) == y).float().mean())
    accelerator.print(f"{accelerator.num_processes} process(es), test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
