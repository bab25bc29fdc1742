"""Text: tokens, windows, losses for every token, heads that do not look ahead, training."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from foreign import transformers
from localgrad import LocalgradError, networks
from localgrad import methods as M
from localgrad.cli import main
from localgrad.data import TextDataset, TokenBatches, Windows, load, load_text
from localgrad.experiment.build import build
from localgrad.experiment.config import build_config
from localgrad.losses import each_token, next_token

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own
WORDS = "to be or not to be, that is the question: whether 'tis nobler in the mind to suffer\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "hamlet.txt"
    path.write_text(WORDS * 20, encoding="utf-8")
    return path


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line in this process."""

    def call(*words: str) -> Done:
        capsys.readouterr()
        code = main(list(words))
        return Done(code, *capsys.readouterr())

    return call


# data


def test_the_last_tenth_is_for_testing_and_windows_follow_each_other(text: Path) -> None:
    data = load_text(text, context=16)
    content = text.read_bytes()
    cut = len(content) - len(content) // 10
    assert bytes(data.train.tokens.tolist()) == content[:cut]
    assert bytes(data.test.tokens.tolist()) == content[cut:]
    rows = [x for x, _ in data.test_batches(3).evaluation()]
    assert bytes(torch.cat(rows).flatten().tolist()) == content[cut:][: 16 * len(data.test)]
    assert data.label == "hamlet.txt (bytes)"
    assert data.num_classes == 256


def test_targets_are_the_tokens_that_follow(text: Path) -> None:
    data = load_text(text, context=16)
    whole = data.train.tokens.tolist()
    for x, y in data.train_batches(5, seed=1).epoch(3):
        assert x.dtype == y.dtype == torch.long
        for row, target in zip(x.tolist(), y.tolist(), strict=True):
            assert row[1:] == target[:-1]
            window = [*row, target[-1]]
            assert any(whole[i : i + 17] == window for i in range(len(whole)))


