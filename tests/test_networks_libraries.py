"""Models of torchvision, timm and transformers by name, and what the command line makes of them."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import localgrad
from command import error_line
from localgrad import networks as N
from localgrad.cli import main
from localgrad.data import Dataset, ImageSet
from localgrad.errors import LocalgradError
from localgrad.experiment.building.network import build_network
from localgrad.experiment.config import build_config
from localgrad.experiment.options.kinds import Choice
from localgrad.networks.library import imported

GREY = N.Facts(num_classes=7, in_channels=1, size=(32, 32))
COLOUR = N.Facts(num_classes=7, in_channels=3, size=(32, 32))
SMALL_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "patch_size": 8,
}
SMALL_GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "pad_token_id": 0}
SMALL_GPT |= {"bos_token_id": 1, "eos_token_id": 2}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("vit_cifar", {"width": 24, "depth": 2}),
    ("timm:resnet10t", {}),
    ("timm:vit_tiny_patch16_224", {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}),
    ("torchvision:squeezenet1_1", {}),
    ("torchvision:mobilenet_v3_small", {}),
    ("torchvision:googlenet", {}),
    ("transformers:vit", SMALL_VIT),
    ("transformers:ViTForImageClassification", SMALL_VIT),
    ("transformers:clip", {"vision_config": SMALL_VIT}),
]


def need(name: str) -> None:
    library = name.partition(":")[0].replace("vit_cifar", "timm")
    pytest.importorskip(library, reason=f"{library} is not installed")


@pytest.mark.parametrize("facts", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize(("name", "options"), MODELS, ids=[name for name, _ in MODELS])
def test_the_data_decide_classes_channels_and_size(
    name: str, options: dict[str, Any], facts: N.Facts
) -> None:
    need(name)
    model = N.get(name, facts, **options)
    x = torch.randn(2, facts.in_channels, *facts.size)
    for training in (True, False):
        out = model.train(training)(x)
        assert isinstance(out, Tensor)
        assert out.shape == (2, 7)


def test_options_win_over_the_data() -> None:
    pytest.importorskip("timm")
    sizes = {"img_size": 16, "num_classes": 3, "in_chans": 2, "patch_size": 8, "depth": 1}
    model = N.get("timm:vit_tiny_patch16_224", GREY, **sizes)
    assert model(torch.randn(2, 2, 16, 16)).shape == (2, 3)
    small = N.get("vit_cifar", GREY, num_classes=3, depth=1, width=6)
    assert small.head.out_features == 3


def test_without_data_a_model_is_the_librarys_own() -> None:
    pytest.importorskip("torchvision")
    assert N.get("torchvision:squeezenet1_1")(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


def test_models_of_one_size_take_the_datas() -> None:
    models = pytest.importorskip("torchvision").models
    with torch.device("meta"):
        model = N.get("torchvision:vit_b_16", COLOUR)
        theirs = models.vit_b_16(image_size=32, num_classes=7)
    assert model.image_size == 32
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    oblong = N.Facts(7, 3, (32, 48))
    with pytest.raises(LocalgradError, match="vit_b_16 takes square images, not 32x48"):
        N.get("torchvision:vit_b_16", oblong)
    pytest.importorskip("timm")
    model = N.get("vit_cifar", oblong, depth=1, width=6)
    assert model(torch.randn(1, 3, 32, 48)).shape == (1, 7)


def test_another_number_of_channels_keeps_the_spread() -> None:
    pytest.importorskip("torchvision")
    torch.manual_seed(0)
    colour, grey = (N.get("torchvision:resnet18", facts) for facts in (COLOUR, GREY))
    assert grey.conv1.weight.shape == (64, 1, 7, 7)
    expected = pytest.approx(float(colour.conv1.weight.detach().std()) * 3**0.5, rel=0.05)
    assert float(grey.conv1.weight.detach().std()) == expected
    assert grey.conv1.stride == colour.conv1.stride
    assert list(grey.state_dict()) == list(colour.state_dict())


def test_vit_cifar_is_timms_of_published_size() -> None:
    pytest.importorskip("timm")
    model = N.get("vit_cifar")
    # patches 4*4*3*192+192, positions 64*192, 9 layers of 12*192^2 + 13*192, norm 2*192, head
    layers = 9 * (12 * 192**2 + 13 * 192)
    total = 48 * 192 + 192 + 64 * 192 + layers + 2 * 192 + 192 * 10 + 10
    assert sum(p.numel() for p in model.parameters()) == total
    assert type(model).__module__.startswith("timm.")


# --- transformers


def test_a_transformer_keeps_its_own_keys_and_returns_logits() -> None:
    transformers = pytest.importorskip("transformers")
    config = {**SMALL_VIT, "num_labels": 7, "num_channels": 1, "image_size": 32}
    theirs = transformers.ViTForImageClassification(transformers.ViTConfig(**config)).eval()
    ours = N.get("transformers:vit", GREY, **SMALL_VIT).eval()
    ours.load_state_dict(theirs.state_dict())  # strict: the same keys
    x = torch.randn(2, 1, 32, 32)
    assert type(ours) is type(theirs)
    assert torch.equal(ours(x), theirs(x).logits)
    assert torch.equal(copy.deepcopy(ours)(x), ours(x))


@pytest.mark.parametrize(
    ("name", "cls", "shape"),
    [
        ("gpt2", "GPT2LMHeadModel", (2, 5, 40)),
        ("GPT2ForSequenceClassification", "GPT2ForSequenceClassification", (2, 7)),
    ],
)
def test_language_models_map_tokens_to_logits(name: str, cls: str, shape: tuple[int, ...]) -> None:
    pytest.importorskip("transformers")
    model = N.get(f"transformers:{name}", COLOUR, **SMALL_GPT)
    assert type(model).__name__ == cls
    assert model(torch.randint(3, 40, (2, 5))).shape == shape
    assert model.config.use_cache is False


def test_a_configuration_file(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(**SMALL_GPT)
    config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    for place in (path, tmp_path):
        assert type(N.get(f"transformers:{place}")).__name__ == "GPT2LMHeadModel"
    deeper = N.get(f"transformers:{path}", None, n_layer=3)
    assert deeper.config.n_layer == 3
    assert deeper.config.n_embd == 16
    tree = json.loads(path.read_text()) | {"architectures": ["GPT2ForSequenceClassification"]}
    path.write_text(json.dumps(tree))
    assert type(N.get(f"transformers:{path}")).__name__ == "GPT2ForSequenceClassification"
    for text, message in [("{", "is not JSON"), ("[]", "names no model_type"), ("{}", "names no")]:
        path.write_text(text)
        with pytest.raises(LocalgradError, match=message):
            N.get(f"transformers:{path}")
    with pytest.raises(LocalgradError, match=r"cannot read .*absent\.json: No such file"):
        N.get(f"transformers:{tmp_path}/absent.json")


# --- mistakes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:resnet19", {}, "unknown timm model 'resnet19': did you mean 'resnet1"),
        ("timm:zzzzzz", {}, "unknown timm model 'zzzzzz': see `localgrad list`"),
        ("timm:resnet10t", {"dpth": 3}, "'timm:resnet10t' cannot be built: TypeError: .*'dpth'"),
        ("torchvision:resnet17", {}, "unknown torchvision model 'resnet17': did you mean 'resnet1"),
        ("torchvision:fcn_resnet50", {}, "unknown torchvision model"),  # no classifier
        ("torchvision:alexnet", {"weights": "NONE_V9"}, "cannot be built: KeyError: 'NONE_V9'"),
        ("transformers:gtp2", {}, "unknown transformers model 'gtp2': did you mean 'gpt2'"),
        ("transformers:ViTForImageClasification", {}, "mean 'ViTForImageClassification'"),
        ("transformers:vit", {"hidden_sze": 3}, "unknown option .* 'hidden_sze': .*'hidden_size'"),
        ("transformers:vit", {"hidden_size": "a"}, "cannot be built: .* expected int, got str"),
        ("vit_cifar", {"patch_size": 5}, "patch_size 5 does not divide images of 32x32 pixels"),
        ("vit_cifar", {"width": 10}, "width 10 is no multiple of heads 3"),
        ("vit_cifar", {"depth": 0}, "depth must be a whole number of at least 1; got 0"),
        ("tim:resnet18", {}, "unknown network 'tim:resnet18': .*timm:NAME"),
    ],
)
def test_mistakes_get_one_clear_line(name: str, options: dict[str, Any], message: str) -> None:
    if name.partition(":")[0] in N.LIBRARIES or name == "vit_cifar":
        need(name)
    with pytest.raises(LocalgradError, match=message) as caught:
        N.get(name, COLOUR, **options)
    assert "\n" not in str(caught.value)


def test_pretrained_weights_are_for_three_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("torchvision").models
    plain = models.squeezenet1_1(weights=None, num_classes=7)
    monkeypatch.setattr(models, "get_model", lambda name, weights, num_classes: plain)
    with pytest.raises(LocalgradError, match="weights are for 3 channels, the images have 1"):
        N.get("torchvision:squeezenet1_1", GREY, weights="DEFAULT")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("timm:resnet10t", r"^timm is not installed: pip install 'localgrad\[vision\]'$"),
        ("vit_cifar", r"^timm is not installed: pip install 'localgrad\[vision\]'$"),
        ("torchvision:alexnet", r"^torchvision is not .*'localgrad\[vision\]'$"),
        ("transformers:vit", r"^transformers is not .*'localgrad\[transformers\]'$"),
    ],
)
def test_a_missing_library_names_the_extra(
    name: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in list(sys.modules):
        if module.partition(".")[0] in N.LIBRARIES:
            monkeypatch.setitem(sys.modules, module, None)
    for library in N.LIBRARIES:
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(LocalgradError, match=line):
        N.get(name, COLOUR)
    if name.partition(":")[0] in N.LIBRARIES:
        with pytest.raises(LocalgradError, match=line):
            N.library_names(name.partition(":")[0])


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (
            "raise RuntimeError('operator torchvision::nms\\ndoes not exist')",
            "^broken_library is installed but cannot be imported: RuntimeError: operator "
            r"torchvision::nms does not exist; torchvision must be built for this PyTorch",
        ),
        (
            "try:\n  1 / 0\nexcept ZeroDivisionError as e:\n  raise ImportError('part') from e",
            "^broken_library is installed but cannot be imported: ZeroDivisionError: division by",
        ),
        (
            "import absent_part",
            r"^absent_part, which broken_library needs, is not installed: pip .*\[vision\]'$",
        ),
    ],
)
def test_a_library_that_fails_says_why(
    code: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_library.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LocalgradError, match=line) as caught:
        imported("broken_library", "vision")
    assert "\n" not in str(caught.value)


# --- configuration and command line


def images(channels: int, size: int) -> Dataset:
    labels = torch.arange(6) % 3
    part = ImageSet(torch.zeros(6, size, size, channels, dtype=torch.uint8), labels)
    classes, centre = ("a", "b", "c"), (0.5,) * channels
    return Dataset("toy", "toy", part, part, classes, centre, centre, pad=0, flip=False)


@pytest.mark.parametrize(
    ("choice", "channels", "size"),
    [
        ({"name": "vgg11", "width": 2}, 1, 32),
        ({"name": "resnet50", "options": {"width": 2}}, 1, 8),
        ({"name": "resnet", "stages": [1, 1], "block": "basic", "width": 4}, 3, 8),
        ({"name": "vit_cifar", "options": {"width": 6, "depth": 1}}, 1, 8),
        ({"name": "timm:resnet10t"}, 1, 32),
        ({"name": "torchvision:squeezenet1_1"}, 1, 32),
        ({"name": "transformers:vit", "options": {**SMALL_VIT, "patch_size": 4}}, 1, 8),
        ({"name": "timm.models:create_model", "model_name": "resnet10t", "num_classes": 3}, 3, 32),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else str(value),
)
def test_networks_of_a_configuration(choice: dict[str, Any], channels: int, size: int) -> None:
    if ":" in choice["name"] or choice["name"] == "vit_cifar":
        need(choice["name"].replace("timm.models", "timm"))
    model = build_network(build_config({"network": choice}).network, images(channels, size))
    assert isinstance(model, nn.Module)
    assert model.eval()(torch.randn(2, channels, size, size)).shape == (2, 3)


def test_options_stand_beside_the_name_or_in_a_mapping() -> None:
    beside = Choice(name="vgg11", width=4)
    assert Choice(name="vgg11", options={"width": 4}) == beside
    assert beside.options == {"width": 4}
    assert Choice.model_validate({"name": "vgg11", "options": None}).name == "vgg11"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": "vgg11", "options": 3}, "options must be a mapping (name: value), got 3"),
        (
            {"name": "vgg11", "width": 4, "options": {"width": 8}},
            "'width' stands both beside options and in them",
        ),
        (
            {"name": "vgg11", "options": {"name": "vgg13"}},
            "'name' stands both beside options and in them",
        ),
    ],
)
def test_refused_options(network: dict[str, Any], message: str) -> None:
    with pytest.raises(LocalgradError) as caught:
        build_config({"network": network})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51", "did you mean 'resnet50'"),
        ("timm:resnet19", "unknown timm model 'resnet19'"),
        ("vgg11", "unit '4.1' cannot take an input of shape"),
    ],
)
def test_the_command_line_says_it_in_one_line(name: str, message: str, capsys: Any) -> None:
    if name.startswith("timm"):
        need(name)
    words = ["audit", "--network.name", name, "--network.width", "2", "--data.limit", "8"]
    words = words[:3] + words[5:] if name.startswith("timm") else words
    assert main(words) == 2
    assert message in error_line(capsys)


def test_train_in_published_blocks(tmp_path: Path) -> None:
    words = ["train", "--network.name", "resnet50", "--network.options", "{width: 2}"]
    words += ["--method.name", "greedy", "--blocks", "8", "--data.limit", "16"]
    words += ["--data.test_limit", "8", "--batch_size", "8", "--epochs", "1", "--quiet"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["network"], summary["blocks"]) == ("resnet50", 8)
    assert summary["network_options"] == {"width": 2}


def test_list_counts_what_is_installed(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert main(["list", "--json", str(tmp_path / "all.json")]) == 0
    out = capsys.readouterr().out
    assert "timm:NAME          timm is not installed: pip install 'localgrad[vision]'" in out
    libraries = json.loads((tmp_path / "all.json").read_text())["libraries"]
    assert libraries["timm"]["names"] == []
    for library, family in libraries.items():
        if library != "timm" and family["error"] is None:
            assert len(family["names"]) == len(set(family["names"])) > 50
            assert f"{len(family['names'])} " in out


# --- learning in blocks, by traced cuts

TRACED = [entry for entry in MODELS if entry[0] in ("vit_cifar", "timm:resnet10t")]
TRACED += [("torchvision:squeezenet1_1", {}), ("transformers:vit", SMALL_VIT)]


@pytest.mark.parametrize("rule", ["greedy", "backlink", "auglocal"])
@pytest.mark.parametrize(("name", "options"), TRACED, ids=[name for name, _ in TRACED])
def test_a_step_reaches_what_is_declared(name: str, options: dict[str, Any], rule: str) -> None:
    need(name)
    deeper = {"vit_cifar": {"depth": 3}, "transformers:vit": {"num_hidden_layers": 3}}
    torch.manual_seed(0)
    model = N.get(name, COLOUR, **{**options, **deeper.get(name, {})})
    keys = list(model.state_dict())
    x, y = torch.randn(4, 3, 32, 32), torch.arange(4)
    learner = localgrad.decouple(model, rule, example_input=x)
    reach = localgrad.audit(lambda: learner.step(x, y), learner)
    assert reach.violations == []
    assert reach.matrix.tolist() == learner.reach()
    assert len(learner.decoupling) >= 2
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_cifar", {"width": 6, "depth": 2}),
        ("timm:resnet10t", {}),
        ("transformers:vit", {**SMALL_VIT, "patch_size": 4}),
    ],
)
def test_train_writes_the_plain_model(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    need(name)
    words = ["train", "--network.name", name, "--network.options", json.dumps(options)]
    words += ["--method.name", "greedy", "--blocks", "2", "--data.limit", "16"]
    words += ["--data.test_limit", "8", "--batch_size", "8", "--epochs", "1", "--quiet"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path)]) == 0
    kept = load_file(tmp_path / "model.safetensors")
    plain = N.get(name, N.Facts(10, 1, (8, 8)), **options)
    assert set(kept) == set(plain.state_dict())
    plain.load_state_dict(kept)
