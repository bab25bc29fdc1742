"""What a search may draw, and which trials go on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

import localgrad
from localgrad.decoupling import Part
from localgrad.errors import LocalgradError
from localgrad.experiment.options.search import SearchConfig
from localgrad.networks import resnet20, vgg11
from localgrad.search.baselines import baselines
from localgrad.search.fronts import dominates, goes_on, ranks
from localgrad.search.space import Space, stage_ends


class Dice:
    """Draws as Optuna's random sampler does."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.drawn: dict[str, Any] = {}

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return self._kept(name, self.random.randint(low, high))

    def suggest_float(self, name: str, low: float, high: float) -> float:
        return self._kept(name, self.random.uniform(low, high))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._kept(name, self.random.choice(choices))

    def _kept(self, name: str, value: Any) -> Any:
        self.drawn[name] = value
        return value


class Given:
    """Hands out what was given."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def suggest_int(self, name: str, *_: Any) -> int:
        return self.values[name]

    suggest_float = suggest_categorical = suggest_int


X = torch.rand(2, 3, 32, 32)
CHAINS = {
    "resnet20": lambda: resnet20(width=4),
    "vgg11": lambda: vgg11(width=4),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), *[m for _ in range(5) for m in (nn.LazyLinear(12), nn.ReLU())],
        nn.LazyLinear(10),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CHAINS)
def chain(request):
    torch.manual_seed(0)
    model = CHAINS[request.param]()
    with torch.no_grad():
        model(X)
    return localgrad.Chain.of(model, X)


def space_of(chain, **options) -> Space:
    most = min(6, len(chain))
    return Space.of(chain, X, SearchConfig(**{"blocks": [2, most], **options}))


def test_every_drawing_is_a_legal_decoupling(chain):
    space = space_of(chain)
    seen = set()
    for seed in range(200):
        found = space.draw(Dice(seed))  # Decoupling itself refuses blocks that do not fit together
        assert found.units == chain.names
        assert space.fewest <= len(found) <= space.most
        assert all(block.head is not None for block in found.blocks[:-1])
        for block in found.blocks[:-1]:
            if block.head.name == "auglocal":
                first = chain.index(block.head.options["units"][0])
                assert first >= block.stop
        seen.add(tuple(block.stop for block in found.blocks))
    assert len(seen) > 10
    for seed in range(0, 200, 40):
        learner = localgrad.decouple(chain, space.draw(Dice(seed)), example_input=X)
        learner.step(X, torch.tensor([0, 1]))
        assert all(p.grad is not None for p in learner.parameters())
        learner.release()


def test_values_of_a_decoupling_draw_it(chain):
    space = space_of(chain)
    for seed in range(20):
        dice = Dice(seed)
        found = space.draw(dice)
        heads = [part for k in range(len(found) - 1) for part in space.heads
                 if str(part) == dice.drawn[f"head {k}"]]  # fmt: skip
        links = [dice.drawn[f"link {k}"] for k in range(len(found) - 1)]
        ends = [block.stop for block in found.blocks[:-1]]
        assert space.draw(Given(space.values(ends, heads, links))) == found


def test_baselines_are_in_the_space_and_drawn_by_their_values(chain):
    space = space_of(chain)
    begin = baselines(space, chain, X, nn.functional.cross_entropy)
    assert any(each.name.startswith("uniform") for each in begin)
    for each in begin:
        assert space.draw(Given(each.values)) == each.decoupling
        assert str(len(each.decoupling)) == each.name.partition("=")[2]


def test_the_size_of_a_space_counts_its_decouplings():
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])
    chain = localgrad.Chain.of(model, torch.rand(2, 4))
    space = Space(chain.names, (1, 2), 1, 3, (Part("pool_linear"), Part("conv_mlp")), (0, 1))
    assert len({str(space.draw(Dice(seed)).to_dict()) for seed in range(2000)}) == len(space)
    assert len(space) == 1 + 2 * 4 + 16


def test_stages_end_where_the_shape_changes():
    chain = localgrad.Chain.of(resnet20(width=4), X)
    assert [chain.names[end - 1] for end in stage_ends(chain, X)] == ["1.2", "2.2"]
    space = space_of(chain, cuts="stages")
    assert (space.fewest, space.most) == (2, 3)
    drawn = {block.stop for seed in range(50) for block in space.draw(Dice(seed)).blocks[:-1]}
    assert drawn == {4, 7}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"blocks": [2, 11]}, "11 blocks are more than the network's 10 units"),
        ({"blocks": [4, 5], "cuts": "stages"}, "the search space is empty: 4 blocks need 3 cuts"),
        ({"heads": ["pool_liner"]}, "unknown head 'pool_liner'; did you mean 'pool_linear'?"),
        ({"heads": ["predsim"]}, "'predsim' belongs to a loss of its own"),
        ({"heads": [{"name": "auglocal", "tau": 1}]}, "auglocal has no option 'tau' here"),
        ({"heads": [{"name": "auglocal", "depth": 0}]}, "depth=0: must be a whole number >= 1"),
    ],
)
def test_mistakes(options, text):
    chain = localgrad.Chain.of(resnet20(width=4), X)
    with pytest.raises(LocalgradError, match=text.replace("?", r"\?")):
        space_of(chain, **options)


def test_ranks_against_counting():
    dice = random.Random(0)
    for _ in range(30):
        points = [(dice.randrange(5), dice.randrange(5)) for _ in range(12)]
        found = ranks(points)
        for i, point in enumerate(points):
            worse = [found[j] for j, other in enumerate(points) if dominates(other, point)]
            assert found[i] == (max(worse) + 1 if worse else 0)


def test_who_goes_on():
    """One objective: the best 1 in N. Two: nobody better goes out before."""
    scores = [0.3, 0.5, 0.1, 0.6, 0.2, 0.55, 0.7, 0.65, 0.05]
    kept = [
        k for k in range(len(scores))
        if goes_on((-scores[k],), [(-s,) for s in scores[:k]], 3)
    ]  # fmt: skip
    assert kept == [0, 1, 3, 5, 6, 7]
    cheap, good, beaten = (-0.2, 1.0), (-0.8, 9.0), (-0.1, 5.0)
    assert goes_on(cheap, [good], 2)
    assert goes_on(good, [cheap], 2)
    assert not goes_on(beaten, [cheap, good], 2)
