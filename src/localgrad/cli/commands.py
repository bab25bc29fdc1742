"""The commands and their flags, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Command:
    """A command: what it does, and an example that runs as it stands.

    Attributes:
        options: the options of the config that it reads, or their sections; None for all but
            those of a search.
        operands: what it takes besides, as the help calls it; empty for nothing.
    """

    text: str
    example: str
    options: tuple[str, ...] | None = None
    operands: str = ""

    def reads(self, key: str) -> bool:
        """Whether a dotted option of the config makes a difference here."""
        if self.options is None:
            return not key.startswith("search.")
        return key in self.options or key.split(".")[0] in self.options


#: What decides a step of a network on inputs that are made up.
STEP = (
    *("network", "optimizer", "methods", "granularity", "units", "ties"),
    *("precision", "activation_checkpoint", "channels_last", "device", "threads", "seed"),
)


COMMANDS = {
    "train": Command(
        "train one rule; fills a run folder",
        "localgrad train --method.name backlink --blocks 4 --epochs 5 --out runs/backlink",
    ),
    "compare": Command(
        "train several rules under one recipe; prints a table, writes compare.html",
        "localgrad compare --methods backprop,greedy,backlink --blocks 4 --out runs/three",
    ),
    "audit": Command(
        "measure which units each loss of a rule, or of a step of yours, trains",
        "localgrad audit --method.name backlink --network.name resnet20 --blocks 5",
    ),
    "bench": Command(
        "step time, memory and FLOPs of rules against BP, on random inputs",
        "localgrad bench --network.name resnet20 --methods greedy,backlink --blocks 4 --batch 32",
        (*STEP, "balance", "repeats"),
    ),
    "plan": Command(
        "predict what each way of training takes: choose for a budget, or for many devices",
        "localgrad plan --network.name resnet20 --batch 128 --budget 64MiB --methods greedy",
        tuple(option for option in STEP if option != "activation_checkpoint"),  # it tries them
    ),
    "reproduce": Command(
        "run the rows of a published table, and print ours beside the published figures",
        "localgrad reproduce auglocal/resnet32 --rows bp,dgl --epochs 1 --limit 512",
        (
            *("network", "optimizer", "schedule", "epochs", "batch_size", "out"),
            *("data.path", "data.limit", "data.test_limit", "data.augment", "data.drop_last"),
            *("data.stream", "data.on_corrupt", "data.workers", "data.prefetch"),
            *("checkpoint_every", "precision", "activation_checkpoint", "compile"),
            *("compile_fallback", "channels_last", "device", "threads"),
        ),
        "TABLE",
    ),
    "search": Command(
        "find decouplings: held-out accuracy against memory, FLOPs or time",
        "localgrad search --search.trials 6 --search.epochs 1 --out runs/search",
        (
            *(option for option in STEP if option != "methods"),
            *("data", "schedule", "epochs", "batch_size", "out", "search"),
        ),
    ),
    "transfer": Command(
        "carry a decoupling over to another network: its cuts by stage, its heads by kind",
        "localgrad transfer dgl-resnet32-k4 --network.name resnet56 --out dgl-resnet56-k4.yaml",
        ("network", "granularity", "units", "ties", "device", "threads", "seed", "channels_last"),
        "DECOUPLING",
    ),
    "analyse": Command(
        "what trained runs learned: similarity, linear probes, early exits, gradients",
        "localgrad analyse runs/three/bp-s0 runs/three/greedy-s0",
        ("data.path", "out"),
        "RUN ...",
    ),
    "report": Command(
        "draw the pages of runs, comparisons and analyses anew; --out: one of several runs",
        "localgrad report runs/three/bp-s0 runs/three/greedy-s0 --out runs/both",
        ("out",),
        "FOLDER ...",
    ),
    "list": Command(
        "show the rules, networks, data sets and decouplings", "localgrad list --json all.json", ()
    ),
}


@dataclass(frozen=True)
class Flag:
    """An option of the command line itself, and the commands that take it.

    Attributes:
        kind: ``"switch"`` takes no value, ``"file"`` a path, ``"text"`` what the command reads.
        value: what the help calls the value.
    """

    text: str
    commands: tuple[str, ...] = tuple(COMMANDS)
    kind: Literal["switch", "file", "text"] = "switch"
    value: str = "FILE"


_CONFIGURED = ("train", "compare", "audit", "bench", "plan", "search", "transfer")
_RUNS = ("train", "compare", "search", "reproduce")
_MADE_UP = ("bench", "plan")  # they need no data set

#: A flag wins over an option of the config of the same name, in the commands that take it.
FLAGS = {
    "config": Flag("options from a YAML file; the command line wins", _CONFIGURED, "file"),
    "print_config": Flag("show the whole tree of options and stop", _CONFIGURED),
    "step": Flag(
        "audit a training step of yours: a function without arguments that returns (model, step)",
        ("audit",),
        "text",
        "MODULE:FUNCTION",
    ),
    "input": Flag(
        "shape of one input, such as 3x224x224, or 1024 for tokens; default: what the network says",
        (*_MADE_UP, "transfer"),
        "text",
        "SHAPE",
    ),
    "batch": Flag("inputs a step", (*_MADE_UP, "transfer"), "text", "N"),
    "blocks": Flag("numbers of blocks K to try, such as 4,16", _MADE_UP, "text", "K,..."),
    "predict": Flag("predict memory and FLOPs at any batch; nothing is run", ("bench", "transfer")),
    "out": Flag("write the decoupling here, for train --decoupling", ("transfer",), "file"),
    "budget": Flag(
        "plan: memory that a step may take, such as 8GiB; reproduce: time in all, such as 2h",
        ("plan", "reproduce"),
        "text",
        "LIMIT",
    ),
    "rows": Flag("these rows alone, in the table's order", ("reproduce",), "text", "ROW,..."),
    "limit": Flag("short for --data.limit N", ("reproduce",), "text", "N"),
    "seeds": Flag("runs of each row, with seeds 0 to N-1 [1]", ("reproduce",), "text", "N"),
    "store": Flag("also add to DIR/TABLE/LABEL.json", ("reproduce",), "file", "DIR"),
    "label": Flag("name of this machine in the store", ("reproduce",), "text", "LABEL"),
    "list": Flag("show the tables, or a table's rows, and stop", ("reproduce",)),
    "devices": Flag("on paper, up to N devices, from unit times", ("plan",), "text", "N"),
    "micro_batches": Flag("with --devices: of GPipe and 1F1B [8,32]", ("plan",), "text", "M,..."),
    "bandwidth": Flag(
        "with --devices: bytes/s between neighbours [1.25GB]", ("plan",), "text", "SIZE"
    ),
    "inputs": Flag("images for CKA, and of each part for probes [2000]", ("analyse",), "text", "N"),
    "no_probes": Flag("leave the linear probes out", ("analyse",)),
    "measure": Flag("also time what is proposed, on this device", ("plan",)),
    "largest": Flag("also find the largest batch of every option", ("plan",)),
    "seconds": Flag("stop after so long [300]", ("plan",), "text", "N"),
    "resume": Flag("go on where --out stopped; start it if there is nothing yet", _RUNS),
    "json": Flag("also write what is printed as JSON", tuple(COMMANDS), "file"),
    "plot": Flag(
        "also draw a figure: .svg or .png (audit: .svg)", ("analyse", "audit", "bench"), "file"
    ),
    "quiet": Flag("no progress", (*_RUNS, *_MADE_UP, "analyse")),
    "debug": Flag("show the traceback of an error", tuple(COMMANDS)),
    "help": Flag("show this and stop", tuple(COMMANDS)),
}
