"""All contenders in turn: every round runs each of them, in an order that moves on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from localgrad import methods as M
from localgrad.errors import LocalgradError
from localgrad.parallel.builders import linked_blocks, runs_of
from localgrad.parallel.simulate import Timeline
from parallel_step import check
from parallel_step.ddp import DDP, Apart
from parallel_step.local import RULES, Backprop, RuleAlone, Together, cut, divided
from parallel_step.pace import Pace, pace
from parallel_step.pipelines import SCHEDULES, Pipeline, quickest
from parallel_step.setting import Contender, Setting
from parallel_step.simulated import Paper

WAYS = {"alone": False, "at_once": True}  # how unit times are measured


@dataclass
class Entry:
    """A contender, and what is to be told of it.

    Args:
        contender: to run.
        about: rule, blocks, stages and the like.
        own: name of the same rule in one process, where this is one in several.
        rival: others are compared with it.
        simulated: seconds of a step on paper, by how unit times were measured.
        rounds: in each, the pace of every process that worked.
    """

    contender: Contender
    about: dict[str, Any]
    own: str | None = None
    rival: bool = False
    simulated: dict[str, float] = field(default_factory=dict)
    rounds: list[list[Pace]] = field(default_factory=list)


class Contest:
    """Contenders of one setting.

    Args:
        setting: what is trained where.
        rules: names in :data:`parallel_step.local.RULES`.
        blocks: numbers of blocks K of each rule.
        micro_batches: of each pipeline.
        steps: of a contender in a round.
        repeats: runs of each unit that is timed for the simulation.
        reach: how far from the balanced cut stages of a pipeline are tried, in units.
    """

    def __init__(
        self,
        setting: Setting,
        rules: Sequence[str],
        blocks: Sequence[int],
        micro_batches: Sequence[int],
        steps: int,
        repeats: int = 5,
        reach: int = 2,
    ) -> None:
        self.setting, self.steps, self._reach = setting, steps, reach
        self.entries: list[Entry] = []
        self.left_out: dict[str, str] = {}
        self.waiting_busy = 0.0
        self._papers = {
            way: Paper(setting, at_once, steps, repeats) for way, at_once in WAYS.items()
        }
        balanced = self._papers["alone"].balanced(max(micro_batches))
        self.gradient_errors = check.errors(setting, micro_batches, balanced)
        self._bp()
        for name in rules:
            for count in blocks:
                self._rule(RULES[name], count)
        self._add(DDP(setting, "DDP"), {"kind": "ddp"}, rival=True)
        self._add(Apart(setting, "DDP without its exchange"), {"kind": "apart"})
        for kind in SCHEDULES:
            for count in micro_batches:
                self._pipeline(kind, count)

    @property
    def line(self) -> tuple[float, float]:
        """Bytes a second and latency in seconds between processes."""
        return self._papers["alone"].line

    def _add(self, contender: Contender, about: dict[str, Any], **more: Any) -> None:
        self.entries.append(Entry(contender, about, **more))
        if self.setting.mesh.rank == 0:
            print(f"ready: {contender.name}", flush=True)

    def _bp(self) -> None:
        cpu = self.setting.mesh.device.type == "cpu"
        for threads in (1, 2) if cpu else (1,):
            several = f", {threads} threads" if threads > 1 else ""
            one = Backprop(self.setting, f"BP{several}", threads)
            paper = self._papers["alone"]
            whole = paper.pipeline("1F1B", 1, (paper.units,)).step_seconds
            on_paper = {"alone": whole} if threads == 1 else {}
            self._add(one, {"kind": "bp"}, rival=True, simulated=on_paper)

    def _rule(self, rule: M.Method, count: int) -> None:
        setting, label = self.setting, M.label(rule)
        mine: Any = None
        if setting.mesh.rank == 0:
            try:
                mine, ranks = cut(setting, rule, count), setting.mesh.blocks
                if len(runs_of(mine)) < ranks:
                    raise LocalgradError(f"{len(runs_of(mine))} blocks for {ranks} processes")
            except LocalgradError as error:
                mine = str(error)
        found = setting.mesh.gather(mine)[0]
        if isinstance(found, str):
            self.left_out[f"{label}, K={count}"] = found
            return
        decoupling, ends = found, divided(setting, found)
        about = {"kind": "local", "rule": label, "blocks": count, "losses": len(decoupling)}
        runs = runs_of(decoupling)
        units = [decoupling.blocks[runs[end - 1][-1]].stop for end in ends]
        own = f"{label}, K={count}, one process"
        whole = self._papers["alone"].local(rule, decoupling, ends[-1:]).step_seconds
        self._add(RuleAlone(setting, own, decoupling), about, simulated={"alone": whole})
        self._add(
            Together(setting, f"{label}, K={count}", decoupling, ends),
            {**about, "units": units},
            own=own,
            simulated=self._seconds(lambda paper: paper.local(rule, decoupling, ends)),
        )
        # where a process has other blocks to work on meanwhile, nothing waits for a link
        if linked_blocks(decoupling) and len(runs) == setting.mesh.blocks:
            self._add(
                Together(setting, f"{label}, K={count}, late links", decoupling, ends, True),
                {**about, "units": units, "late_links": True},
                own=own,
                simulated=self._seconds(lambda paper: paper.local(rule, decoupling, ends, True)),
            )

    def _pipeline(self, kind: str, count: int) -> None:
        balanced = self._papers["alone"].balanced(count)
        ends, tried = quickest(self.setting, kind, count, balanced, self._reach)
        self._add(
            Pipeline(self.setting, kind, count, ends),
            {"kind": "pipeline", "micro_batches": count, "units": ends, "tried": tried},
            rival=True,
            simulated=self._seconds(lambda paper: paper.pipeline(kind, count, ends)),
        )

    def _seconds(self, play: Any) -> dict[str, float]:
        found: dict[str, Timeline] = {way: play(paper) for way, paper in self._papers.items()}
        return {way: timeline.step_seconds for way, timeline in found.items()}

    def round(self, number: int, counts: bool = True) -> None:
        """Let each contender take its steps.

        Args:
            number: of the round, by which the order is moved on.
            counts: whether the times are kept.
        """
        mesh = self.setting.mesh
        start = number * 2 % len(self.entries)
        for entry in (*self.entries[start:], *self.entries[:start]):
            one = entry.contender
            works = one.together or mesh.rank == 0
            mesh.gather(None)
            begin, busy = time.perf_counter(), time.process_time()
            mine = pace(one, self.steps, mesh.device) if works else None
            found = mesh.gather(mine)
            if not works:  # blocked in gather
                share = (time.process_time() - busy) / (time.perf_counter() - begin)
                self.waiting_busy = max(self.waiting_busy, share)
            if counts:
                entry.rounds.append([one for one in found if one is not None])

    def costs(self) -> list[dict[str, Any]]:
        """Return each contender's peak memory and bytes sent a step, of each process."""
        mesh, found = self.setting.mesh, []
        for entry in self.entries:
            one = entry.contender
            works = one.together or mesh.rank == 0
            mine = (asdict(one.memory()), one.sent_bytes()) if works else None
            several = [each for each in mesh.gather(mine) if each is not None]
            found.append(
                {"memory": [each[0] for each in several], "sent_bytes": [e[1] for e in several]}
            )
        return found
