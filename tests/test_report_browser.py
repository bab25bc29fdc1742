"""The pages of real runs in headless Chromium: every figure is drawn, nothing fails or loads."""

from __future__ import annotations

from pathlib import Path

import pytest

import browser
from command import compare
from localgrad.cli import main
from report_pages import figures_of_comparison

pytestmark = pytest.mark.skipif(
    browser.CHROMIUM is None, reason="no chromium or google-chrome on PATH"
)
RULES = ("BP", "BackLink L=1")
RUN = [
    "Test accuracy over epochs",
    "Training loss over epochs",
    "Local loss of every block over epochs",
    "Accuracy of every block's exit",
    "Heads as early exits",
    "Peak memory of a step",
    "Reach of BackLink L=1",
]
COMPARISON = figures_of_comparison(RULES)
ANALYSIS = [
    "Agreement with the gradients of BP",
    "Linear probes",
    "Heads as early exits",
    "Similarity unit by unit",
    *(f"CKA of {rule} with BP, seed 0" for rule in RULES),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pages") / "three"
    methods = {"methods": "backprop,backlink", "seeds": "0,1", "blocks": 3, "epochs": 2}
    assert compare(out, "--quiet", **methods) == 0
    found = [str(out / run) for run in ("bp-s0", "backlink-l1-s0")]
    words = [*found, "--inputs", "40", "--quiet", "--out", str(out / "analysis")]
    assert main(["analyse", *words]) == 0
    return out


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_pages_are_whole(runs: Path, tmp_path: Path, width: int, dark: bool) -> None:
    expected = {
        "compare.html": COMPARISON,
        "backlink-l1-s1/report.html": RUN,
        "analysis/analysis.html": ANALYSIS,
    }
    opened = browser.opened([(runs / page, width) for page in expected], tmp_path, dark)
    assert opened[-1]["console"] == []
    for found, figures in zip(opened, expected.values(), strict=True):
        assert sorted(figure["title"] for figure in found["figures"]) == sorted(figures)
        for figure in found["figures"]:
            assert figure["width"] > 250, figure["title"]
            assert figure["height"] > 40, figure["title"]
            assert figure["marks"] >= 2, figure["title"]
            assert figure["outside"] == [], figure["title"]
            assert figure["overlaps"] == [], figure["title"]
        assert found["failed"] == found["loaded"] == []
        assert found["width"] == width
        assert found["page"] <= width, found["wide"]
        assert found["wide"] == []
        assert found["background"] == ("rgb(21, 23, 26)" if dark else "rgb(255, 254, 251)")


def test_what_is_wrong_with_a_page_is_found(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><html><head></head><body><main><p style='width:900px'>wide</p>"
        "<img src='http://127.0.0.1:9/nowhere.png'><script>gone()</script>"
        "<svg role='img' viewBox='0 0 100 100' style='width:300px'><title>One</title>"
        "<text x='90' y='50'>leaves</text><text x='92' y='52'>covered</text></svg></main>"
        "</body></html>"
    )
    (found,) = browser.opened([(page, 390)], tmp_path)
    (figure,) = found["figures"]
    assert figure["marks"] == 0
    assert figure["outside"] == ["leaves", "covered"]
    assert figure["overlaps"] == ["leaves | covered"]
    assert any("gone is not defined" in text for text in found["failed"])
    assert any("nowhere.png" in text for text in found["failed"])
    assert any("nowhere.png" in name for name in found["loaded"])
    assert any("gone is not defined" in text for text in found["console"])
    assert found["page"] > 390
    assert len(found["wide"]) == 1
