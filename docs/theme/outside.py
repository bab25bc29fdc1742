"""Files outside of docs/ in the site.

README is the home page, CONTRIBUTING and CHANGELOG are pages. A link from a page to any other file
of the project (a recipe, an example) works on GitHub as it stands; here the file is copied into the
site, under ``source/``, and the link goes there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
#: File of the project -> page of the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
ALONE = "---\nhide:\n  - navigation\n---\n"  # of its tab: there is nothing else to go to
WRITTEN = {page: name for name, page in PAGES.items()}
FENCED = re.compile(r"^(```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside, and what pages link to outside."""
    for name, uri in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        start = ALONE if uri == "index.md" else ""
        files.append(File.generated(config, uri, content=start + text))
    for page in list(files.documentation_pages()):
        for target in re.findall(LINK, page.content_string):
            name = _place(target, page.src_uri)
            uri = f"source/{name}"
            if _is_outside(name) and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links go to where files are in the site."""
    here = page.file.src_uri
    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(_moved(here), part) for part in parts[::2]]
    return "".join(parts)


def _moved(here: str) -> Callable[[re.Match[str]], str]:
    def move(found: re.Match[str]) -> str:
        name = _place(found[0], here)
        if name in PAGES:
            target = PAGES[name]
        elif _is_outside(name):
            target = f"source/{name}"
        elif name.startswith("docs/"):
            target = name.removeprefix("docs/")
        else:
            return found[0]  # the build says that it is broken
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    return move


def _place(target: str, page: str) -> str:
    """Return the path in the project that a page's link goes to."""
    written = WRITTEN.get(page, f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(written), target))


def _is_outside(name: str) -> bool:
    inside = name.startswith(("docs/", "../")) or name in PAGES
    return not inside and (ROOT / name).is_file()
