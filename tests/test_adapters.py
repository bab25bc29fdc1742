"""Lightning, Hugging Face Trainer and Accelerate train to the plain loop's bits."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR

from localgrad import LocalgradError, audit
from localgrad.methods import BackLink
from trained_digits import (
    BATCH,
    MOMENTUM,
    RATE,
    Named,
    accuracy,
    digits,
    learner,
    loader,
    network,
    plain_loop,
    same,
    sgd,
)  # fmt: skip

pytest.importorskip("lightning", reason="lightning is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")
pytestmark = [
    # Lightning asks typing_extensions and torch for names that both have deprecated
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # true, and right for data that lies in memory
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    # a module that can validate need not
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


# --- Lightning


def fit(module: Any, data: Any, epochs: int = 2, val: Any = None, path: Any = None, **options: Any):
    from lightning.pytorch import Trainer

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"enable_checkpointing": False, "accelerator": "cpu", **quiet, **options}
    trainer = Trainer(max_epochs=epochs, **options)
    trainer.fit(module, loader(data), None if val is None else loader(val), ckpt_path=path)
    return trainer


def local_module(**options: Any) -> Any:
    from localgrad.adapters.lightning import LocalModule

    options = {"optimizer": sgd, **options}
    torch.manual_seed(0)
    model = network()
    torch.manual_seed(1)
    return LocalModule(model, "backlink", blocks=3, example_input=torch.rand(2, 1, 8, 8), **options)


def test_lightning_equals_the_plain_loop() -> None:
    data = digits()
    module = local_module()
    before = accuracy(module.learner.backbone, data)
    trainer = fit(module, data, val=data)
    assert same(module.learner, plain_loop(learner(), data))
    assert module.global_step == 20
    metrics = trainer.callback_metrics
    after = accuracy(module.learner.backbone, data)
    assert after > 0.6 > before
    # Lightning averages the batches' accuracies in float32
    assert float(metrics["val_accuracy"]) == pytest.approx(after, abs=1e-6)
    x, y = data.tensors
    with torch.no_grad():
        loss = nn.functional.cross_entropy(module.learner.backbone.eval()(x), y)
    assert float(metrics["val_loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert {f"train_loss_{k}" for k in range(3)} <= metrics.keys()
    assert metrics["train_loss"] == metrics["train_loss_2"] != metrics["train_loss_0"]


def test_lightning_accumulates_clips_and_moves_the_rate() -> None:
    data = digits()  # 10 batches: 3 + 3 + 3 + 1

    def decay(step: int) -> float:
        return 0.8**step

    module = local_module(
        accumulate=3, clip_norm=0.5, interval="step",
        scheduler=lambda optimizer: LambdaLR(optimizer, decay),
    )  # fmt: skip
    fit(module, data)
    assert same(module.learner, plain_loop(learner(), data, 2, 3, 0.5, decay))
    assert not same(module.learner, plain_loop(learner(), data, 2, 3, None, decay))


def test_lightning_moves_the_rate_by_epochs_and_by_a_metric() -> None:
    module = local_module(scheduler=lambda optimizer: StepLR(optimizer, 1, gamma=0.5))
    trainer = fit(module, digits(64), epochs=3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == RATE * 0.5**3

    def plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        # nothing is ever good enough after the first epoch
        return ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.99)

    trainer = fit(local_module(scheduler=plateau), digits(64), epochs=3, val=digits(64))
    assert trainer.optimizers[0].param_groups[0]["lr"] == RATE * 0.5**2
    with pytest.raises(LocalgradError, match="ReduceLROnPlateau follows 'val_loss'"):
        fit(local_module(scheduler=plateau), digits(64), epochs=1)


# the run that is resumed writes beside the first one's files
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_lightning_checkpoint_restores_heads_and_backbone(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    data = digits()
    keep, again = (ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1) for _ in "ab")
    whole = local_module()
    fit(whole, data, 3, callbacks=[keep], enable_checkpointing=True)
    resumed = local_module()
    for p in resumed.parameters():  # what comes back comes from the file
        nn.init.zeros_(p)
    path = tmp_path / "epoch=1.ckpt"
    fit(resumed, data, 3, path=path, callbacks=[again], enable_checkpointing=True)
    assert same(resumed, whole)
    state = torch.load(tmp_path / "epoch=2.ckpt", weights_only=False)["state_dict"]
    assert "learner.backbone.0.weight" in state
    assert any(name.startswith("learner.heads.1.") for name in state)


def test_lightning_precision() -> None:
    data = digits(96)
    module = local_module()
    fit(module, data, 1, precision="bf16-mixed")
    ours = learner()
    with torch.autocast("cpu", torch.bfloat16):
        plain_loop(ours, data, 1)
    assert same(module.learner, ours)
    assert not same(module.learner, plain_loop(learner(), data, 1))


SCALES = [2.0**10, 2.0**22]  # the second one overflows at first


def half_module(scale: float, data: Any, epochs: int = 2, **options: Any) -> Any:
    """Train in 16-mixed; return the module and its scaler."""
    from lightning.pytorch.plugins import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    module = local_module(**options)
    fit(module, data, epochs, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    return module, scaler


@pytest.mark.parametrize("scale", SCALES)
def test_lightning_in_fp16(scale: float) -> None:
    data = digits()
    module, scaler = half_module(scale, data)
    assert same(module.learner, plain_loop(learner(), data, scale=scale))
    assert not same(module.learner, plain_loop(learner(), data))
    assert (scaler.get_scale() < scale) == (scale == SCALES[1])
    module, scaler = half_module(scale, data, accumulate=3, clip_norm=0.5)
    assert (scaler.get_scale() < scale) == (scale == SCALES[1])
    assert not same(module.learner, learner())
    assert same(module.learner, plain_loop(learner(), data, 2, 3, 0.5, scale=scale))


def test_lightning_cannot_clip_what_a_fused_optimizer_unscales() -> None:
    def fused(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, RATE, fused=True)

    with pytest.raises(LocalgradError, match="a fused SGD unscales them inside"):
        half_module(2.0**10, digits(64), 1, optimizer=fused, clip_norm=0.5)
    module, _ = half_module(2.0**10, digits(64), 1, optimizer=fused)
    assert not same(module, local_module())


def test_lightning_refuses_what_it_cannot_follow() -> None:
    with pytest.raises(LocalgradError, match=r"override pair\(batch\)"):
        local_module().training_step({"image": 1}, 0)
    with pytest.raises(LocalgradError, match="interval='day': use 'epoch' or 'step'"):
        local_module(interval="day")
    with pytest.raises(LocalgradError, match="accumulate=0"):
        local_module(accumulate=0)


def test_lightning_predicts_and_tests() -> None:
    from lightning.pytorch import Trainer

    module, data = local_module(), digits(64)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    found = torch.cat(trainer.predict(module, loader(data)))
    with torch.no_grad():
        assert torch.equal(found, torch.cat([module.eval()(x) for x, _ in loader(data)]))
    results = trainer.test(module, loader(data), verbose=False)[0]
    assert results["test_accuracy"] == pytest.approx(accuracy(module.learner.backbone, data))


# --- Hugging Face Trainer


def rows(data: Any) -> list[dict[str, Any]]:
    return [{"pixel_values": x, "labels": y} for x, y in data]


def arguments(path: Path, **options: Any) -> Any:
    from transformers import TrainingArguments

    plain = {
        "num_train_epochs": 2, "per_device_train_batch_size": BATCH, "use_cpu": True,
        "optim": "sgd", "optim_args": f"momentum={MOMENTUM}", "learning_rate": RATE,
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "report_to": [],
        "disable_tqdm": True, "save_strategy": "no", "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(str(path), **{**plain, **options})


def local_trainer(path: Path, data: Any, one: Any = None, **options: Any) -> Any:
    from localgrad.adapters.transformers import LocalTrainer

    one = learner(Named()) if one is None else one
    return LocalTrainer(one, arguments(path, **options), train_dataset=rows(data))


@pytest.fixture(autouse=True)
def _forget_processes() -> Iterator[None]:
    """Accelerate keeps its settings for the life of the process."""
    from accelerate.state import AcceleratorState, GradientState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_trainer_equals_the_plain_loop(tmp_path: Path) -> None:
    data = digits()
    trainer = local_trainer(tmp_path, data, logging_steps=5)
    before = accuracy(trainer.model, data)
    trainer.train()
    assert same(trainer.learner, plain_loop(learner(Named()), data))
    assert accuracy(trainer.model, data) > 0.6 > before
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 4
    for entry in logs:
        assert entry["loss"] == pytest.approx(entry["loss_2"], rel=1e-5)
    assert logs[-1]["loss_0"] < logs[0]["loss_0"]
    assert logs[-1]["loss"] < logs[0]["loss"]


def test_trainer_evaluates_as_transformers_does(tmp_path: Path) -> None:
    from transformers import Trainer

    data = digits(96)
    trainer = local_trainer(tmp_path, data, bf16=True)
    trainer.train()
    ours, before = trainer.evaluate(rows(data)), trainer.predict(rows(data)).predictions
    theirs = Trainer(trainer.model, arguments(tmp_path, bf16=True))
    assert (theirs.predict(rows(data)).predictions == before).all()
    assert theirs.evaluate(rows(data))["eval_loss"] == ours["eval_loss"]


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_trainer_accumulates_and_clips(tmp_path: Path, clip: float) -> None:
    data = digits()
    trainer = local_trainer(
        tmp_path, data, gradient_accumulation_steps=3, max_grad_norm=clip, logging_steps=1
    )
    trainer.train()
    assert same(trainer.learner, plain_loop(learner(Named()), data, 2, 3, clip or None))
    trainer.train()  # once more: the logs start anew
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 8
    for entry in losses:
        assert entry["loss"] == pytest.approx(entry["loss_2"], rel=1e-4)
    trainer = local_trainer(tmp_path, data, gradient_accumulation_steps=3, logging_steps=1)
    trainer.train()
    fresh = learner(Named())
    expected = [float(fresh.step(x, y).losses[0]) for x, y in list(loader(data))[:3]]
    assert trainer.state.log_history[0]["loss_0"] == pytest.approx(sum(expected) / 3)


def test_trainer_resumes_with_heads(tmp_path: Path) -> None:
    data = digits()
    options = {"num_train_epochs": 3, "save_strategy": "epoch", "logging_steps": 1}
    whole = local_trainer(tmp_path, data, **options)
    whole.train()
    resumed = local_trainer(tmp_path, data, **options)
    for p in resumed.learner.parameters():
        nn.init.zeros_(p)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    assert same(resumed.learner, whole.learner)
    wanted = [e for e in whole.state.log_history if e["step"] > 20 and "loss" in e]
    found = [e for e in resumed.state.log_history if e["step"] > 20 and "loss" in e]
    assert [e["loss_1"] for e in found] == [e["loss_1"] for e in wanted]
    assert len(found) == 10
    (tmp_path / "checkpoint-20" / "localgrad_heads.pt").unlink()
    with pytest.raises(LocalgradError, match="holds no heads"):
        local_trainer(tmp_path, data, **options).train(str(tmp_path / "checkpoint-20"))


def test_trainer_loads_the_best_model_with_its_heads(tmp_path: Path) -> None:
    from localgrad.adapters.transformers import LocalTrainer

    data = digits(96)
    options = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    better = {"metric_for_best_model": "loss", "greater_is_better": True}  # the first epoch's
    one = learner(Named())
    trainer = LocalTrainer(
        one, arguments(tmp_path, **options, **better),
        train_dataset=rows(data), eval_dataset=rows(data),
    )  # fmt: skip
    trainer.train()
    assert same(one, plain_loop(learner(Named()), data, 1))


def test_trainer_in_bf16(tmp_path: Path) -> None:
    data = digits(96)
    trainer = local_trainer(tmp_path, data, num_train_epochs=1, bf16=True)
    trainer.train()
    ours = learner(Named())
    with torch.autocast("cpu", torch.bfloat16):
        plain_loop(ours, data, 1)
    assert same(trainer.learner, ours)


def test_trainer_trains_a_vision_transformer(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        image_size=8, patch_size=4, num_channels=1, num_labels=10, initializer_range=0.2,
    )  # fmt: skip
    model, data = ViTForImageClassification(config), digits()
    before = accuracy(model, data)
    trainer = local_trainer(
        tmp_path, data, learner(model), optim="adamw_torch", optim_args=None, learning_rate=3e-3,
        num_train_epochs=5, weight_decay=0.1, logging_steps=10,
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    assert accuracy(model, data) > max(0.5, before + 0.2)
    again = ViTForImageClassification.from_pretrained(tmp_path)
    assert same(again, model)
    decayed, free = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in free["params"]} >= {id(h[-1].bias) for h in trainer.learner.heads}
    held = sum(len(group["params"]) for group in (decayed, free))
    assert held == len(list(trainer.learner.parameters()))
    x, y = data.tensors
    assert audit(lambda: trainer.learner.step(x[:8], y[:8]), trainer.learner).violations == []


def test_trainer_refuses_what_it_cannot_follow(tmp_path: Path) -> None:
    from localgrad.adapters.transformers import LocalTrainer

    data = digits(64)
    with pytest.raises(LocalgradError, match="takes a learner, got a Sequential"):
        LocalTrainer(network(), arguments(tmp_path))
    with pytest.raises(LocalgradError, match=r"give decouple\(..., loss=...\)"):
        LocalTrainer(learner(Named()), arguments(tmp_path), compute_loss_func=max)
    with pytest.raises(LocalgradError, match="torch_compile"):
        local_trainer(tmp_path, data, torch_compile=True)
    trainer = local_trainer(tmp_path, data)
    x, y = data[:4]
    mask = torch.ones(4, 8)
    for extra in ({"token_type_ids": y}, {"attention_mask": mask.triu()}):
        with pytest.raises(LocalgradError, match="a learner takes one tensor"):
            trainer._pair({"pixel_values": x, "labels": y, **extra})
    assert trainer._pair({"pixel_values": x, "labels": y, "attention_mask": mask}) == (x, y)
    with pytest.raises(LocalgradError, match="the batch has pixel_values: expected"):
        trainer._pair({"pixel_values": x})


# --- Accelerate


def accelerated(accelerator: Any, data: Any, epochs: int = 2, clip: float | None = None) -> Any:
    from localgrad.adapters.accelerate import prepare, step

    one = learner()
    optimizer = sgd(one.parameters())
    prepare(accelerator, one)
    optimizer, batches = accelerator.prepare(optimizer, loader(data))
    for _ in range(epochs):
        for x, y in batches:
            with accelerator.accumulate(one):
                step(accelerator, one, x, y)
                if clip is not None and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(one.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
    return one, optimizer


def test_accelerate_equals_the_plain_loop() -> None:
    from accelerate import Accelerator

    data = digits()
    one, _ = accelerated(Accelerator(cpu=True), data)
    assert same(one, plain_loop(learner(), data))
    assert accuracy(one.backbone, data) > 0.6


def test_accelerate_accumulates_and_clips() -> None:
    from accelerate import Accelerator

    data = digits(9 * BATCH)  # three updates; accelerate divides a shorter one by three too
    one, _ = accelerated(Accelerator(cpu=True, gradient_accumulation_steps=3), data, clip=0.5)
    assert same(one, plain_loop(learner(), data, 2, 3, 0.5))


def test_accelerate_in_bf16() -> None:
    from accelerate import Accelerator

    data = digits(96)
    one, _ = accelerated(Accelerator(cpu=True, mixed_precision="bf16"), data, 1)
    ours = learner()
    with torch.autocast("cpu", torch.bfloat16):
        plain_loop(ours, data, 1)
    assert same(one, ours)


def test_accelerate_saves_and_loads_the_learner(tmp_path: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    one, optimizer = accelerated(accelerator, digits(96))
    kept = {name: value.clone() for name, value in one.state_dict().items()}
    accelerator.save_state(str(tmp_path))
    for p in one.parameters():
        nn.init.zeros_(p)
    optimizer.state.clear()
    accelerator.load_state(str(tmp_path))
    assert one.state_dict().keys() == kept.keys()
    assert all(torch.equal(value, kept[name]) for name, value in one.state_dict().items())
    assert len(optimizer.state) == len(list(one.parameters()))


def in_half(accelerator: Any, scale: float) -> Any:
    """Give an accelerator what it makes itself on a GPU: without one it refuses fp16."""
    accelerator.native_amp = True
    accelerator.state._mixed_precision = "fp16"
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return accelerator


@pytest.mark.parametrize("scale", SCALES)
def test_accelerate_in_fp16(scale: float) -> None:
    from accelerate import Accelerator

    data = digits()
    one, optimizer = accelerated(in_half(Accelerator(cpu=True), scale), data)
    assert same(one, plain_loop(learner(), data, scale=scale))
    assert not optimizer.step_was_skipped
    data = digits(9 * BATCH)
    accelerator = in_half(Accelerator(cpu=True, gradient_accumulation_steps=3), scale)
    one, _ = accelerated(accelerator, data, clip=0.5)
    assert same(one, plain_loop(learner(), data, 2, 3, 0.5, scale=scale))
    assert not same(one, learner())


@pytest.mark.parametrize("scale", SCALES)
def test_trainer_in_fp16(tmp_path: Path, scale: float) -> None:
    data = digits()
    trainer = local_trainer(tmp_path, data, max_grad_norm=0.5)
    in_half(trainer.accelerator, scale)
    trainer.train()
    assert same(trainer.learner, plain_loop(learner(Named()), data, clip=0.5, scale=scale))


def test_accelerate_refuses_shards() -> None:
    from accelerate import Accelerator, DistributedType

    from localgrad.adapters.accelerate import prepare

    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = DistributedType.FSDP
    with pytest.raises(LocalgradError, match="FSDP splits the model's parameters"):
        prepare(accelerator, learner())


# --- several processes, missing packages


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Half a batch each, gradients averaged, in every adapter; without BatchNorm."""
    script = Path(__file__).parent / "two_processes.py"
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    data = digits(256, torch.float64)
    one = plain_loop(learner(network(norm=False).double(), BackLink(head="pool_linear")), data)
    wanted = list(one.state_dict().values())
    for name in ("accelerate", "transformers", "lightning"):
        first, second = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), name
        for found, value in zip(first, wanted, strict=True):
            # a mean of two means rounds otherwise than one mean
            torch.testing.assert_close(found, value, rtol=0, atol=1e-12)


def test_a_missing_package_is_named() -> None:
    code = """
import importlib, sys
packages = {"lightning": "lightning", "transformers": "trainer", "accelerate": "accelerate"}
sys.modules.update(dict.fromkeys(packages))
for adapter, extra in packages.items():
    try:
        importlib.import_module(f"localgrad.adapters.{adapter}")
        sys.exit(f"{adapter} was imported")
    except ValueError as error:
        assert type(error).__name__ == "LocalgradError"
        assert str(error).endswith(f"pip install localgrad[{extra}]"), error
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_accuracy_of_chance_is_no_learning() -> None:
    """What the runs above must beat."""
    assert math.isclose(accuracy(network(), digits()), 0.1, abs_tol=0.1)
