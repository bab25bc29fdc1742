"""Every adapter in two processes with half of each batch; each writes the weights it ends with.

Usage: two_processes.py FOLDER
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import conftest  # noqa: F401  torchvision's wheel, before anything imports it

# isort: split
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from localgrad import LocalLearner
from localgrad.adapters.accelerate import prepare, step
from localgrad.adapters.lightning import LocalModule
from localgrad.methods import BackLink
from test_adapters import local_trainer
from trained_digits import BATCH, Named, digits, learner, loader, network, sgd

FOLDER = Path(sys.argv[1])
METHOD = BackLink(head="pool_linear")  # no norm: its statistics are each process's own


def keep(name: str, one: LocalLearner) -> None:
    torch.save(list(one.state_dict().values()), FOLDER / f"{name}-{os.environ['RANK']}.pt")


def different(model: nn.Module) -> nn.Module:
    """Change the weights in the second process: those of the first must win."""
    if os.environ["RANK"] == "1":
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1)
    return model


def plain_network() -> nn.Module:
    return network(norm=False).double()


def with_accelerate() -> None:
    split = DataLoaderConfiguration(split_batches=True)
    accelerator = Accelerator(cpu=True, dataloader_config=split)
    assert accelerator.num_processes == 2
    one = learner(plain_network(), METHOD)
    different(one)
    optimizer = sgd(one.parameters())
    prepare(accelerator, one)
    optimizer, batches = accelerator.prepare(optimizer, loader(digits(256, torch.float64)))
    for _ in range(2):
        for x, y in batches:
            assert len(x) == BATCH // 2
            step(accelerator, one, x, y)
            optimizer.step()
            optimizer.zero_grad()
    keep("accelerate", one)


def with_transformers() -> None:
    one = learner(Named(plain_network()), METHOD)
    different(one)
    data = digits(256, torch.float64)
    trainer = local_trainer(FOLDER, data, one, per_device_train_batch_size=BATCH // 2)
    trainer.train()
    assert trainer.state.global_step == 2 * len(data) // BATCH
    keep("transformers", one)


def with_lightning() -> None:
    model = plain_network()
    torch.manual_seed(1)
    example = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    module = LocalModule(model, METHOD, blocks=3, example_input=example, optimizer=sgd)
    different(module)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, enable_checkpointing=False,
        logger=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,  # Lightning's own shuffles whatever the loader does
    )  # fmt: skip
    data = digits(256, torch.float64)
    every_other = DistributedSampler(data, 2, int(os.environ["RANK"]), shuffle=False)
    trainer.fit(module, DataLoader(data, BATCH // 2, sampler=every_other))
    keep("lightning", module.learner)


def one_process(rank: int, port: int) -> None:
    # what torchrun sets
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with_accelerate()
    with_transformers()
    with_lightning()


if __name__ == "__main__":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")  # the imports are paid for once
    processes = [context.Process(target=one_process, args=(rank, free)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))
