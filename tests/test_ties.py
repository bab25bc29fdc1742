"""Tied weights: who trains them, the gradients, the reach, and what becomes of the model."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from foreign import inputs, transformers
from localgrad import Decoupling, LocalgradError
from localgrad import methods as M
from localgrad.losses import next_token

from oracle import oracle_gradients

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

TOKENS = inputs("gpt2_lm")
CHOICES = ("first", "last", "untie")


def gpt(tied: bool = True, **options: int) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 40, **options}
    marks = {"bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": tied}
    dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.1)
    return transformers("GPT2LMHeadModel", "GPT2Config", **sizes, **marks, **dropout)


class Three(nn.Module):
    """One weight in the first, second and last of four layers."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        for name in ("a", "b", "c", "d"):
            self.add_module(name, nn.Linear(6, 6))
        self.tail = nn.Linear(6, 3)
        with torch.no_grad():
            self.b.weight.copy_(self.a.weight)
            self.d.weight.copy_(self.a.weight)
        if tied:
            self.b.weight = self.d.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.b, self.c, self.d):
            x = torch.tanh(layer(x))
        return self.tail(x)


X, Y = torch.randn(5, 6, generator=torch.Generator().manual_seed(3)).double(), torch.arange(5) % 3


def learner_of(model: nn.Module, rule: M.Method, ties: str | None) -> localgrad.LocalLearner:
    """Equal seeds give equal heads, whatever is tied."""
    torch.manual_seed(5)
    if isinstance(model, Three):
        return localgrad.decouple(model, rule, cuts=["b"], example_input=X, ties=ties)
    return localgrad.decouple(
        model, rule, blocks=4, example_input=TOKENS, loss=next_token, ties=ties
    )


