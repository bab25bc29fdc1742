"""Do all processes mean the same? Digests are compared before they work together."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from localgrad.learner import LocalLearner
from localgrad.parallel.mesh import Mesh


def digest(value: Tensor | str) -> str:
    """Return a short digest of a text, or of a tensor's values.

    >>> digest("backlink") == digest("backlink") != digest("greedy")
    True
    >>> digest(torch.zeros(2, 3)) == digest(torch.zeros(3, 2).T)
    True
    """
    if isinstance(value, str):
        return hashlib.sha256(value.encode()).hexdigest()[:12]
    held = value.detach().cpu().contiguous()
    size = held.numel() * held.element_size()
    memory = (ctypes.c_char * size).from_address(held.data_ptr()) if size else b""
    return hashlib.sha256(memory).hexdigest()[:12]


def same_learner(
    mesh: Mesh,
    learner: LocalLearner,
    ends: Sequence[int] | None,
    late_links: bool | Collection[int] = False,
) -> None:
    """Look whether every process has built the same learner, and means to run it alike.

    Raises:
        LocalgradError: on every process, naming the first that differs and in what.
    """
    facts = {
        "version of torch": torch.__version__,
        "number of threads": str(torch.get_num_threads()),
        "decoupling": digest(str(learner.decoupling.to_dict())),
        "division into parts": str(ends),
        "late_links": str(late_links),
        **{name: digest(value) for name, value in learner.state_dict().items()},
    }
    mesh.agree(facts, "build the same learner from the same seed in every process")


def same_batch(mesh: Mesh, x: Tensor, y: Any) -> None:
    """Look whether the processes of each replica have the same batch.

    Raises:
        LocalgradError: as :func:`same_learner`.
    """
    targets = "".join(digest(t) for t in tree_leaves(y) if isinstance(t, Tensor))
    facts = {
        f"input of replica {mesh.replica}": digest(x),
        f"targets of replica {mesh.replica}": targets,
    }
    # a process takes part in the comparison of its own replica alone
    first: dict[str, str] = {}
    for others in mesh.gather(facts):
        first = {**others, **first}
    mesh.agree({**first, **facts}, "give every process the same data, in the same order")
