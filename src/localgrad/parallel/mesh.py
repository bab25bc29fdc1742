"""Processes in a grid: blocks of the network along one side, replicas of each along the other.

The grid is a :class:`torch.distributed.device_mesh.DeviceMesh` of ``(data, blocks)``, so that
neighbours in the network are neighbours in rank, which torchrun puts on one machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from localgrad.errors import LocalgradError
from localgrad.parallel.roll import ANSWERS, CLOSED, LATE, Roll

#: What crosses a border, each with a process group of its own: messages of one kind arrive in the
#: order in which they were sent, whatever the order of two kinds.
KINDS = ("border", "error", "evaluation")


@dataclass(frozen=True, eq=False)
class Mesh:
    """This process's place in the grid.

    Args:
        blocks: number of parts that the network is cut into.
        data: number of replicas of each part.
        rank: this process's number among all.
        device: where it computes.
        row: all processes of this replica.
        column: all replicas of this part.
        control: all processes, for what is no tensor of the device.
        lanes: process group of each kind of message at the border after a part.
        roll: who is there, and who was lost.
    """

    blocks: int
    data: int
    rank: int
    device: torch.device
    row: dist.ProcessGroup
    column: dist.ProcessGroup
    control: dist.ProcessGroup
    lanes: Mapping[tuple[int, str], dist.ProcessGroup]
    roll: Roll

    @classmethod
    def start(
        cls,
        blocks: int,
        data: int = 1,
        device: torch.device | str | None = None,
        timeout: float = 20.0,
    ) -> Mesh:
        """Join the other processes; every process calls it with the same numbers.

        Args:
            blocks, data: the grid.
            device: default: the CUDA device of this process's number on its machine, where there
                is one, else the CPU. On CUDA NCCL carries the messages, on the CPU gloo.
            timeout: seconds that a process waits for another before the run ends.

        Raises:
            LocalgradError: the grid does not fit the number of processes, or the others cannot be
                reached.
        """
        size = _world_size()
        for name, count in (("blocks", blocks), ("data", data)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise LocalgradError(f"parallel.{name}={count!r}: must be a whole number >= 1")
        if blocks * data != size:
            raise LocalgradError(
                f"parallel.blocks {blocks} x parallel.data {data} = {blocks * data} processes, but "
                f"{size} {'was' if size == 1 else 'were'} started: use torchrun --nproc-per-node "
                f"{blocks * data}"
            )
        where = _device(device)
        try:
            return cls._meet(blocks, data, where, timeout)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, LocalgradError):
                raise
            raise LocalgradError(
                f"the other processes cannot be reached: {str(error).splitlines()[0]}; is the port "
                "in use, or has a process ended?"
            ) from error

    @classmethod
    def _meet(cls, blocks: int, data: int, where: torch.device, timeout: float) -> Mesh:
        # NCCL ends a process that has waited too long, without a word: the roll is called first
        wait = timedelta(seconds=timeout + (2 * ANSWERS if where.type == "cuda" else 0))
        if not dist.is_initialized():
            store, number, size = next(rendezvous("env://", timeout=wait))
            roll = Roll.join(number, size, timeout)
            # torchrun keeps its store over restarts, with the addresses of processes that are gone
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            dist.init_process_group(
                "nccl" if where.type == "cuda" else "gloo",
                store=PrefixStore(f"attempt{attempt}", store),
                rank=number,
                world_size=size,
                timeout=wait,
            )
        else:
            roll = Roll.join(dist.get_rank(), dist.get_world_size(), timeout)
            dist.barrier()
        rank = dist.get_rank()
        grid = init_device_mesh(where.type, (data, blocks), mesh_dim_names=("data", "blocks"))
        control = dist.new_group(backend="gloo", timeout=wait)
        lanes = {}
        for replica in range(data):
            for part in range(blocks - 1):
                ends = [replica * blocks + part, replica * blocks + part + 1]
                for kind in KINDS:  # every process makes every group, in the same order
                    group = dist.new_group(ends, timeout=wait)
                    if rank in ends:
                        lanes[part, kind] = group
        row, column = grid.get_group("blocks"), grid.get_group("data")
        roll.listen()
        return cls(blocks, data, rank, where, row, column, control, lanes, roll)

    @property
    def part(self) -> int:
        """Which part of the network this process holds."""
        return self.rank % self.blocks

    @property
    def replica(self) -> int:
        """Which replica of it."""
        return self.rank // self.blocks

    @property
    def first(self) -> bool:
        """Whether the network's input is read here."""
        return self.part == 0

    @property
    def last(self) -> bool:
        """Whether the network's output is made here."""
        return self.part == self.blocks - 1

    def gather(self, value: Any) -> list[Any]:
        """Return every process's ``value``, by rank; any object that can be pickled."""
        found: list[Any] = [None] * (self.blocks * self.data)
        self.together(lambda: dist.all_gather_object(found, value, group=self.control))
        return found

    def collect(self, value: Any) -> list[Any] | None:
        """Return every process's ``value``, by rank, on rank 0; None elsewhere."""
        found: list[Any] | None = [None] * (self.blocks * self.data) if self.rank == 0 else None
        self.together(lambda: dist.gather_object(value, found, dst=0, group=self.control))
        return found

    def together(self, does: Callable[[], Any]) -> None:
        """Do something that other processes do too.

        Raises:
            RankLostError: one of them is not there any more, or does not answer in time.
        """
        try:
            with self.roll.waiting():
                does()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self.roll.lost(None, reason(error)) from error

    def agree(self, facts: Mapping[str, str], remedy: str) -> None:
        """Compare facts with those of all processes.

        Args:
            facts: a short text, such as a digest, by what it is of.
            remedy: ends the message.

        Raises:
            LocalgradError: on every process, naming the first that differs and in what.
        """
        everyone = self.gather(dict(facts))
        for rank, others in enumerate(everyone):
            names = list(dict.fromkeys([*everyone[0], *others]))
            different = [name for name in names if everyone[0].get(name) != others.get(name)]
            if different:
                name = different[0]
                more = f" and {len(different) - 1} more" if len(different) > 1 else ""
                raise LocalgradError(
                    f"rank {rank} differs from rank 0 in {name} ({others.get(name)}, not "
                    f"{everyone[0].get(name)}){more}: {remedy}"
                )

    def close(self) -> None:
        """Leave; the process may join another grid afterwards."""
        self.roll.leave()
        if dist.is_initialized():
            dist.destroy_process_group()


def reason(error: RuntimeError) -> str:
    """Return in words why a process was lost."""
    text = str(error).lower()
    late = "timed out" in text or "timeout" in text
    return LATE if late else CLOSED


def _world_size() -> int:
    if dist.is_initialized():
        return dist.get_world_size()
    missing = [
        name
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        if name not in os.environ
    ]
    if missing:
        raise LocalgradError(
            f"{missing[0]} is not set: start the processes with torchrun --nproc-per-node N -m "
            "localgrad .."
        )
    return int(os.environ["WORLD_SIZE"])


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(device)
    if where.type == "cuda":
        if where.index is None:
            where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if where.index >= torch.cuda.device_count():
            raise LocalgradError(
                f"{where} is not there: this machine has {torch.cuda.device_count()} CUDA devices; "
                "start fewer processes on it"
            )
        torch.cuda.set_device(where)
    return where