def gradients(learner: localgrad.LocalLearner, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(7)
    learner.step(x, y)
    return {k: p.grad for k, p in learner.named_parameters() if p.grad is not None}


def apart(learner: localgrad.LocalLearner, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The oracle's gradients of a model in which every use has a weight of its own."""
    torch.manual_seed(7)
    return oracle_gradients(learner, x, y)


def check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        close = float((found[key] - gradient).norm()) < 1e-9 * float(gradient.norm()) + 1e-12
        assert close, key


RULES = [
    M.Greedy(), M.BackLink(), M.BackLink(length=9, combine="replace"), M.AugLocal(1), M.BWBPF(),
]  # fmt: skip
EMBEDDING, OUTPUT = "backbone.transformer.wte.weight", "backbone.lm_head.weight"


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_gradients_of_a_language_model_are_those_of_the_uses_that_train(rule: M.Method) -> None:
    untied = gpt(tied=False).double()
    untied.lm_head.weight.data.copy_(untied.transformer.wte.weight.data)
    tied = gpt().double()
    tied.load_state_dict(untied.state_dict())
    expected = apart(learner_of(untied, rule, None), TOKENS, TOKENS)
    assert {EMBEDDING, OUTPUT} <= expected.keys()
    for ties in CHOICES:
        tied.zero_grad(set_to_none=True)
        learner = learner_of(tied, rule, ties)
        wanted = dict(expected)
        if ties != "untie":  # one parameter, under the first of its names
            use = wanted.pop(OUTPUT)
            wanted[EMBEDDING] = expected[EMBEDDING] if ties == "first" else use
        check(gradients(learner, TOKENS, TOKENS), wanted)
        learner.release()


@pytest.mark.parametrize("ties", CHOICES)
def test_uses_inside_of_one_block_are_added(ties: str) -> None:
    expected = apart(learner_of(Three(tied=False).double(), M.Greedy(), None), X, Y)
    a, b, d = (expected.pop(f"backbone.{name}.weight") for name in ("a", "b", "d"))
    expected["backbone.a.weight"] = d if ties == "last" else a + b
    if ties == "untie":
        expected["backbone.d.weight"] = d
    torch.manual_seed(0)
    check(gradients(learner_of(Three().double(), M.Greedy(), ties), X, Y), expected)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_a_link_trains_what_counts_to_its_units_and_nothing_tied_before_them() -> None:
    local, linked = M.BackLink(length=0), M.BackLink(length=1)
    torch.manual_seed(0)
    without = apart(learner_of(Three(tied=False).double(), local, None), X, Y)
    torch.manual_seed(0)
    expected = apart(learner_of(Three(tied=False).double(), linked, None), X, Y)
    del expected["backbone.b.weight"], expected["backbone.d.weight"]
    expected["backbone.a.weight"] = without["backbone.a.weight"] + without["backbone.b.weight"]
    torch.manual_seed(0)
    learner = learner_of(Three().double(), linked, "first")
    check(gradients(learner, X, Y), expected)
    reach = localgrad.audit(partial(learner.step, X, Y), learner)
    assert reach.violations == []
    assert reach.parameters[1] >= {"backbone.b.bias"}
    assert "backbone.a.weight" not in reach.parameters[1]


@pytest.mark.parametrize("ties", CHOICES)
@pytest.mark.parametrize(
    "rule", [*RULES, M.DeepSupervision(), M.BackLink(length=2, length_unit="layer")], ids=str
)
def test_the_audit_finds_each_tied_weight_where_the_choice_says(rule: M.Method, ties: str) -> None:
    learner = learner_of(gpt(), rule, ties)
    reach = localgrad.audit(partial(learner.step, TOKENS, TOKENS), learner)
    assert reach.violations == []
    embedding = [EMBEDDING in row for row in reach.parameters]
    output = [OUTPUT in row for row in reach.parameters]
    declared = learner.reach()
    if isinstance(rule, M.DeepSupervision):  # no border: all losses train it, as in plain autograd
        ties = "first"
    assert embedding == [row[-1 if ties == "last" else 0] for row in declared]
    assert output == [ties == "untie" and row[-1] for row in declared]


def test_open_borders_and_one_block_leave_nothing_to_choose() -> None:
    for rule in (M.Backprop(), M.Backprop("unit"), M.DeepSupervision()):
        model = gpt()
        plain = copy.deepcopy(model)
        torch.manual_seed(5)
        learner = localgrad.decouple(
            model, rule, blocks=None if rule.name == "backprop" else 4, example_input=TOKENS,
            loss=next_token,
        )  # fmt: skip
        torch.manual_seed(7)
        learner.step(TOKENS, TOKENS)
        if rule.name != "backprop":
            continue
        torch.manual_seed(7)
        next_token(plain(TOKENS).logits, TOKENS).backward()
        for a, b in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)


class Repeated(nn.Module):
    """One layer that runs four times, as in ALBERT."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.tail = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for _ in range(4):
            x = torch.tanh(self.layer(x))
        return self.tail(x)


@pytest.mark.parametrize("ties", ["first", "last"])
def test_a_layer_that_runs_in_every_block(ties: str) -> None:
    model = Repeated().double()
    learner = localgrad.decouple(model, "greedy", blocks=2, example_input=X, ties=ties)
    assert len(learner.chain) == 5
    learner.step(X, Y)
    end = learner.chain.ends[0]
    block = range(1, end) if ties == "first" else range(end, 5)
    uses = []  # of the weight in that block, each a leaf of its own
    x = torch.tanh(model.first(X)).detach()
    for unit in range(1, block[-1] + 1):
        weight = model.layer.weight.detach().clone().requires_grad_(unit in block)
        x = torch.tanh(F.linear(x, weight, model.layer.bias.detach()))
        uses += [weight] if unit in block else []
    scores = learner.heads[0](x) if ties == "first" else model.tail(x)
    F.cross_entropy(scores, Y).backward()
    found, expected = model.layer.weight.grad, sum(use.grad for use in uses)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert localgrad.audit(partial(learner.step, X, Y), learner).violations == []


def test_a_module_that_runs_in_two_blocks_has_no_place_for_a_copy() -> None:
    model = Repeated().double()
    with pytest.raises(LocalgradError, match=r"module 'layer' itself runs in blocks 0 and 1"):
        localgrad.decouple(model, "greedy", blocks=2, example_input=X, ties="untie")
    localgrad.decouple(model, "greedy", blocks=2, example_input=X, ties="first")


def test_albert() -> None:
    sizes = {"embedding_size": 8, "hidden_size": 16, "intermediate_size": 24}
    model = transformers(
        "AlbertForSequenceClassification", "AlbertConfig", vocab_size=40, num_hidden_layers=3,
        num_attention_heads=2, num_labels=5, **sizes,
    )  # fmt: skip
    x, y = TOKENS, torch.arange(4)
    with pytest.raises(LocalgradError, match="tied weights"):
        localgrad.decouple(model, "greedy", blocks=3, example_input=x)
    for ties in ("first", "last"):
        learner = localgrad.decouple(model, "backlink", blocks=3, example_input=x, ties=ties)
        assert localgrad.audit(partial(learner.step, x, y), learner).violations == []
        learner.release()


def test_without_a_choice_the_error_names_parameter_blocks_and_choices() -> None:
    model = gpt()
    with pytest.raises(LocalgradError) as caught:
        localgrad.decouple(model, "greedy", blocks=4, example_input=TOKENS, loss=next_token)
    text = str(caught.value)
    assert "\n" not in text
    for part in ("'transformer.wte.weight' (also 'lm_head.weight')", "blocks 0 and 3", *CHOICES):
        assert part in text
    with pytest.raises(LocalgradError, match="ties 'both' must be one of 'first', 'last', 'untie'"):
        learner_of(model, M.Greedy(), "both")
    assert learner_of(model, M.Greedy(), "last").decoupling.ties == "last"


def test_the_choice_is_part_of_the_decoupling(tmp_path: Path) -> None:
    model = gpt()
    learner = learner_of(model, M.Greedy(), "first")
    assert "tied parameters: trained by the first block that uses them" in str(learner.decoupling)
    learner.decoupling.save(tmp_path / "d.json")
    loaded = Decoupling.load(tmp_path / "d.json")
    assert loaded == learner.decoupling
    old = loaded.to_dict()
    del old["ties"]  # a file from before there was a choice
    assert Decoupling.from_dict(old).ties is None
    learner.release()
    again = localgrad.decouple(model, loaded, example_input=TOKENS, loss=next_token)
    assert again.decoupling.ties == "first"
    again.release()
    other = localgrad.decouple(model, loaded, example_input=TOKENS, loss=next_token, ties="last")
    assert other.decoupling.ties == "last"


def train(learner: localgrad.LocalLearner) -> None:
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    learner.step(TOKENS, TOKENS)
    optimizer.step()
    optimizer.zero_grad()


def test_tied_weights_stay_tied_and_all_of_them_learn() -> None:
    for ties in ("first", "last"):
        model = gpt()
        before = model.transformer.wte.weight.detach().clone()
        keys = list(model.state_dict())
        learner = learner_of(model, M.Greedy(), ties)
        train(learner)
        assert model.lm_head.weight is model.transformer.wte.weight
        assert model.lm_head.weight.requires_grad
        assert not torch.equal(model.lm_head.weight, before)
        assert list(model.state_dict()) == keys


def test_untied_copies_keep_the_state_dict_and_release_ties_equal_ones_again() -> None:
    model = gpt()
    keys, shared = list(model.state_dict()), model.lm_head.weight
    learner = learner_of(model, M.Greedy(), "untie")
    assert list(model.state_dict()) == keys
    assert model.lm_head.weight is not model.transformer.wte.weight is shared
    assert model.config.tie_word_embeddings is False
    learner.release()  # nothing learnt yet: nothing to lose
    assert model.lm_head.weight is model.transformer.wte.weight is shared
    assert model.config.tie_word_embeddings is True
    learner = learner_of(model, M.Greedy(), "untie")
    train(learner)
    model.eval()
    scores = model(TOKENS).logits
    learner.release()
    assert model.lm_head.weight is not model.transformer.wte.weight
    assert torch.equal(model(TOKENS).logits, scores)
    # and the learner's state loads into another learner of the same choice
    other = learner_of(gpt(), M.Greedy(), "untie")
    other.load_state_dict(learner.state_dict())
    assert torch.equal(other.backbone.eval()(TOKENS).logits, scores)


def test_untied_weights_survive_saving_and_loading_by_transformers(tmp_path: Path) -> None:
    model = gpt()
    train(learner_of(model, M.Greedy(), "untie"))
    model.tie_weights()  # transformers calls it at many places
    assert model.lm_head.weight is not model.transformer.wte.weight
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(loaded.eval()(TOKENS).logits, model.eval()(TOKENS).logits)


def test_a_failed_decoupling_leaves_the_model_tied() -> None:
    model = gpt()
    with pytest.raises(LocalgradError, match="whole inputs"):
        learner_of(model, M.DGL(), "untie")
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.config.tie_word_embeddings is True


def test_a_frozen_tied_weight_stays_frozen() -> None:
    model = gpt()
    model.transformer.wte.weight.requires_grad_(False)
    for ties in CHOICES:
        learner = learner_of(model, M.Greedy(), ties)
        learner.step(TOKENS, TOKENS)
        assert model.transformer.wte.weight.grad is None
        assert model.lm_head.weight.grad is None
        assert not model.lm_head.weight.requires_grad
        learner.release()


@pytest.mark.parametrize("ties", ["first", "last"])
def test_autocast_hands_no_cast_weight_to_the_block_that_must_not_train_it(ties: str) -> None:
    learner = learner_of(gpt(), M.BackLink(), ties)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            learner.step(TOKENS, TOKENS)

    assert localgrad.audit(step, learner).violations == []


@pytest.mark.parametrize("ties", ["first", "last"])
def test_recomputed_units_read_the_same_constants(ties: str) -> None:
    model = gpt().double()
    learner = learner_of(model, M.Greedy(), ties)
    expected = gradients(learner, TOKENS, TOKENS)
    blocks = tuple(replace(block, checkpoint="unit") for block in learner.decoupling.blocks)
    recomputing = replace(learner.decoupling, blocks=blocks)
    learner.release()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    again = localgrad.decouple(model, recomputing, example_input=TOKENS, loss=next_token)
    found = gradients(again, TOKENS, TOKENS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
