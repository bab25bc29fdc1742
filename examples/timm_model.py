"""A vision transformer from timm, cut by tracing, trained in blocks.

Nothing is declared: the model's forward is followed on stand-ins, and the model can be cut
wherever one tensor alone is alive. Prints the units, the accuracy, and the peak memory of a step.

    pip install localgrad timm scikit-learn
    python examples/timm_model.py
"""

from functools import partial

import timm
import torch
from sklearn.datasets import load_digits

import localgrad


def network() -> torch.nn.Module:
    """Return a small ViT; ``timm.create_model("resnet50")`` is cut in the same way."""
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 64, "depth": 5, "num_heads": 4}
    return timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=10, **sizes)


def main() -> dict[str, tuple[float, int]]:
    """Return each rule's test accuracy and the bytes of activations at a step's peak."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    labels = torch.from_numpy(digits.target)
    found = {}
    for method, blocks in [("backprop", 1), ("backlink", 3)]:
        torch.manual_seed(0)
        model = network()
        learner = localgrad.decouple(model, method, blocks=blocks, example_input=images[:2])
        if method != "backprop":
            print(learner.chain)
        optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
        for _ in range(5):
            for rows in torch.randperm(1400).split(100):
                learner.step(images[rows], labels[rows])
                optimizer.step()
                optimizer.zero_grad()
        memory = localgrad.measure_memory(partial(learner.step, images[:100], labels[:100]))
        model.eval()
        with torch.no_grad():
            right = (model(images[1400:]).argmax(1) == labels[1400:]).float().mean()
        found[method] = float(right), memory.activations
        print(f"{method}: {right:.1%}, {memory.activations / 2**20:.2f} MiB of activations\n")
    return found


if __name__ == "__main__":
    main()
