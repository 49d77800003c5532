"""The report in a real browser: it opens without a complaint, filters, overlays, obeys the keyboard, asks for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.chromium import Page, find
from support.datasets import HOSTILE, OFFLINE, rows_of, written
from support.thorough import slow_ones

import condprep

SHOWN = "[...document.querySelectorAll('.card:not([hidden])')].map((card) => Number(card.dataset.row))"
AT = "Number(document.activeElement.dataset.row ?? -1)"
CHOOSE = (
    "(() => {{ const s = document.querySelector('{0}'); s.value = '{1}'; s.dispatchEvent(new Event('change')); }})()"
)
OPACITY = "getComputedStyle(document.querySelector('.card .map')).opacity"


@pytest.fixture(scope="module")
def report(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 8 rows: captions that are markup, rows 2 and 5 without a caption, row 5 with a map of another size."""
    folder = tmp_path_factory.mktemp("report")
    rows = rows_of(built)
    for number, row in enumerate(rows):
        row |= {"text": None if number in (2, 5) else HOSTILE, "key": HOSTILE + row["key"]}
    rows[5]["conditioning_image"] = rows[4]["image"]
    condprep.report(written(rows, folder / "rows.parquet"), folder / "report.html", weights=OFFLINE)
    return folder / "report.html"


@pytest.fixture(scope="module", params=["light", *slow_ones(["dark", "phone"])])
def tab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser of a reader who wants it light or dark, or has a phone."""
    if not (browser := find()):
        pytest.skip("needs Chromium on PATH (Debian: apt-get install chromium)")
    width, height = (390, 844) if request.param == "phone" else (1280, 900)
    profile = tmp_path_factory.mktemp("profile")
    with Page(browser, profile, width, height, dark=request.param == "dark") as opened:
        yield opened


@pytest.fixture
def page(tab: Page, report: Path) -> Iterator[Page]:
    """The report, opened anew; whatever a test does there, nothing is complained of and nothing asked for."""
    tab.open(report)
    yield tab
    assert tab.complaints == []
    assert tab.requests == [report.absolute().as_uri()]


def test_it_opens(page: Page) -> None:
    """All pairs are there and decoded, no hostile caption ran, and nothing is wider than the window."""
    assert len(page.run(SHOWN)) == 8
    decoded = "Promise.all([...document.images].map((image) => image.decode())).then(() => document.images.length)"
    assert page.run(decoded) == 16
    assert page.run("document.title").endswith("condprep report")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert page.run("document.querySelector('.caption').textContent").startswith("</script>")


def test_filters_choose_and_sort(page: Page) -> None:
    """Each filter leaves the rows that it names, filters combine, and the count says how many."""
    page.run(CHOOSE.format("#finding", "structure: caption"))
    assert sorted(page.run(SHOWN)) == [2, 5]
    assert page.run("document.querySelector('#count').value") == "2 pairs"
    page.run(CHOOSE.format("#finding", "any"))
    some = page.run(SHOWN)
    page.run(CHOOSE.format("#finding", "none"))
    assert sorted(some + page.run(SHOWN)) == list(range(8))
    page.run(CHOOSE.format("#finding", ""))
    page.run(CHOOSE.format("#size", "128 × 128"))
    assert len(page.run(SHOWN)) == 8
    page.run("document.querySelector('[data-rule=\"structure: caption\"]').click()")
    assert sorted(page.run(SHOWN)) == [2, 5]


def test_the_overlay_follows_the_slider(page: Page) -> None:
    """Overlaid, picture and map have the same place, and the slider says how much of the map is seen."""
    place = "JSON.stringify(document.querySelector('.card {}').getBoundingClientRect())"
    assert page.run(place.format(".picture")) != page.run(place.format(".map"))
    page.press("o")
    assert page.run("document.querySelector('#overlay').checked")
    assert page.run(place.format(".picture")) == page.run(place.format(".map"))
    slide = (
        "(() => {{ const s = document.querySelector('#mix'); s.value = {0}; s.dispatchEvent(new Event('input')); }})()"
    )
    for percent in (0, 30, 100):
        page.run(slide.format(percent))
        assert float(page.run(OPACITY)) == pytest.approx(percent / 100)
    page.press("[", "[")
    assert float(page.run(OPACITY)) == pytest.approx(0.8)
    page.press("o")
    assert float(page.run(OPACITY)) == 1


def test_the_keyboard_goes_through_the_pairs(page: Page) -> None:
    """Arrows and j, k move from pair to pair and stop at the ends, Enter enlarges, Escape comes back to the pair."""
    rows = page.run(SHOWN)
    page.press("ArrowRight")
    assert page.run(AT) == rows[0]
    page.press("ArrowRight", "j")
    assert page.run(AT) == rows[2]
    page.press("k", "ArrowLeft", "ArrowLeft")
    assert page.run(AT) == rows[0]
    page.press("Enter", "ArrowRight")
    assert page.run("document.querySelector('#large').open")
    assert page.run("document.querySelector('#large .head b').textContent") == f"row {rows[1]}"
    page.press("Escape")
    assert not page.run("document.querySelector('#large').open")
    assert page.run(AT) == rows[1]
    page.press("f")
    assert page.run("document.activeElement.id") == "finding"


def test_colours_are_those_of_the_reader(page: Page, request: pytest.FixtureRequest) -> None:
    """Dark for a reader who wants it dark; letters stand out from the ground by at least 7 : 1 (WCAG AAA) in both."""
    colours = page.run("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    ink, ground = (_luminance(colour) for colour in colours)
    assert (ink > ground) == request.node.callspec.id.startswith("dark")
    assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 7


def _luminance(colour: str) -> float:
    """ "rgb(32, 31, 29)" -> relative luminance, 0..1 (WCAG 2)."""
    levels = [int(level) / 255 for level in colour[4:-1].split(",")]
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
