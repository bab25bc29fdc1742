"""Pages opened in headless Chromium: what is drawn, what is loaded, what fails."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
)
# Before anything of the page: note what fails. Errors of loading do not bubble, hence the capture.
_FIRST = """<script>const failed = [];
addEventListener("error", e => failed.push(e.message || "cannot load " + e.target.outerHTML), true);
console.error = (...words) => failed.push(words.join(" "));</script>"""
# After everything of it: measure. Swatches are hidden from readers, and not figures.
_LAST = """<script>addEventListener("load", () => {
  const box = one => one.getBoundingClientRect();
  const apart = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) < 2
    || Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) < 2;
  const figures = [...document.querySelectorAll("svg[role=img]")].map(svg => {
    const own = box(svg);
    const texts = [...svg.querySelectorAll("text")].map(one => [one.textContent, box(one)]);
    const drawn = [...svg.querySelectorAll("path, use, line")].map(box);
    return {
      title: svg.querySelector("title").textContent,
      width: own.width, height: own.height,
      marks: drawn.filter(b => b.width + b.height > 1).length,
      outside: texts.filter(([, b]) => b.left < own.left - 2 || b.right > own.right + 2
        || b.top < own.top - 4 || b.bottom > own.bottom + 4).map(([text]) => text),
      overlaps: texts.flatMap(([a, p], i) => texts.slice(i + 1)
        .filter(([, q]) => !apart(p, q)).map(([b]) => a + " | " + b)),
    };
  });
  const wide = [...document.querySelectorAll("main *")].filter(
    one => box(one).right > innerWidth + 1 && !one.closest("svg, .scroll"));
  const found = {
    figures, failed, width: innerWidth, page: document.documentElement.scrollWidth,
    wide: wide.map(one => one.outerHTML.slice(0, 80)),
    loaded: performance.getEntriesByType("resource").map(one => one.name),
    background: getComputedStyle(document.body).backgroundColor,
    text: document.body.innerText.length,
  };
  parent.postMessage([location.hash, found], "*");
});</script>"""
# A window cannot be as narrow as a phone, a frame can.
_FRAMES = """<!DOCTYPE html><script>addEventListener("message", event => {
  const note = document.createElement("pre");
  note.textContent = JSON.stringify(event.data);
  document.body.append(note);
})</script><body>"""


def opened(pages: list[tuple[Path, int]], folder: Path, dark: bool = False) -> list[dict[str, Any]]:
    """Open copies of pages that measure themselves.

    Args:
        pages: HTML files, and the width at which to open each, in CSS pixels.
        folder: for the copies and the browser's profile.
        dark: what the reader's system prefers.

    Returns:
        Of each page ``figures`` with their labels, what was ``loaded``, what ``failed``, and what
        is too ``wide``; of the last one also what the ``console`` says of all of them.
    """
    assert CHROMIUM is not None
    frames = _FRAMES
    for number, (page, width) in enumerate(pages):
        text = page.read_text(encoding="utf-8")
        assert text.count("<head>") == text.count("</body>") == 1
        text = text.replace("<head>", f"<head>{_FIRST}").replace("</body>", f"{_LAST}</body>")
        (folder / f"{number}.html").write_text(text, encoding="utf-8")
        frames += f'<iframe src="{number}.html#{number}" width="{width}" height="900"></iframe>'
    (folder / "frames.html").write_text(frames, encoding="utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}"),
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *("--virtual-time-budget=5000", "--enable-logging=stderr", "--dump-dom"),
            (folder / "frames.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    notes = re.findall(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    found: dict[str, dict[str, Any]] = dict(json.loads(html.unescape(note)) for note in notes)
    assert len(found) == len(pages), done.stderr[-2000:]
    measured = [found[f"#{number}"] for number in range(len(pages))]
    measured[-1]["console"] = re.findall(r'CONSOLE.*?"(.*)"', done.stderr)
    return measured
