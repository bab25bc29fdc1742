"""HTML pages, where the packages that draw them are installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from localgrad.experiment.folder import RunFolder
from localgrad.experiment.whole_file import cannot_write


def write_page(path: Path, write: Callable[[Any], None]) -> str:
    """Call ``write`` with the report room; return what to tell the user of ``path``.

    Raises:
        LocalgradError: the page cannot be written.
    """
    try:
        from localgrad import report

        write(report)
    except ModuleNotFoundError as error:
        return f"no {path.name} without {error.name}: pip install 'localgrad[report]'"
    except OSError as error:
        raise cannot_write(path, error) from error
    return path.name


def write_compare_page(
    folder: RunFolder, results: list[dict[str, Any]], title: str, command: str
) -> str:
    """Write ``compare.html``, with the folder's ``analysis.json`` where there is one."""
    path = folder / "compare.html"
    analysed = folder.read_json("analysis.json") if (folder / "analysis.json").exists() else None
    return write_page(
        path,
        lambda report: report.write_compare(
            results, path, title=title, command=command, analysed=analysed
        ),
    )


def write_run_page(folder: RunFolder, summary: dict[str, Any]) -> str:
    """Write a run's ``report.html``; return what to tell the user of it."""
    path = folder / "report.html"
    curve, reach = folder.metrics(), folder.read_json("reach.json")
    return write_page(path, lambda report: report.write_run(summary, curve, reach, path))
