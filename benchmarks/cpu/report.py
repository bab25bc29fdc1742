"""Size and load time of the pages of a comparison of 7 rules with 3 seeds.

    python benchmarks/cpu/report.py --json benchmarks/results/report.json

The comparison is that of ``make quickstart`` with three seeds (``--runs FOLDER``: one that is there
already), its networks analysed with probes. A page is opened in headless Chromium, in a new process
each time and with the pages in turn; the time is that of the navigation timing from its start to
the load event, when all is laid out, at the widths of a phone and of a desktop.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from localgrad.cli import main as localgrad
from localgrad.experiment import environment

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.yaml"
WIDTHS = (390, 1280)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run")
# The page measures itself at the load event, in a frame of the width that is wanted.
PROBE = """<script>addEventListener("load", () => {
document.body.getBoundingClientRect();
parent.postMessage(performance.now(), "*")})</script></body>"""
FRAME = """<!DOCTYPE html><body><script>addEventListener("message", event => {
document.body.append("load:" + event.data + ":") })</script>
<iframe src="page.html" width="WIDTH" height="900"></iframe>"""


def load_ms(browser: str, page: Path, width: int) -> float:
    """Return milliseconds from the start of the page's navigation to its load event."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = page.read_text(encoding="utf-8").replace("</body>", PROBE)
        (folder / "page.html").write_text(text, encoding="utf-8")
        (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
        command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
        done = subprocess.run(
            [*command, (folder / "frame.html").as_uri()], capture_output=True, text=True, check=True
        )
    found = re.search(r"load:([\d.]+):", done.stdout)
    if found is None:
        sys.exit(f"error: {page} did not load: {done.stderr[-500:]}")
    return float(found[1])


def pages(runs: Path | None, folder: Path) -> dict[str, Path]:
    """Return the pages, of runs that are there or that are trained in ``folder``."""
    out = runs or folder / "runs"
    if runs is None:
        words = ["compare", "--config", str(RECIPE), "--seeds", "0,1,2", "--quiet"]
        if localgrad([*words, "--out", str(out)]):
            sys.exit("error: the comparison failed")
    found = sorted(str(path.parent) for path in out.glob("*-s*/summary.json"))
    where = str(folder / "analysis")
    words = ["analyse", *found, "--inputs", "500", "--quiet", "--out", where]
    if localgrad(words) or localgrad(["report", str(out)]):
        sys.exit("error: a page could not be written")
    run = next(path for path in found if "backlink" in path)
    return {
        "compare.html": out / "compare.html",
        "report.html": Path(run) / "report.html",
        "analysis.html": folder / "analysis" / "analysis.html",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    browser = next((p for name in ("chromium", "google-chrome") if (p := shutil.which(name))), None)
    if browser is None or given.repeats < 5:
        sys.exit("error: chromium must be on PATH, and repeats 5 or more")
    with tempfile.TemporaryDirectory() as name:
        made = pages(given.runs, Path(name))
        times: dict[tuple[str, int], list[float]] = {(p, w): [] for p in made for w in WIDTHS}
        for turn in range(given.repeats + 1):
            for (page, width), taken in times.items():
                spent = load_ms(browser, made[page], width)
                taken += [spent] if turn else []  # the first warms the disk's cache
        rows: list[dict[str, Any]] = []
        for page, path in made.items():
            loads = {
                str(w): {"median": statistics.median(t), "std": statistics.stdev(t)}
                for w in WIDTHS
                for t in [times[page, w]]
            }
            content = path.read_bytes()
            sizes = {"bytes": len(content), "gzip_bytes": len(gzip.compress(content))}
            rows.append({"page": page, **sizes, "load_ms": loads})
    version = subprocess.run([browser, "--version"], capture_output=True, text=True, check=True)
    about = {"browser": version.stdout.split(" built")[0].strip(), "n": given.repeats}
    result = {**environment.describe(torch.device("cpu")), **about, "rows": rows}
    for row in rows:
        print(row)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
