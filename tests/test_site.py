"""The documentation's site: it builds without a warning, is whole in itself, and has every rule."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import localgrad
from localgrad import methods
from localgrad.cli import main

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "docs" / "rules"
NEEDED = ("mkdocs", "material", "mkdocstrings_handlers.python", "latex2mathml")
PAGES = {name: name.replace("_", "-") for name in methods.names()}
TABLES = ("options", "cost", "published", "trained", "assumed")


class Links(HTMLParser):
    """What a page loads, where it links to, the ids in it, and how many of each element it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.count: dict[str, int] = {}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.count[tag] = self.count.get(tag, 0) + 1
        self.ids |= {given[key] for key in ("id", "name") if key in given}
        loads = [given[key] for key in ("src", "srcset", "poster", "data") if key in given]
        if tag == "link":
            loads.append(given["href"])
        elif tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.loaded += loads


@dataclasses.dataclass(frozen=True)
class Site:
    """What was built: its folder, and its pages by their path in it."""

    folder: Path
    pages: dict[str, Links]


def built(project: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run what ``make site`` runs."""
    line = re.search(r"-m (mkdocs build .*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert line is not None
    return subprocess.run(
        [sys.executable, "-m", *line[1].split(), "--site-dir", str(folder)],
        cwd=project,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site, built as ``make site`` does."""
    for name in NEEDED:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"{name} is not installed: pip install 'localgrad[docs]'")
    folder = tmp_path_factory.mktemp("site").resolve()
    done = built(ROOT, folder)
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr
    paths = sorted(folder.rglob("*.html"))
    return Site(folder, {path.relative_to(folder).as_posix(): Links(path) for path in paths})


@pytest.mark.parametrize("link", ["nowhere.md", "#nothing", "/index.md", "../pyproject.toml"])
def test_a_broken_link_is_an_error(link: str, site: Site, tmp_path: Path) -> None:
    """The site's own settings on a page of its own."""
    own = "nav: [index.md]\nhooks: []\nplugins: []\nextra_css: []\n"
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\n{own}")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n[link]({link})\n")
    done = built(tmp_path, tmp_path / "out")
    assert done.returncode == 1
    assert link in done.stderr


def test_nothing_comes_from_elsewhere(site: Site) -> None:
    elsewhere = re.compile(r"^(\w+:)?//")
    for name, page in site.pages.items():
        assert [url for url in page.loaded if elsewhere.match(url)] == [], name
    sheets = list(site.folder.rglob("*.css"))
    assert sheets
    for path in sheets:
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", text) == [], path


def test_every_link_within_the_site_leads_somewhere(site: Site) -> None:
    """Files and anchors, those in raw HTML and in the theme's own elements too."""
    for name, page in site.pages.items():
        path = site.folder / name
        for url in [*page.links, *page.loaded]:
            parts = urlsplit(url)
            if parts.scheme or name == "404.html":  # which is served at any depth
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), (name, url)
            if parts.fragment and target.suffix == ".html":
                ids = site.pages[target.relative_to(site.folder).as_posix()].ids
                assert unquote(parts.fragment) in ids | {"__skip"}, (name, url)


def test_files_from_outside_of_docs(site: Site) -> None:
    assert (
        "source/examples/forgotten_detach.py"
        in site.pages["how-far-do-gradients-travel.html"].links
    )
    there = site.folder / "source" / "examples" / "forgotten_detach.py"
    assert there.read_bytes() == (ROOT / "examples" / "forgotten_detach.py").read_bytes()
    assert "contributing.html" in site.pages["index.html"].links
    assert "../contributing.html" in site.pages["rules/index.html"].links


@pytest.mark.parametrize("method", PAGES)
def test_a_rule_has_its_page(method: str, site: Site) -> None:
    name = PAGES[method]
    page, text = (
        site.pages[f"rules/{name}.html"],
        (RULES / f"{name}.md").read_text(encoding="utf-8"),
    )
    assert f"../reach-{method}.svg" in page.loaded
    assert page.count["math"] >= text.count("$$") // 2 > 0
    for what in TABLES:
        assert f"<!-- table: rule-{what}-{name} -->\n<!--" not in text  # it is filled
        assert f"<!-- table: rule-{what}-{name} -->\n" in text
    written = len(re.findall(r"^\| -", text, re.MULTILINE))
    assert page.count.get("table", 0) == written > 1
    listed = site.pages["rules/index.html"]
    assert listed.links.count(f"{name}.html") >= 3  # the two tables, and the site's own list
    assert f"../reach-small-{method}.svg" in listed.loaded


def test_no_formula_is_left_as_it_was_typed(site: Site) -> None:
    for name in site.pages:
        text = (site.folder / name).read_text(encoding="utf-8")
        assert "arithmatex" not in text, name
        assert "$$" not in text, name


@pytest.mark.parametrize("method", PAGES)
def test_options_on_the_page_are_those_of_the_rule(method: str) -> None:
    text = (RULES / f"{PAGES[method]}.md").read_text(encoding="utf-8")
    table = text.partition(f"<!-- table: rule-options-{PAGES[method]} -->")[2].partition("<!--")[0]
    rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()[2:]]
    found = [(row[0], row[1]) for row in rows if len(row) == 3 and all(row)]
    fields = dataclasses.fields(methods.KNOWN[method])
    assert found == [(f"`{field.name}`", f"`{field.default!r}`") for field in fields]


def commands() -> list[str]:
    """Every ``localgrad train`` of the rules' pages."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(RULES.glob("*.md"))]
    lines = "\n".join(texts).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("localgrad train ")]


def test_the_pages_commands_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    found = commands()
    assert len(found) > 2 * len(PAGES) - 4
    for line in found:
        assert main([*shlex.split(line)[1:], "--print_config"]) == 0, line
    assert capsys.readouterr().err == ""


def test_the_python_page_has_every_public_name(site: Site) -> None:
    ids = site.pages["api.html"].ids
    objects = {
        name for name in localgrad.__all__ if name not in ("__version__", "losses", "methods")
    }
    shown = {name.rpartition(".")[2] for name in ids if name.startswith("localgrad.")}
    assert objects <= shown
    assert "localgrad.losses.next_token" in ids
