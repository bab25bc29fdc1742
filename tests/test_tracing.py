"""Any module as a chain: the same bits, natural labels, legal cuts, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import localgrad
from foreign import MODELS, Skips, inputs, make, small_vit, targets, timm, torchvision
from localgrad import Chain, LocalgradError
from localgrad import methods as M

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own


def run(model: nn.Module, what: object, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(5)
    out = what(x)  # type: ignore[operator]
    return getattr(out, "logits", out), [b.clone() for b in model.buffers()]


@pytest.mark.parametrize("name", MODELS)
def test_the_chain_computes_the_models_bits(name: str) -> None:
    model = make(name)
    twin = copy.deepcopy(model)
    chain = Chain.of(twin, inputs(name))
    for training in (True, False):
        for rows in (4, 3):  # another batch size than it was traced with
            x = inputs(name, rows)
            expected, buffers = run(model, model.train(training), x)
            found, changed = run(twin, chain, x) if twin.train(training) else (x, [])
            assert torch.equal(expected, found)
            assert all(map(torch.equal, buffers, changed))


LABELS = {
    "resnet": "conv1 layer1.0 layer2.0 layer2.1 layer3.0 layer4.0",
    "vgg": "features.0 features.4 features.8 features.11 features.15 features.18 features.22 "
    "features.25 classifier.0 classifier.3",
    "mobilenet": " ".join(f"features.{i}" for i in range(13)) + " classifier.0",
    "densenet": "features.conv0 features.denseblock1 features.transition1 features.denseblock2 "
    "features.transition2 features.denseblock3 features.transition3 features.denseblock4",
    "vit": "patch_embed blocks.0 blocks.1 blocks.2",
    "swin": "patch_embed layers.0.blocks.0 layers.0.blocks.1 layers.1.downsample "
    "layers.1.blocks.0 layers.1.blocks.1",
    "bert": "bert.embeddings bert.encoder.layer.0 bert.encoder.layer.1 bert.pooler",
    "gpt2": "body.wte body.h.0 body.h.1",
    "t5": "body.encoder.embed_tokens body.encoder.block.0 body.encoder.block.1 "
    "body.encoder.block.2",
    "skips": "stem left weight",
}


@pytest.mark.parametrize("name", LABELS)
def test_units_are_the_natural_pieces(name: str) -> None:
    assert Chain.of(make(name), inputs(name)).names == tuple(LABELS[name].split())


def test_a_vision_transformer_has_a_cut_before_each_of_its_blocks() -> None:
    chain = Chain.of(timm("vit_tiny_patch16_224", img_size=32), torch.zeros(2, 3, 32, 32))
    assert len(chain) == 13
    assert chain.names[1:] == tuple(f"blocks.{i}" for i in range(12))


def test_units_call_the_models_own_modules() -> None:
    model = make("resnet")
    chain = Chain.of(model, inputs("resnet"))
    assert chain.units[2].parts == (model.layer2[0],)
    seen: list[str] = []
    handle = model.layer2[0].conv1.register_forward_hook(lambda *_: seen.append("conv1"))
    chain(inputs("resnet"))
    handle.remove()
    assert seen == ["conv1"]
    model.layer2[0] = nn.Sequential(nn.Conv2d(64, 128, 1, 2), nn.ReLU())  # looked up by name
    assert chain(inputs("resnet")).shape == (4, 5)


def test_granularity() -> None:
    model, x = small_vit(), torch.zeros(2, 3, 32, 32)
    halves = [f"blocks.{i}.{part}" for i in range(3) for part in ("attn", "mlp")]
    assert Chain.of(model, x, granularity="layer").names == ("patch_embed", *halves)
    assert Chain.of(model, x, granularity="stage").names == ("patch_embed", "blocks")
    resnet, x = make("resnet"), inputs("resnet")
    stages = ("conv1", "layer1", "layer2", "layer3", "layer4")
    assert Chain.of(resnet, x, granularity="stage").names == stages
    named = Chain.of(resnet, x, units=["bn1", "layer2", "layer3"])
    assert named.names == ("bn1", "layer2", "layer3")
    assert torch.equal(named(x), Chain.of(resnet, x)(x))
    learner = localgrad.decouple(resnet, "greedy", cuts=["layer2"], example_input=x,
                                 granularity="stage")  # fmt: skip
    assert [block.stop for block in learner.decoupling.blocks] == [3, 5]


def test_without_an_example_one_is_made_up() -> None:
    for name in ("resnet", "bert"):
        model = make(name)
        assert Chain.of(model).names == tuple(LABELS[name].split())
        assert Chain.of(model)(inputs(name)).shape == (4, 5)  # of another shape than it guessed


def test_another_shape_is_traced_anew_with_the_same_cuts() -> None:
    model = make("gpt2").eval()
    chain = Chain.of(model, inputs("gpt2"))
    longer = torch.randint(40, (3, 11))
    assert torch.equal(chain(longer), model(longer))
    with pytest.raises(LocalgradError, match=r"unit 'body\.h\.0' got \(3, 9, 16\)"):
        chain.units[1](torch.zeros(3, 9, 16))


def test_other_precisions_and_partly_frozen_models() -> None:
    model, x = make("vit"), inputs("vit")
    chain = Chain.of(model, x)
    model.to(torch.float64)
    assert torch.equal(*(run(model, what, x.double())[0] for what in (model, chain)))
    model.blocks[0].eval()
    assert torch.equal(*(run(model, what, x.double())[0] for what in (model, chain)))
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(*(run(model, what, x)[0] for what in (model, chain)))


@pytest.mark.parametrize("name", ["resnet", "vit", "bert", "skips"])
def test_nothing_is_left_on_the_model(name: str) -> None:
    model, x = make(name), inputs(name)
    attributes = {path: set(vars(m)) for path, m in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    Chain.of(model, x)
    assert torch.equal(generator, torch.get_rng_state())
    learner = localgrad.decouple(model, M.BackLink(), example_input=x)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    learner.step(x, targets())
    assert learner.release() is model
    assert list(model.state_dict()) == list(state)
    assert {path: set(vars(m)) for path, m in model.named_modules()} == attributes
    assert model.training
    assert "training" not in vars(nn.Module)
    assert torch.arange is torch._C._VariableFunctions.arange  # type: ignore[attr-defined]


def test_the_printed_chain() -> None:
    learner = localgrad.decouple(Skips(), "greedy", blocks=2, example_input=inputs("skips"))
    lines = str(learner.chain).splitlines()
    assert lines[0].startswith("Skips: 3 units and a tail, ")
    assert lines[2].split() == ["0", "stem", "168", "(6,", "8,", "8)"]
    assert lines[-1].split() == ["1", "tail", "45", "(5,)"]
    assert str(Chain.of(Skips())).splitlines()[1].split() == ["unit", "parameters"]


# --- refused


class Data(nn.Module):
    """Its path depends on what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.b(x) if x.sum() > 0 else self.a(x)
        return self.c(x)


