"""A script that test_compiled.py starts: inductor, with the code cache that its environment names.

``first`` compiles a segment as torch does by itself, for a single backward. ``then`` compiles it to
be walked twice, with a cold and a warm cache, and last without the cache key of its own: there the
code of the first process turns up. In between it compiles a small learner.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import localgrad
from localgrad import compiled_run, walked_twice
from localgrad import methods as M

UNIT = [nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU()]


@contextmanager
def without_a_key_of_its_own() -> Iterator[None]:
    import torch._functorch.config as functorch

    with functorch.patch(donated_buffer=False, force_non_lazy_backward_lowering=True):
        yield


def relative_error(twice: bool) -> float:
    """Walk a compiled segment once, or twice, and compare its gradients with the plain ones."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    unit = localgrad.Unit("a", tuple(copy.deepcopy(UNIT)))
    x, *errors = torch.randn(3, 16, 8)
    run = compiled_run.CompiledRun(0, "link", twice=twice, splits=False)
    results = []
    for compiled in (False, True):
        leaf = x.clone().requires_grad_()
        found: list[Tensor] = []
        end = run((unit,), leaf) if compiled else unit(leaf)
        for number, error in enumerate(errors[: 2 if twice else 1], start=1):
            with walked_twice.asking(walked_twice.ALL):
                end.backward(error, retain_graph=twice and number == 1)
        for tensor in (leaf, *unit.parameters()):
            assert tensor.grad is not None
            found.append(tensor.grad.flatten())
            tensor.grad = None
        results.append(torch.cat(found))
    plain, other = results
    return float((other - plain).norm() / plain.norm())


def main(what: str) -> None:
    found: dict[str, object] = {}
    if what == "first":
        found["once"] = relative_error(twice=False)
    else:
        found["cold"], found["warm"] = relative_error(twice=True), relative_error(twice=True)
        found["hits"] = torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"]
        torch.manual_seed(0)
        x, y = torch.randn(16, 8), torch.randint(3, (16,))
        model = nn.Sequential(*copy.deepcopy(UNIT), nn.Linear(8, 3))
        learner = localgrad.decouple(model, M.BackLink(head="pool_linear"), example_input=x)
        found["report"] = learner.compile(x, y).to_dict()
        walked_twice.compiling_to_keep = without_a_key_of_its_own
        found["misled"] = relative_error(twice=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