def test_batches_depend_on_seed_and_epoch_alone(text: Path) -> None:
    data = load_text(text, context=16)

    def rows(seed: int, epoch: int, size: int = 5, **options: bool) -> Tensor:
        batches = data.train_batches(size, seed=seed, **options)
        return torch.cat([x for x, _ in batches.epoch(epoch)])

    assert torch.equal(rows(0, 2), rows(0, 2))
    assert torch.equal(rows(0, 2), rows(0, 2, size=9))
    assert not torch.equal(rows(0, 2), rows(1, 2))
    assert not torch.equal(rows(0, 2), rows(0, 3))
    torch.manual_seed(99)
    unshifted = rows(0, 2, shift=False)
    starts = data.train.rows(torch.arange(len(data.train)))[0].tolist()
    assert sorted(unshifted.tolist()) == sorted(starts)  # each window once
    assert len(data.train_batches(5)) == -(-len(data.train) // 5)
    assert len(data.train_batches(5, drop_last=True)) == len(data.train) // 5


def test_shifted_windows_never_leave_the_text() -> None:
    for number in range(32, 50):
        windows = Windows(torch.arange(number), 16, number // 16 - 1)
        batches = TokenBatches(windows, 4, shuffle=True, shift=True)
        for epoch in range(40):
            seen = torch.cat([y.flatten() for _, y in batches.epoch(epoch)])
            assert int(seen.max()) < number
            assert len(seen.unique()) == len(seen)


def test_characters_and_the_token_for_all_others(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("äbc\r\n" * 36 + "äb€\r\n" * 4, encoding="utf-8")
    data = load_text(path, level="char", context=8)
    assert data.vocabulary == ("\n", "\r", "b", "c", "ä", None)
    assert data.decode(data.train.tokens[:6]) == "äbc\r\nä"
    assert data.decode(data.test.tokens[-5:]) == "äb\N{REPLACEMENT CHARACTER}\r\n"
    assert int(data.test.tokens.max()) == data.num_classes - 1
    assert load_text(path, context=8).decode(torch.tensor([0xC3, 0xA4])) == "ä"


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.txt").write_text("1" * 40)
    (tmp_path / "a.txt").write_text("a" * 40)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / ".hidden").write_text("h" * 40)
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    for level in ("byte", "char"):
        data = load_text(tmp_path, level=level, context=4)
        whole = data.decode(torch.cat([data.train.tokens, data.test.tokens[:0]]))
        assert whole == "a" * 40 + "1" * 32


def test_where_a_text_is_looked_for(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALGRAD_DATA", str(text.parent))
    assert load_text("hamlet.txt").label == "hamlet.txt (bytes)"


def test_limits(text: Path) -> None:
    data = load_text(text, context=16, limit=7, test_limit=2)
    assert (len(data.train), len(data.test)) == (7, 2)


def test_what_cannot_be_read_is_one_line(tmp_path: Path, text: Path) -> None:
    empty, odd = tmp_path / "empty", tmp_path / "odd"
    empty.write_bytes(b"")
    odd.write_bytes(b"abc\xff" * 100)
    (tmp_path / "folder").mkdir()
    cases: list[tuple[str, dict]] = [
        ("give its path", {"path": None}),
        ("no such file or folder", {"path": tmp_path / "none"}),
        ("no file in it", {"path": tmp_path / "folder"}),
        ("0 bytes.* too few for a context of 128", {"path": empty}),
        ("0 characters.* too few", {"path": empty, "level": "char"}),
        ("last 16[0-9] are for testing, are too few for a context of 900",
         {"path": text, "context": 900}),
        (r"odd: not UTF-8 \(byte 0xff at 3\): give another file, or level byte",
         {"path": odd, "level": "char"}),
        ("level must be 'byte' or 'char'; got 'word'", {"path": text, "level": "word"}),
        ("context must be a whole number of at least 1", {"path": text, "context": 0}),
        ("limit must be a whole number", {"path": text, "limit": 0}),
    ]  # fmt: skip
    for message, options in cases:
        with pytest.raises(LocalgradError, match=message) as caught:
            load_text(**options)
        assert "\n" not in str(caught.value)
    assert load_text(odd, context=8).num_classes == 256
    with pytest.raises(LocalgradError, match="read it with load_text"):
        load("text", text)
    with pytest.raises(LocalgradError, match="drop_last leaves no batch"):
        load_text(text).train_batches(99, drop_last=True)
    with pytest.raises(LocalgradError, match="cannot be put on device 'nowhere'"):
        load_text(text).train_batches(2, device="nowhere")


# losses and heads


def test_losses_of_every_token() -> None:
    scores, ids = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    log = scores.log_softmax(-1)
    rows = [[-log[b, t, ids[b, t]] for t in range(5)] for b in range(3)]
    torch.testing.assert_close(each_token(scores, ids), torch.tensor(rows).mean())
    rows = [[-log[b, t, ids[b, t + 1]] for t in range(4)] for b in range(3)]
    torch.testing.assert_close(next_token(scores, ids), torch.tensor(rows).mean())
    padded = ids.clone()
    padded[:, 3:] = -100
    torch.testing.assert_close(
        next_token(scores, padded), torch.tensor([r[:2] for r in rows]).mean()
    )
    with pytest.raises(LocalgradError, match=r"scores \(3, 5, 7\) and targets \(3,\) do not fit"):
        each_token(scores, ids[:, 0])
    with pytest.raises(LocalgradError, match=r"scores \(3, 4, 7\) and targets \(3, 5\)"):
        next_token(scores[:, :4], ids)
    with pytest.raises(LocalgradError, match="at least two tokens"):
        next_token(scores[:, :1], ids[:, :1])


def small(**options: object) -> nn.Module:
    pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes = {"vocabulary": 20, "context": 8, "layers": 3, "width": 16, "heads": 2}
    return networks.get("gpt", **{**sizes, **options})


IDS = torch.randint(20, (3, 8), generator=torch.Generator().manual_seed(2))


def test_the_loss_for_labels_is_refused_with_the_ones_to_take() -> None:
    with pytest.raises(LocalgradError, match=r"losses\.next_token .*losses\.each_token"):
        localgrad.decouple(small(), "greedy", blocks=2, example_input=IDS, ties="last")


@pytest.mark.parametrize("context", [8, 16, 20])  # 16: also the width; 20: also the vocabulary
@pytest.mark.parametrize(
    "rule",
    [M.Greedy(), M.BackLink(), M.AugLocal(1), M.AugLocal(2), M.DeepSupervision(), M.BWBPF()],
    ids=str,
)
def test_no_score_depends_on_tokens_after_it(rule: M.Method, context: int) -> None:
    model = small(context=context)
    ids = torch.randint(20, (2, context))
    learner = localgrad.decouple(
        model, rule, example_input=ids, loss=localgrad.losses.next_token, ties="untie"
    )
    learner.eval()
    before = learner.exits(ids)
    assert len(before) == len(learner.decoupling)
    for place in (1, context // 2, context - 1):
        changed = ids.clone()
        changed[:, place:] = (changed[:, place:] + 7) % 20
        for old, new in zip(before, learner.exits(changed), strict=True):
            assert old.shape == (2, context, 20)
            assert torch.equal(old[:, :place], new[:, :place])
            assert not torch.equal(old[:, place:], new[:, place:])


LIKE_LLAMA = {
    "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip


@pytest.mark.parametrize("name", ["Llama", "Qwen2"])
def test_other_language_models(name: str) -> None:
    model = transformers(f"{name}ForCausalLM", f"{name}Config", **LIKE_LLAMA)
    learner = localgrad.decouple(
        model, M.AugLocal(1), example_input=IDS, loss=next_token, ties="first"
    )
    assert localgrad.audit(lambda: learner.step(IDS, IDS), learner).violations == []
    learner.eval()
    changed = IDS.clone()
    changed[:, 5:] = (changed[:, 5:] + 7) % 20
    for old, new in zip(learner.exits(IDS), learner.exits(changed), strict=True):
        assert torch.equal(old[:, :5], new[:, :5])
        assert not torch.equal(old[:, 5:], new[:, 5:])


def test_every_block_learns_a_text_by_heart() -> None:
    model = small()
    learner = localgrad.decouple(
        model, "backlink", blocks=4, example_input=IDS, loss=next_token, ties="untie"
    )
    optimizer = torch.optim.AdamW(learner.parameters(), lr=0.02)
    first = learner.step(IDS, IDS).losses
    for _ in range(40):
        optimizer.zero_grad()
        out = learner.step(IDS, IDS)
        optimizer.step()
    assert out.logits.shape == (3, 8, 20)
    for before, after in zip(first[1:], out.losses[1:], strict=True):
        assert after < 0.5 * before  # block 0 sees one token and its place alone
    assert out.losses[0] < first[0]


def test_gpt_options_are_checked() -> None:
    for options, message in [
        ({"width": 18, "heads": 4}, "heads=4: must divide the width, 18"),
        ({"layers": 0}, "layers=0: must be a whole number"),
        ({"dropout": 1.5}, "dropout=1.5: must be a number from 0"),
        ({"tied": "yes"}, "tied='yes': must be true or false"),
        ({"depth": 3}, "options are vocabulary, context, layers"),
    ]:
        with pytest.raises(LocalgradError, match=message):
            small(**options)
    model = small(tied=False)
    assert model.lm_head.weight is not model.transformer.wte.weight
    assert small().lm_head.weight is not None


def test_gpt_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LocalgradError, match=r"pip install localgrad\[transformers\]"):
        networks.get("gpt", vocabulary=20, context=8)


def test_attention_on_the_cpu_counts_as_flops() -> None:
    batch, heads, tokens, width = 2, 3, 16, 8
    q, k, v = (torch.randn(batch, heads, tokens, width, requires_grad=True) for _ in range(3))
    product = 2 * batch * heads * tokens * tokens * width
    forward = localgrad.measure_flops(lambda: F.scaled_dot_product_attention(q, k, v))
    assert forward == 2 * product  # scores, and their sums of values
    both = localgrad.measure_flops(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    assert both == (2 + 5) * product  # backward: the scores once more, and four products


# training


def options(text: Path, out: Path, **more: object) -> list[str]:
    given = {
        "network.name": "gpt", "network.layers": 2, "network.width": 16, "network.heads": 2,
        "data.name": "text", "data.path": text, "data.context": 16, "batch_size": 8, "epochs": 2,
        "optimizer.name": "adamw", "optimizer.lr": 0.01, "threads": 1, "out": out, **more,
    }  # fmt: skip
    return list(itertools.chain(*((f"--{key}", str(value)) for key, value in given.items())))


def test_train_on_a_text(run: Run, text: Path, tmp_path: Path) -> None:
    done = run("train", *options(text, tmp_path / "a", ties="untie", **{"method.name": "backlink"}))
    assert done.code == 0, done.err
    assert "sequences/s" in done.out
    assert "images" not in done.out
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["inputs"] == "sequences"
    assert summary["bits_per_byte"] == pytest.approx(summary["test_loss"] / 0.6931471805599453)
    assert 0 < summary["test_accuracy"] == summary["block_accuracy"][-1] < 1
    assert summary["flops_per_image"] > 0 < summary["peak_activation_bytes"]
    epochs = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").open()]
    assert len(epochs[0]["losses"]) == summary["blocks"] == 3
    assert epochs[1]["test_loss"] < epochs[0]["test_loss"]
    assert 0 < epochs[1]["train_accuracy"] < 1
    page = (tmp_path / "a" / "report.html").read_text()
    assert "sequences/s" in page
    assert "Bits per byte" in page
    assert "images/s" not in page


def test_the_test_metrics_are_those_of_the_backbone(text: Path) -> None:
    tree = {
        "network": {"name": "gpt", "layers": 2, "width": 16, "heads": 2}, "method": "greedy",
        "ties": "last", "blocks": 3, "device": "cpu",
        "data": {"name": "text", "path": str(text), "context": 10, "level": "char"},
    }  # fmt: skip
    from localgrad.experiment.results import tested

    experiment = build(build_config(tree))
    assert isinstance(experiment.data, TextDataset)
    found = tested(experiment, None)
    model = experiment.learner.backbone.eval()
    losses, hits = [], []
    tokens = experiment.data.test.tokens.long()
    with torch.no_grad():
        for start in range(0, len(experiment.data.test) * 10, 10):
            scores = model(tokens[None, start : start + 10]).logits[0].double()
            for t in range(10):
                target = tokens[start + t + 1]
                losses.append(-scores[t].log_softmax(0)[target])
                hits.append(scores[t].argmax() == target)
    assert found["test_loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert found["test_accuracy"] == float(torch.stack(hits).double().mean())
    assert set(found) == {"test_accuracy", "test_loss", "bits_per_char"}


def test_stopping_and_going_on_ends_with_the_same_bits(text: Path, tmp_path: Path) -> None:
    from localgrad.experiment.folder import RunFolder
    from localgrad.experiment.loop import Interrupted, train

    tree = {
        "network": {"name": "gpt", "layers": 2, "width": 16, "heads": 2, "dropout": 0.1},
        "method": "greedy", "ties": "first", "epochs": 2, "batch_size": 16, "device": "cpu",
        "data": {"name": "text", "path": str(text), "context": 16},
    }  # fmt: skip
    config = build_config(tree)
    whole = train(build(config), RunFolder(tmp_path / "whole"))
    count = itertools.count()
    with pytest.raises(Interrupted):
        train(build(config), RunFolder(tmp_path / "part"), stop=lambda: next(count) == 5)
    parts = train(build(config), RunFolder(tmp_path / "part"), resume=True)
    for key in ("test_accuracy", "test_loss", "block_accuracy"):
        assert whole[key] == parts[key]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "part")]
    assert weights[0] == weights[1]


def test_compare_on_a_text(run: Run, text: Path, tmp_path: Path) -> None:
    rules = "[backprop, greedy, {name: auglocal, depth: 1}]"
    out = tmp_path / "c"
    given = options(text, out, methods=rules, ties="first", epochs=1, repeats=5)
    done = run("compare", *given)
    assert done.code == 0, done.err
    assert "bits per byte" in done.out
    assert "sequences" in done.out
    results = json.loads((out / "compare.json").read_text())
    assert [r["blocks"] for r in results] == [1, 3, 2]
    assert all(r["ratios"]["flops"] for r in results)
    page = (out / "compare.html").read_text()
    assert "Bits per byte" in page
    again = run("compare", *given, "--resume")
    assert again.code == 0, again.err


def test_mistakes_are_one_line(run: Run, text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("x" * 2000)
    cases = [
        ({"data.path": tmp_path / "none.txt"}, "no such file or folder"),
        ({"method.name": "greedy"}, "'transformer.wte.weight' (also 'lm_head.weight')"),
        ({"method.name": "predsim", "ties": "last"}, "scores whole inputs"),
        ({"network.name": "resnet20"}, "network 'resnet20' reads images, not text"),
        ({"data.name": "digits"}, "network 'gpt' reads text, not digits"),
        ({"data.context": 4000}, "too few for a context of 4000"),
        ({"ties": "both"}, "ties: must be 'first', 'last' or 'untie'"),
        ({"data.level": "word"}, "data.level: must be 'byte' or 'char'"),
        ({"network.name": "digit_nets:mlp"}, "error: "),
    ]
    for more, message in cases:
        given = {"method.name": "backprop", **more}
        done = run("train", *options(text, tmp_path / "run", **given))
        assert done.code == 2, more
        assert message in done.err
        assert done.err.count("\n") == 1
    done = run("train", *options(text, tmp_path / "kept"))
    assert done.code == 0
    done = run("train", *options(other, tmp_path / "kept"), "--resume")
    assert done.code == 2
    assert "data.path was" in done.err


SMALL = {
    "network.hidden_size": 16, "network.num_hidden_layers": 2, "network.num_attention_heads": 2,
}  # fmt: skip


def other(text: Path, out: Path, name: str, **sizes: object) -> list[str]:
    """Options for a model of transformers in the place of gpt."""
    given = options(
        text, out, **{"network.name": name, "ties": "first", "method.name": "greedy", **sizes}
    )
    ours = ("--network.layers", "--network.width", "--network.heads")
    pairs = zip(given[::2], given[1::2], strict=True)
    return [part for pair in pairs if pair[0] not in ours for part in pair]


def test_another_language_model_by_name(run: Run, text: Path, tmp_path: Path) -> None:
    sizes = {**SMALL, "network.intermediate_size": 32, "network.num_key_value_heads": 1}
    done = run("train", *other(text, tmp_path / "a", "transformers:qwen2", **sizes))
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["blocks"] == len(summary["block_accuracy"]) == 3
    assert 0 < summary["bits_per_byte"] < 8


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("transformers:BertForMaskedLM", SMALL, "sees later tokens"),
        ("timm:resnet18", {}, "reads images, not text"),
        ("torchvision:resnet18", {}, "reads images, not text"),
        ("resnet20", {}, "reads images, not text"),
    ],
)
def test_networks_that_cannot_learn_a_text(
    run: Run, text: Path, tmp_path: Path, name: str, sizes: dict[str, object], message: str
) -> None:
    done = run("train", *other(text, tmp_path / "a", name, **sizes))
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
