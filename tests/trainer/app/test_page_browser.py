"""The page in a real browser: a photograph is dropped, its condition and two pictures appear, and a reload keeps them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from skimage import data
from support.chromium import Page as Tab
from support.chromium import find

from trainer.app.address import listen
from trainer.app.generations import Generations
from trainer.app.serve import server
from trainer.app.web import Page

SHOWN = "[...document.querySelectorAll('img:not([hidden])')].filter((one) => one.complete && one.naturalWidth === 64).length"
SAID = "document.querySelector('#said').textContent"
PROBLEM = "document.querySelector('#problem').textContent"


@pytest.fixture(scope="module")
def address(page: Page) -> Iterator[str]:
    """Where the page answers, in a thread of this process."""
    begun = Page(page._html, page._conditions, Generations(page._drawn._drawing, print))
    with listen("127.0.0.1", 0) as listening:
        serving = server(begun, "127.0.0.1")
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        serving.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One with a wide window, which tests may make narrow."""
    if not (found := find()):
        pytest.skip("needs Chromium on PATH (Debian: apt-get install chromium)")
    with Tab(found, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def tab(browser: Tab, address: str) -> Iterator[Tab]:
    """The page, opened anew; whatever a test does there, nothing is complained of, and nobody else is asked."""
    browser.visit(address)
    yield browser
    assert browser.complaints == []
    assert all(url.startswith(address) for url in browser.requests)


@pytest.fixture(scope="module")
def coffee(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photographs") / "coffee.jpg"
    Image.fromarray(data.coffee()).save(path)
    return path


def test_a_photograph_becomes_pictures(tab: Tab, address: str, coffee: Path) -> None:
    """Dropped, it has a condition; Ctrl+Enter in the prompt draws two pictures; all four can be downloaded, a reload has them still."""
    tab.drop(coffee, "#drop")
    tab.wait(f"{SHOWN} === 2 && {SAID} !== ''")
    assert tab.run(SAID) == "coffee.jpg: its condition is there, 64 × 64 px."
    tab.run("document.querySelector('#prompt').value = 'a cup'; document.querySelector('#strength').value = 0.5")
    tab.run(
        "document.querySelector('#prompt').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', ctrlKey: true, bubbles: true}))"
    )
    tab.wait(f"{SAID}.startsWith('Done') && {SHOWN} === 4")
    names = tab.run("[...document.querySelectorAll('a:not([hidden])')].map((link) => link.download)")
    assert names == [f"coffee-{part}.png" for part in ("photograph", "condition", "controlnet", "base")]
    seen = "[...document.images].map((image) => image.src)"
    before, here = tab.run(seen), tab.run("location.href")
    assert here.startswith(f"{address}?result=")
    tab.visit(here)
    tab.wait(f"{SHOWN} === 4")
    assert tab.run(seen) == before
    assert tab.run("[document.querySelector('#prompt').value, document.querySelector('#strength').value]") == [
        "a cup",
        "0.5",
    ]


def test_mistakes_are_words_on_the_page(tab: Tab, coffee: Path, tmp_path: Path) -> None:
    """No photograph, one that is none, a setting out of its range: a sentence in place, and what was there stays."""
    tab.run("document.querySelector('#generate').click()")
    assert tab.run(PROBLEM) == "Drop a photograph first."
    (tmp_path / "notes.txt").write_text("no picture")
    tab.choose(coffee, "#file")
    tab.wait(f"{SHOWN} === 2")
    tab.choose(tmp_path / "notes.txt", "#file")
    tab.wait(f"{PROBLEM} !== ''")
    assert tab.run(PROBLEM).startswith("notes.txt cannot be used: not a picture of a known format")
    assert tab.run(SHOWN) == 2
    tab.run("document.querySelector('#steps').value = 0; document.querySelector('#generate').click()")
    assert tab.run(PROBLEM).startswith("Steps: ")
    assert tab.run("document.activeElement.id") == "steps"
    assert [url for url in tab.requests if url.endswith("/generations")] == []
    tab.events.clear()  # the 400 is on the console, as it should be


def test_it_fits_a_phone(tab: Tab) -> None:
    """At 400 px nothing is wider than the window, the four pictures are two by two, and each field has a label."""
    metrics = {"height": 800, "deviceScaleFactor": 1}
    tab.call("Emulation.setDeviceMetricsOverride", width=400, mobile=True, **metrics)
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    tops = "new Set([...document.querySelectorAll('.cell')].map((one) => Math.round(one.getBoundingClientRect().top))).size"
    assert tab.run(tops) == 2
    tab.call("Emulation.setDeviceMetricsOverride", width=1280, mobile=False, **metrics)
    assert tab.run(tops) == 1
    unnamed = (
        "[...document.querySelectorAll('input, textarea')].filter((one) => !one.labels.length && !one.ariaLabel).length"
    )
    assert tab.run(unnamed) == 0
