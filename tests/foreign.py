"""Models as torchvision, timm and transformers build them, small; and awkward ones of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGES, TOKENS = (3, 32, 32), (7,)


def torchvision(name: str, **options: Any) -> nn.Module:
    package = pytest.importorskip("torchvision", reason="torchvision is not installed")
    return package.models.get_model(name, weights=None, num_classes=5, **options)


def small_resnet() -> nn.Module:
    models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
    model = models.ResNet(models.resnet.BasicBlock, [1, 2, 1, 1], num_classes=5)
    model.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
    return model


def timm(name: str, **options: Any) -> nn.Module:
    package = pytest.importorskip("timm", reason="timm is not installed")
    return package.create_model(name, pretrained=False, num_classes=5, **options)


def small_vit(**options: Any) -> nn.Module:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
    return timm("vit_tiny_patch16_224", **sizes, **options)


def small_swin() -> nn.Module:
    sizes = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 2)}
    return timm("swin_tiny_patch4_window7_224", num_heads=(2, 2), patch_size=2, **sizes)


def transformers(model: str, config: str, **options: Any) -> nn.Module:
    package = pytest.importorskip("transformers", reason="transformers is not installed")
    package.logging.set_verbosity_error()
    return getattr(package, model)(getattr(package, config)(**options))


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def bert() -> nn.Module:
    options = {**SIZES, "intermediate_size": 24, "vocab_size": 40, "num_labels": 5}
    return transformers("BertForSequenceClassification", "BertConfig", **options)


class MeanClassifier(nn.Module):
    """A language model's body, the mean over tokens, a linear layer."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(tokens, use_cache=False).last_hidden_state.mean(1))


GPT2 = {
    "n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "num_labels": 5,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip


def gpt2() -> nn.Module:
    return MeanClassifier(transformers("GPT2Model", "GPT2Config", **GPT2))


def t5() -> nn.Module:
    sizes = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 3, "num_heads": 2}
    return MeanClassifier(transformers("T5EncoderModel", "T5Config", vocab_size=40, **sizes))


class Skips(nn.Module):
    """Skip connections by torch.cat, functional layers, parameters of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(8, 8) / 3)
        self.shift = nn.Parameter(torch.zeros(8, 1, 1))
        self.register_buffer("scale", torch.tensor(0.5))
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        x = torch.cat([self.left(x), self.right(x)], 1)
        x = F.dropout(F.relu(x + self.shift), 0.2, self.training)
        batch, channels, height, width = x.shape
        x = F.linear(x.permute(0, 2, 3, 1), self.weight).permute(0, 3, 1, 2) * self.scale
        x = F.avg_pool2d(F.relu_(self.norm(x)), 2)
        x = x.reshape(batch, channels, height // 2 * (width // 2))
        return self.fc(x.mean(2))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (small_resnet, IMAGES),
    "vgg": (lambda: torchvision("vgg11_bn"), IMAGES),
    "mobilenet": (lambda: torchvision("mobilenet_v3_small"), IMAGES),
    "densenet": (lambda: torchvision("densenet121"), IMAGES),
    "vit": (lambda: small_vit(drop_path_rate=0.2, proj_drop_rate=0.1), IMAGES),
    "swin": (small_swin, IMAGES),
    "convnext": (lambda: timm("convnext_atto"), IMAGES),
    "bert": (bert, TOKENS),
    "gpt2": (gpt2, TOKENS),
    "gpt2_lm": (lambda: transformers("GPT2LMHeadModel", "GPT2Config", **GPT2), TOKENS),
    "gpt2_classifier": (
        lambda: transformers("GPT2ForSequenceClassification", "GPT2Config", **GPT2),
        TOKENS,
    ),
    "t5": (t5, TOKENS),
    "skips": (Skips, (3, 8, 8)),
}


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name][0]()


def inputs(name: str, rows: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = MODELS[name][1]
    if shape == TOKENS:
        return torch.randint(40, (rows, *shape), generator=generator)
    return torch.randn(rows, *shape, generator=generator)


def targets(rows: int = 4) -> Tensor:
    return torch.arange(rows) % 5
