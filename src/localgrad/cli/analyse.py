"""``localgrad analyse``: what trained runs have learned, as a table and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from localgrad.cli import show
from localgrad.cli.asked_files import check_plot, check_writable, draw, write_json
from localgrad.cli.page import write_page
from localgrad.cli.progress_line import ProgressLine
from localgrad.experiment.analyse import analyse
from localgrad.experiment.config import Config
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.made_up import read_count

INPUTS = 2000


def run(paths: list[str], config: Config, flags: dict[str, Any], command: str) -> int:
    """Analyse the runs, print a table, write analysis.json and analysis.html."""
    check_writable(flags.get("json"))
    check_plot(flags.get("plot"))
    inputs = read_count("inputs", flags.get("inputs", str(INPUTS)))
    out = RunFolder(config.out or "runs/analysis")
    progress = ProgressLine("quiet" in flags)
    found = analyse(
        [Path(path) for path in paths],
        inputs,
        probes="no_probes" not in flags,
        data_path=config.data.path,
        note=progress.say,
        command=command,
    )
    progress.clear()
    print(show.table([_row(found, number) for number in range(len(found["runs"]))]))
    out.write_json("analysis.json", found)
    path = out / "analysis.html"
    first = found["runs"][0]
    title = f"What {first['network']} has learned of {first['data']}"
    page = write_page(
        path, lambda report: report.write_analysis(found, path, title=title, command=command)
    )
    print(f"wrote {out.path}: analysis.json, {page}")
    write_json(flags.get("json"), found)
    draw(flags.get("plot"), lambda path: _draw(found, path))
    return 0


def _draw(found: dict[str, Any], path: Path) -> None:
    from localgrad.report.analysis_picture import write_analysis_picture

    write_analysis_picture(found, path)


def _row(found: dict[str, Any], number: int) -> dict[str, str]:
    run = found["runs"][number]
    values = found["cka"][number]["values"]
    alike = [row[i] for i, row in enumerate(values) if i < len(row) and row[i] is not None]
    cosines = [one["cosine"] for one in run["agreement"] if one["cosine"] is not None]
    probes = [one["test_accuracy"] for one in run.get("probes", [])]
    exits = run["exits"]
    return {
        "run": f"{run['label']}, seed {run['seed']}",
        "cosine to BP, unit 1": f"{cosines[0]:.2f}" if cosines else "-",
        "all units": f"{sum(cosines) / len(cosines):.2f}" if cosines else "-",
        "probe, half depth": f"{100 * probes[len(probes) // 2]:.1f}" if probes else "-",
        "probe, last unit": f"{100 * probes[-1]:.1f}" if probes else "-",
        "CKA to reference": f"{sum(alike) / len(alike):.2f}" if alike else "-",
        "exit 1 point lower": (
            "-" if exits is None else f"{100 * exits['one_point_lower']['flops']:.0f} %"
        ),
    }
