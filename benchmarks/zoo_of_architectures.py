"""The architectures of the table: small, without weights, by family.

Every entry is (family, name, maker, input shape): the maker returns a model with 5 classes. They
come as torchvision, timm and transformers build them; one group wraps a language model's body
into a classifier, and the last one scores every token.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Entry = tuple[str, str, Callable[[], nn.Module], tuple[int, ...]]
IMAGE = (3, 64, 64)
TOKENS = (16,)

TORCHVISION = {
    "resnet": ["resnet18", "resnet50"],
    "resnext": ["resnext50_32x4d"],
    "wide_resnet": ["wide_resnet50_2"],
    "vgg": ["vgg11_bn", "vgg13"],
    "alexnet": ["alexnet"],
    "densenet": ["densenet121"],
    "mobilenet": ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"],
    "efficientnet": ["efficientnet_b0", "efficientnet_v2_s"],
    "regnet": ["regnet_y_400mf", "regnet_x_400mf"],
    "convnext": ["convnext_tiny"],
    "shufflenet": ["shufflenet_v2_x0_5"],
    "squeezenet": ["squeezenet1_1"],
    "googlenet": ["googlenet"],
    "inception": ["inception_v3"],
    "mnasnet": ["mnasnet0_5"],
    "swin": ["swin_t", "swin_v2_t"],
    "vit": ["vit_b_16"],
    "maxvit": ["maxvit_t"],
}  # fmt: skip
TIMM = {
    "vit": ["vit_tiny_patch16_224", "vit_relpos_small_patch16_224"],
    "deit": ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"],
    "swin": ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"],
    "maxvit": ["maxvit_rmlp_pico_rw_256", "coatnet_pico_rw_224"],
    "mixer": ["mixer_s32_224", "gmlp_s16_224"],
    "resmlp": ["resmlp_12_224"],
    "cait": ["cait_xxs24_224"],
    "xcit": ["xcit_nano_12_p16_224"],
    "pvt": ["pvt_v2_b0"],
    "poolformer": ["poolformer_s12", "caformer_s18"],
    "beit": ["beit_base_patch16_224"],
    "eva": ["eva02_tiny_patch14_224"],
    "twins": ["twins_svt_small"],
    "levit": ["levit_128s"],
    "mobilevit": ["mobilevit_xxs", "mobilevitv2_050"],
    "hrnet": ["hrnet_w18_small"],
    "dla": ["dla34"],
    "res2net": ["res2net50_26w_4s"],
    "resnest": ["resnest14d"],
    "resnet": ["resnet26d", "resnetv2_50", "seresnet50"],
    "nfnet": ["nf_resnet26", "dm_nfnet_f0"],
    "ghostnet": ["ghostnet_050"],
    "efficientformer": ["efficientformer_l1", "efficientformerv2_s0"],
    "efficientnet": ["efficientnet_lite0", "tf_efficientnetv2_b0"],
    "edgenext": ["edgenext_xx_small"],
    "convnext": ["convnext_atto", "convnextv2_atto"],
    "convmixer": ["convmixer_768_32"],
    "fastvit": ["fastvit_t8"],
    "repvgg": ["repvgg_a0"],
    "cspnet": ["cspresnet50"],
    "xception": ["xception41"],
    "vovnet": ["ese_vovnet19b_dw"],
    "mobilenetv4": ["mobilenetv4_conv_small"],
    "mambaout": ["mambaout_femto"],
    "hiera": ["hiera_tiny_224"],
    "davit": ["davit_tiny"],
    "focalnet": ["focalnet_tiny_srf"],
    "rexnet": ["rexnet_100"],
    "inception": ["inception_v4"],
    "nasnet": ["pnasnet5large"],
}  # fmt: skip
SIDES = {  # where 64 x 64 is too small or not a multiple of what the model asks for
    "inception_v3": 96,
    "inception_v4": 96,
    "swin_t": 64,
    "maxvit_t": 224,
    "eva02_tiny_patch14_224": 56,
    "swinv2_tiny_window8_256": 128,
    "hiera_tiny_224": 224,
    "levit_128s": 224,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": 224,
    "coatnet_pico_rw_224": 64,
    "pnasnet5large": 96,
    "xcit_nano_12_p16_224": 64,
}
SIZED = (  # those that are built for one image size
    "vit_t", "vit_r", "deit", "swin_tiny", "swinv2", "maxvit_r", "coatnet", "mixer", "gmlp",
    "resmlp", "cait", "beit", "eva", "xcit",
)  # fmt: skip
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 99}
WIDE = {**SMALL, "intermediate_size": 64}
GPT = {"n_embd": 32, "n_layer": 3, "n_head": 2, "vocab_size": 99}
VISION = {k: v for k, v in WIDE.items() if k != "vocab_size"} | {"image_size": 32, "patch_size": 8}
CLASSIFIERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", WIDE),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", WIDE),
    "distilbert": ("DistilBertConfig", "DistilBertForSequenceClassification",
                   {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64, "vocab_size": 99}),
    "albert": ("AlbertConfig", "AlbertForSequenceClassification", {**WIDE, "embedding_size": 16}),
    "electra": ("ElectraConfig", "ElectraForSequenceClassification",
                {**WIDE, "embedding_size": 16}),
    "deberta_v2": ("DebertaV2Config", "DebertaV2ForSequenceClassification", WIDE),
    "gpt2": ("GPT2Config", "GPT2ForSequenceClassification", {**GPT, "pad_token_id": 0}),
    "llama": ("LlamaConfig", "LlamaForSequenceClassification", {**WIDE, "pad_token_id": 0}),
    "opt": ("OPTConfig", "OPTForSequenceClassification",
            {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    "mpnet": ("MPNetConfig", "MPNetForSequenceClassification", WIDE),
    "vit": ("ViTConfig", "ViTForImageClassification", VISION),
    "beit": ("BeitConfig", "BeitForImageClassification", VISION),
    "dinov2": ("Dinov2Config", "Dinov2ForImageClassification", VISION),
    "resnet": ("ResNetConfig", "ResNetForImageClassification",
               {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2],
                "layer_type": "basic"}),
    "convnext": ("ConvNextConfig", "ConvNextForImageClassification",
                 {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 2, 1]}),
    "swin": ("SwinConfig", "SwinForImageClassification",
             {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2],
              "num_heads": [2, 2], "window_size": 4}),
}  # fmt: skip
BODIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", "GPT2Model", GPT),
    "gpt_neo": ("GPTNeoConfig", "GPTNeoModel",
                {"hidden_size": 32, "num_layers": 4, "num_heads": 2, "vocab_size": 99,
                 "attention_types": [[["global", "local"], 2]]}),
    "pythia (gpt_neox)": ("GPTNeoXConfig", "GPTNeoXModel", WIDE),
    "opt": ("OPTConfig", "OPTModel",
            {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    "llama": ("LlamaConfig", "LlamaModel", WIDE),
    "mistral": ("MistralConfig", "MistralModel", {**WIDE, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2Config", "Qwen2Model", {**WIDE, "num_key_value_heads": 1}),
    "gemma": ("GemmaConfig", "GemmaModel", {**WIDE, "num_key_value_heads": 1, "head_dim": 16}),
    "phi": ("PhiConfig", "PhiModel", WIDE),
    "bloom": ("BloomConfig", "BloomModel",
              {"hidden_size": 32, "n_layer": 3, "n_head": 2, "vocab_size": 99}),
    "t5 (encoder)": ("T5Config", "T5EncoderModel",
                     {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 3, "num_heads": 2,
                      "vocab_size": 99}),
}  # fmt: skip
LANGUAGE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT),
    "llama": ("LlamaConfig", "LlamaForCausalLM", WIDE),
    "pythia (gpt_neox)": ("GPTNeoXConfig", "GPTNeoXForCausalLM", WIDE),
    "opt": ("OPTConfig", "OPTForCausalLM", CLASSIFIERS["opt"][2]),
    "bert": ("BertConfig", "BertForMaskedLM", WIDE),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM",
                {**WIDE, "num_local_experts": 2, "num_key_value_heads": 1}),
    "mamba": ("MambaConfig", "MambaForCausalLM",
              {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 99, "state_size": 4}),
}  # fmt: skip


class Classifier(nn.Module):
    """A language model's body, the mean over tokens, and a linear layer."""

    def __init__(self, body: nn.Module, width: int = 32) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores ``(batch, 5)`` of token numbers ``(batch, tokens)``."""
        scores: Tensor = self.head(self.body(tokens, use_cache=False).last_hidden_state.mean(1))
        return scores


def entries() -> list[Entry]:
    """Return every architecture of the table."""
    found: list[Entry] = []
    for family, names in TORCHVISION.items():
        found += [(family, f"torchvision:{n}", _vision(n), _image(n)) for n in names]
    for family, names in TIMM.items():
        found += [(family, f"timm:{n}", _timm(n), _image(n)) for n in names]
    for name, (config, model, options) in CLASSIFIERS.items():
        shape = (3, 32, 32) if "image_size" in options or "hidden_sizes" in options else TOKENS
        maker = _transformer(config, model, {**options, "num_labels": 5})
        found.append((name, f"transformers:{model}", maker, shape))
    for name, (config, model, options) in BODIES.items():
        body = _transformer(config, model, options)
        found.append((name, f"transformers:{model}", partial(_classifier, body), TOKENS))
    for name, (config, model, options) in LANGUAGE.items():
        maker = _transformer(config, model, options)
        found.append((name, f"transformers:{model}", maker, TOKENS))
    return found


def batch(shape: tuple[int, ...], rows: int) -> Tensor:
    """Return images or token numbers."""
    generator = torch.Generator().manual_seed(0)
    if len(shape) == 1:
        return torch.randint(3, 99, (rows, *shape), generator=generator)
    return torch.randn(rows, *shape, generator=generator)


def _image(name: str) -> tuple[int, int, int]:
    side = SIDES.get(name, 64)
    return 3, side, side


def _vision(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        options: dict[str, Any] = {"num_classes": 5}
        if name in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": False}
        if name == "vit_b_16":
            options["image_size"] = 64
        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
        return model

    return make


def _timm(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        options: dict[str, Any] = {"num_classes": 5}
        if name.startswith(SIZED):
            options["img_size"] = _image(name)[1]
        model: nn.Module = timm.create_model(name, pretrained=False, **options)
        return model

    return make


def _classifier(body: Callable[[], nn.Module]) -> nn.Module:
    return Classifier(body())


def _transformer(config: str, model: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()
        made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options))
        return made

    return make
