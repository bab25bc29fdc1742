"""Decouplings that were searched for and transferred; BWBPF as published and as released."""

from __future__ import annotations

from collections.abc import Callable

from results_as.accuracy import setting
from results_as.text import RESULTS, Row, markdown, percent, plural, points, read


def transfer_result() -> Row | None:
    """Return what benchmarks/cpu/transfer.py found; None where it has not run."""
    return read("transfer") if (RESULTS / "transfer.json").exists() else None


_NO_TRANSFER = "Not measured yet: `python benchmarks/cpu/transfer.py`."


def transfer_table() -> str:
    """Found decouplings on deeper networks, beside cuts that no search made."""
    found = transfer_result()
    if found is None:
        return _NO_TRANSFER
    header = ["network", "way to cut", "n", "test accuracy %", "found on CIFAR-10 above it, points"]
    bp = {row["network"]: row for row in found["rows"] if row["way"] == "BP"}
    table = markdown(
        [*header, "memory ÷ BP", "FLOPs ÷ BP"],
        [
            [
                row["network"],
                row["way"],
                str(row["n"]),
                percent(row["test_accuracy"]),
                points(row["found_minus_this"]),
                f"{row['memory_bytes'] / bp[row['network']]['memory_bytes']:.2f}",
                f"{row['flops_per_image'] / bp[row['network']]['flops_per_image']:.2f}",
            ]
            for row in found["rows"]
        ],
    )
    used = found["options"]
    return (
        f"{table}\n\n{found['rows'][0]['data']}, first {used['limit']:,} training images, "
        f"{plural(used['epochs'], 'epoch')}, batch {used['batch']}, K = {used['blocks']}, width "
        f"{used['width']} of 16, tested on {used['test_limit']:,} images; n runs, "
        f"± standard deviation; {found['hardware']}; {found['date'][:10]}."
    )


def searches_table() -> str:
    """What the searches of the transfer cost."""
    found = transfer_result()
    if found is None:
        return _NO_TRANSFER
    header = ["searched on", "trials", "to the end", "pruned", "over budget or known", "seconds"]
    return markdown(
        [*header, "÷ one full training", "images ÷ one full training"],
        [
            [
                one["data"],
                str(sum(one["counts"].values())),
                str(one["counts"]["complete"]),
                str(one["counts"]["pruned"]),
                str(sum(one["left_out"].values())),
                f"{one['seconds']:,.0f}",
                f"{one['seconds'] / one['full_training']['seconds']:.1f}",
                f"{_images(one) / (one['full_training']['epochs'] * _of(one)):.1f}",
            ]
            for one in found["searches"].values()
        ],
    )


def _images(search: Row) -> int:
    """How many images its trials were trained on, an image an epoch."""
    return int(search["trained_epochs"] * search["training"])


def _of(search: Row) -> int:
    return int(search["full_training"]["images"])


def rank_text() -> str:
    """How the short training of a search ranks decouplings."""
    found = transfer_result()
    if found is None:
        return _NO_TRANSFER
    rank = found["rank"]
    rows = [
        [
            {"longer": "a longer training", "short again": "the short training again"}[name],
            f"{one['rho']:.2f}",
            f"{one['p']:.3f}" if one["p"] >= 0.001 else "< 0.001",
        ]
        for name, one in rank["spearman"].items()
    ]
    table = markdown(["short training against", "Spearman's rho", "p"], rows)
    return (
        f"{table}\n\n{rank['decouplings']} random decouplings of ResNet-20, width "
        f"{found['options']['width']} of 16; short: "
        f"{plural(rank['proxy']['epochs'], 'epoch')} on {rank['proxy']['images']:,} images; "
        f"longer: {plural(rank['longer']['epochs'], 'epoch')} on {rank['longer']['images']:,}."
    )


def bwbpf_table() -> str:
    """What BWBPF's paper says beside what its released code does."""
    name = "bwbpf-as-published-and-as-released"
    if not (RESULTS / f"{name}.json").exists():
        return f"Not measured yet: `localgrad compare --config recipes/{name}.yaml`."
    result = read(name)
    header = ["rule", "losses", "n", "test accuracy %", "activations ÷ BP", "FLOPs ÷ BP"]
    table = markdown(
        header,
        [
            [
                row["rule"],
                str(row["losses"]),
                str(row["n"]),
                percent(row["test_accuracy"]),
                f"{row['memory_ratio']:.2f}",
                f"{row['flops_ratio']:.2f}",
            ]
            for row in result["rows"]
        ],
    )
    return f"{table}\n\n{setting(result)}."


def kills_table() -> str:
    """What became of searches that were killed."""
    if not (RESULTS / "search-kills.json").exists():
        return "Not measured yet: `python benchmarks/cpu/search_kills.py`."
    found = read("search-kills")
    rows = []
    for processes in sorted({row["processes"] for row in found["searches"]}):
        same = [row for row in found["searches"] if row["processes"] == processes]
        bits = [row["same"] for row in same if row["same"] is not None]
        rows.append([
            str(processes), str(len(same)), str(sum(row["trials"] for row in same)),
            str(sum(row["kills"] for row in same)), str(sum(sum(row["running"]) for row in same)),
            str(sum(row["put_back"] for row in same)),
            f"{sum(row['complete'] and row['code'] == 0 for row in same)} of {len(same)}",
            f"{sum(bits)} of {len(bits)}" if bits else "-",
        ])  # fmt: skip
    header = ["processes", "searches", "trials", "kills", "trials running then", "put back"]
    table = markdown([*header, "ended whole", "same bits as undisturbed"], rows)
    return (
        f"{table}\n\nSIGKILL to the search and its workers at random moments; "
        f"{found['hardware']}; {found['date'][:10]}."
    )


TABLES: dict[str, Callable[[], str]] = {
    "transfer": transfer_table,
    "transfer-searches": searches_table,
    "transfer-rank": rank_text,
    "search-kills": kills_table,
    "bwbpf": bwbpf_table,
}
