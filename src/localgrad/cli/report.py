"""``localgrad report``: the pages of runs that were trained, drawn anew from their files."""

from __future__ import annotations

from typing import Any

from localgrad.cli import compare, show
from localgrad.cli.asked_files import check_writable, write_json
from localgrad.cli.page import write_compare_page, write_page, write_run_page
from localgrad.errors import LocalgradError
from localgrad.experiment.compare import add_ratios, gather
from localgrad.experiment.config import Config
from localgrad.experiment.folder import STUDY, RunFolder
from localgrad.experiment.same_run import of_comparison

MADE = {"compare.json": "compare.html", "analysis.json": "analysis.html"}


def run(paths: list[str], config: Config, flags: dict[str, Any], command: str) -> int:
    """Write the page of each run, comparison or analysis; with --out also one of all the runs."""
    check_writable(flags.get("json"))
    folders = [RunFolder(path) for path in paths]
    kinds = [_kind(folder) for folder in folders]
    out = None if config.out is None else RunFolder(config.out)
    runs = [folder for folder, kind in zip(folders, kinds, strict=True) if kind == "summary.json"]
    if out is not None and len(runs) < 2:
        raise LocalgradError("report: --out is for a page of several runs: give two or more")
    for folder, kind in zip(folders, kinds, strict=True):
        if kind == "summary.json":
            page = write_run_page(folder, folder.read_json(kind))
        else:
            page = _again(folder, kind)
        print(f"wrote {folder / page}")
    if out is None:
        pairs = zip(folders, kinds, strict=True)
        write_json(flags.get("json"), [folder.read_json(kind) for folder, kind in pairs])
        return 0
    results = together(runs)
    title = compare.title_of(results)
    print(f"{title}\n{show.table(compare.rows(results))}")
    out.write_json("compare.json", results)
    page = write_compare_page(out, results, title, command)
    print(f"wrote {out.path}: compare.json, {page}")
    write_json(flags.get("json"), results)
    return 0


def together(runs: list[RunFolder]) -> list[dict[str, Any]]:
    """Return the summaries of runs with their ratios to BP, where it is among them.

    Runs that were trained one by one were not timed in turn: a ratio of times is that of
    ``compare``, where one of it measured it.
    """
    results = []
    for folder in runs:
        found = gather(folder)
        results.append({**found, "time_ratio": found.get("time_ratio")})
    add_ratios(results)
    return results


def _kind(folder: RunFolder) -> str:
    """Return the file that a page is made of."""
    for name in (*MADE, "summary.json"):
        if (folder / name).exists():
            return name
    if (folder / STUDY).exists():
        found = "its table is search.json, its picture front.svg"
        raise LocalgradError(f"{folder.path} holds a search, which has no page: {found}")
    if (folder / "config.yaml").exists():
        command = "compare" if of_comparison(folder.path) else "train"
        raise LocalgradError(
            f"{folder.path} has not come to its end: go on with localgrad {command} --out "
            f"{folder.path} --resume"
        )
    raise LocalgradError(f"{folder.path} holds no run, comparison or analysis")


def _again(folder: RunFolder, kind: str) -> str:
    """Write the page of a comparison or an analysis anew; return its name."""
    data = folder.read_json(kind)
    path = folder / MADE[kind]
    if kind == "compare.json":
        typed, title = str(data[0].get("command") or ""), compare.title_of(data)
        return write_compare_page(folder, data, title, typed)
    first = data["runs"][0]
    title = f"What {first['network']} has learned of {first['data']}"
    typed = str(data.get("command") or "")
    return write_page(
        path, lambda report: report.write_analysis(data, path, title=title, command=typed)
    )
