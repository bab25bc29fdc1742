"""Two streams for a step: every use across lanes is ordered, and no bit changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import localgrad
import localgrad.learner as learner_room
from localgrad import LocalgradError
from localgrad import methods as M
from localgrad.lanes import Lanes
from race_detector import RaceDetector

from zoo import batch, build

RULES = [
    M.Backprop(),
    M.Greedy(),
    M.Greedy(head="conv_mlp"),
    M.DGL(),
    M.PredSim(),
    M.InfoPro(first=(1, 0.5), last=(0.5, 1)),
    M.InfoPro(mode="softmax", first=(1, 0), last=(0, 1)),
    M.AugLocal(2),
    M.BWBPF(),
    M.DeepSupervision(),
    M.BackLink(),
    M.BackLink(length=9, keep_error=False),
    M.BackLink(length_unit="layer"),
    M.BackLink(length=9, combine="replace", weight=0.5),
]


def on_lanes(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[RaceDetector, Lanes], None] | None = None
) -> RaceDetector:
    """Let every step run on two fake streams; ``spoil`` takes a part of the ordering away."""
    detector = RaceDetector(2)

    def lanes(*_: object) -> Lanes:
        made = Lanes(detector.lanes, detector.main, detector.use)
        if spoil is not None:
            spoil(detector, made)
        return made

    monkeypatch.setattr(learner_room, "lanes_for", lanes)
    return detector


def two_steps(learner: localgrad.LocalLearner, x: Tensor, y: Tensor) -> list[Tensor]:
    """Step, update, step again on top of the gradients, and look at all that came out."""
    found = []
    torch.manual_seed(3)
    for _ in range(2):
        out = learner.step(x, y)
        found += [out.logits.clone(), *(loss.clone() for loss in out.losses)]
        with torch.no_grad():
            for p in learner.parameters():
                if p.grad is not None:
                    p.sub_(p.grad, alpha=0.1)
                    found.append(p.grad.clone())
    learner.zero_grad()
    learner.step(x, y)
    return [*found, *(p.grad.clone() for p in learner.parameters() if p.grad is not None)]


def make(rule: M.Method, chain: str = "network") -> tuple[localgrad.LocalLearner, Tensor, Tensor]:
    x, y = batch(chain)
    return localgrad.decouple(build(chain), rule, example_input=x), x, y


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_use_across_lanes_is_ordered_and_no_bit_changes(
    rule: M.Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = two_steps(*make(rule))
    detector = on_lanes(monkeypatch)
    learner, x, y = make(rule)
    with detector:
        found = two_steps(learner, x, y)
    assert not detector.races
    assert all(map(torch.equal, found, expected))
    assert detector.crossed or len(learner._groups) == 1


def deaf(listener: int, speaker: int) -> Callable[[RaceDetector, Lanes], None]:
    def spoil(detector: RaceDetector, lanes: Lanes) -> None:
        streams = [detector.main, *detector.lanes]
        streams[listener].deaf.add(speaker)

    return spoil


def skip(name: str) -> Callable[[RaceDetector, Lanes], None]:
    def spoil(detector: RaceDetector, lanes: Lanes) -> None:
        original = getattr(lanes, name)

        def nothing(group: int, *handed: object) -> object:
            for table in (lanes._borders, lanes._errors):
                loan = table.get(group)
                if loan is not None:
                    loan.event = ((0, [0] * 3), loan.event[1])  # one that has always happened
            return original(group, *handed)

        setattr(lanes, name, nothing)

    return spoil


def let_go(detector: RaceDetector, lanes: Lanes) -> None:
    """Hold nothing that another lane still reads."""
    lend = lanes._lend

    def forget(tensor: Tensor | None, owner: int, group: int) -> object:
        loan = lend(tensor, owner, group)
        loan.tensor = None
        return loan

    lanes._lend = forget  # type: ignore[method-assign,assignment]


SPOILT = {
    "lane 1 starts at once": deaf(1, 0),  # the other one hears of the caller through it
    "the caller goes on without lane 1": deaf(0, 1),
    "the caller goes on without lane 2": deaf(0, 2),
    "borders are not waited for": skip("take_on"),
    "errors are not waited for": skip("take_back"),
    "what crosses is not held": let_go,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_the_detector_finds_what_is_missing(
    spoil: Callable[[RaceDetector, Lanes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = on_lanes(monkeypatch, spoil)
    rules = [M.Greedy(), M.BackLink()]
    with detector:
        for rule in rules:
            two_steps(*make(rule))
    assert detector.races


def test_what_crosses_is_held_for_a_few_groups_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0

    def spy(detector: RaceDetector, lanes: Lanes) -> None:
        wait = lanes._wait

        def look(loan: object) -> None:
            nonlocal most
            wait(loan)  # type: ignore[arg-type]
            most = max(most, len(lanes._loans))

        lanes._wait = look  # type: ignore[method-assign,assignment]

    detector = on_lanes(monkeypatch, spy)
    learner, x, y = make(M.BackLink())
    with detector:
        learner.step(x, y)
    assert len(learner._groups) == 10
    assert 0 < most <= 9  # four borders, four errors and the one that is waited for


def test_a_unit_that_writes_on_its_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Declared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))
            self.c = nn.Linear(4, 3)

        def chain_units(self) -> dict[str, tuple[str, ...]]:
            return {"a": ("a",), "b": ("b",)}

        def chain_tail(self) -> tuple[str, ...]:
            return ("c",)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(self.b(self.a(x)))
            return out

    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    learner = localgrad.decouple(Declared(), M.Greedy(), example_input=x)
    learner.step(x, y)
    on_lanes(monkeypatch)
    with pytest.raises(LocalgradError, match="group 1 of blocks changes its input in place"):
        learner.step(x, y)


def test_streams_is_checked_and_needs_no_device() -> None:
    learner, x, y = make(M.Greedy())
    with pytest.raises(LocalgradError, match="streams=3: must be 1 or 2"):
        learner.streams = 3
    learner.streams = 2
    assert learner.streams == 2
    learner.step(x, y)


def test_a_batch_norm_in_two_blocks_keeps_one_stream() -> None:
    norm = nn.BatchNorm1d(4, affine=False)
    model = nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 4), norm, nn.Linear(4, 3))
    learner = localgrad.decouple(model, M.Greedy(), example_input=torch.randn(8, 4))
    with pytest.raises(LocalgradError, match="BatchNorm1d with running statistics runs in several"):
        learner.streams = 2