class Inside(nn.Module):
    """The same, but inside of a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.data, self.last = nn.Linear(4, 4), Data(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.data(self.first(x)))


class Harmless(Data):
    """It asks about data, and goes on the same way."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.sum() > 0:
            pass
        return self.c(self.b(x))


class Pair(Data):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.a(x), self.b(x)


class Two(Data):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return self.c(self.a(x) + self.b(y))


class Wide(Data):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x)) + self.c(self.b(x))


class NumPy(Data):
    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        return self.c(torch.from_numpy(x.detach().numpy()))


class BatchSize(Data):
    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        return self.c(x if len(x) == 2 else x + 1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Data(),
            r"Data cannot be cut: .*test_tracing.py line \d+: its path depends on the content",
        ),
        (Pair(), r"Pair cannot be cut: it returns a tuple with 2 tensors; wrap it"),
        (Two(), r"Two cannot be cut: its forward takes 2 inputs \(x, y\); wrap it"),
        (Wide(), r"Wide cannot be cut: .* needed after it"),
        (NumPy(), r"NumPy cannot be cut: .*line \d+"),
        (BatchSize(), r"BatchSize cannot be cut: for 3 rows it computes otherwise than for 2"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_cut_says_why(model: nn.Module, message: str) -> None:
    with pytest.raises(LocalgradError, match=message) as caught:
        Chain.of(model, torch.randn(2, 4))
    assert "\n" not in str(caught.value)


def test_a_submodule_that_cannot_be_followed_is_called_as_it_is() -> None:
    model, x = Inside(), torch.randn(3, 4)
    chain = Chain.of(model, x)
    assert chain.names == ("first", "data")
    for sign in (1, -1):
        assert torch.equal(chain(sign * x), model(sign * x))


def test_a_question_about_data_that_changes_nothing() -> None:
    assert Chain.of(Harmless(), torch.randn(3, 4)).names == ("a", "b")


def test_listed_units_where_tracing_fails() -> None:
    class Row(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.a(x)
            if float(hidden.sum()) > 1e9:
                raise ValueError("too large")
            return self.c(self.b(hidden))

    model, x = Row(), torch.randn(3, 4)
    with pytest.raises(LocalgradError, match="its path depends on the content of a tensor"):
        Chain.of(model, x)
    chain = Chain.of(model, x, units=["b", "a", "c"])
    assert chain.names == ("a", "b")
    assert torch.equal(chain(x), model(x))
    with pytest.raises(LocalgradError, match="the only input of 'c' must be what 'a' returns"):
        Chain.of(model, x, units=["a", "c"])
    with pytest.raises(LocalgradError, match="give example_input"):
        Chain.of(model, units=["a", "b", "c"])


def test_bad_options() -> None:
    x = torch.randn(2, 4)
    with pytest.raises(LocalgradError, match="granularity='block': use 'stage', 'unit' or 'layer'"):
        Chain.of(Harmless(), x, granularity="block")
    with pytest.raises(LocalgradError, match="'d' is not a submodule that the forward pass calls"):
        Chain.of(Harmless(), x, units=["a", "d"])
    with pytest.raises(LocalgradError, match="Harmless cannot take an input of shape"):
        Chain.of(Harmless(), torch.randn(2, 9))
    with pytest.raises(LocalgradError, match="no cut after"):
        Chain.of(torchvision("densenet121"), torch.zeros(2, 3, 32, 32),
                 units=["features.denseblock1.denselayer1"])  # fmt: skip


class TokensFirst(nn.Module):
    """(tokens, batch, channels), as in sequence models of old."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        x = self.second(torch.relu(self.first(x)))
        return self.last(x).mean(0)


class Flattened(nn.Module):
    """The second layer sees all tokens of all rows in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.third, self.last = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        x = self.first(x).reshape(-1, channels)
        x = torch.relu(self.second(x))
        x = self.third(x).reshape(batch, tokens, channels)
        return self.last(x.mean(1))


def test_no_cut_where_the_batch_is_not_first() -> None:
    x = torch.randn(4, 6, 8)
    with pytest.raises(LocalgradError, match="has no batch as its first dimension"):
        Chain.of(TokensFirst(), x)
    with pytest.raises(LocalgradError, match="after 'second': the one tensor"):
        Chain.of(Flattened(), x, units=["first", "second"])
    chain = Chain.of(Flattened(), x)
    assert chain.names == ("first", "second")
    assert [tuple(shape) for shape in chain.shapes(x)[0]] == [(6, 8), (6, 8)]
    for training in (True, False):
        chain.model.train(training)
        assert torch.equal(chain(x), chain.model(x))
