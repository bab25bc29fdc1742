"""Local learning under Lightning's Trainer: data loaders, validation, checkpoints as always.

pip install 'localgrad[lightning]' scikit-learn
python examples/lightning_module.py
"""

import tempfile
from functools import partial

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from localgrad.adapters.lightning import LocalModule
from localgrad.methods import BackLink


def network() -> nn.Module:
    """Return a small plain network."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in [(1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1)]:
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def main() -> dict[str, float]:
    """Return the metrics of the last epoch."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    data = TensorDataset(images, torch.from_numpy(digits.target))
    train, test = torch.utils.data.Subset(data, range(1400)), [data[i] for i in range(1400, 1797)]

    torch.manual_seed(0)
    module = LocalModule(
        network(),
        BackLink(length=1),
        blocks=2,
        example_input=images[:2],
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        clip_norm=5.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val_accuracy", mode="max")
        trainer = Trainer(
            max_epochs=5, accelerator="cpu", callbacks=[best], logger=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, DataLoader(train, 64, shuffle=True), DataLoader(test, 64))
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        state = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    for name, value in sorted(metrics.items()):
        print(f"{name:16} {value:.3f}")
    print(f"the best checkpoint, of val_accuracy {best.best_model_score:.3f}, holds:")
    print(" ", ", ".join(sorted({".".join(name.split(".")[:2]) for name in state})))
    return metrics


if __name__ == "__main__":
    main()
