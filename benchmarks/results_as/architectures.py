"""Architectures that were cut and trained a step."""

from __future__ import annotations

from collections.abc import Callable

from results_as.text import Row, markdown, network_of, percent, read

CHECKS = ("cut", "equal", "greedy", "backlink", "auglocal")


def passed(row: Row) -> bool:
    return all(row.get(check) is True for check in CHECKS)


def architectures_table() -> str:
    """How many architectures of each library pass, and why the others do not."""
    rows = read("architectures")["rows"]
    libraries: dict[str, list[Row]] = {}
    for row in rows:
        libraries.setdefault(row["name"].partition(":")[0], []).append(row)
    header = ["library", "tried", "cut", "equal", "Greedy", "BackLink", "AugLocal", "all of it"]
    table = markdown(
        header,
        [
            [
                library,
                str(len(group)),
                *(str(sum(row.get(check) is True for row in group)) for check in CHECKS),
                str(sum(map(passed, group))),
            ]
            for library, group in {**libraries, "together": rows}.items()
        ],
    )
    failed = [f"- {row['name']}: {row.get('reason', '')}" for row in rows if not passed(row)]
    why = "\n".join(["The others:", "", *failed]) if failed else "None failed."
    return f"{table}\n\n{why}\n\nOne by one: [architectures](architectures.md)."


def architectures_list() -> str:
    """Every architecture."""
    found = read("architectures")
    header = ["architecture", "units", "legal cuts", "equal", "Greedy", "BackLink", "AugLocal"]
    table = markdown(
        [*header, "note"],
        [
            [
                row["name"],
                str(row.get("units", "")),
                str(row.get("legal_cuts", "")),
                *("yes" if row.get(check) is True else "no" for check in CHECKS[1:]),
                row.get("reason") or (row["how"] if row["how"] != "traced" else ""),
            ]
            for row in found["rows"]
        ],
    )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{table}\n\n{versions}; {found['date'][:10]}."


def families_table() -> str:
    """VGG, ResNet-18 and a ViT on two data sets."""
    nets = ("vgg11-k8", "resnet18-k9", "vit-k7")
    results = [read(f"{data}-{net}") for data in ("cifar10", "fashion-mnist") for net in nets]
    header = ["data", "network", "rule", "losses", "test accuracy %", "activations ÷ BP"]
    table = markdown(
        [*header, "FLOPs ÷ BP"],
        [
            [
                result["data"],
                network_of(result),
                row["rule"],
                str(row["losses"]),
                percent(row["test_accuracy"]),
                f"{row['memory_ratio']:.2f}",
                f"{row['flops_ratio']:.2f}",
            ]
            for result in results
            for row in result["rows"]
        ],
    )
    one = results[0]
    seeds = sorted({row["n"] for result in results for row in result["rows"]})
    return (
        f"{table}\n\nFirst {one['train_images']:,} training images, {one['epochs']} epochs, batch "
        f"{one['batch_size']}, tested on {one['test_images']:,} images; n = "
        f"{' to '.join(map(str, seeds))}; {one['hardware']}; {one['date'][:10]}."
    )


TABLES: dict[str, Callable[[], str]] = {
    "architectures": architectures_table,
    "architectures-list": architectures_list,
    "families": families_table,
}
