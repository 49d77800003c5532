"""Captions: markup, languages, openings and repeats are told, in memory that does not grow with the captions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condprep.verification.quality.captions import (
    Boilerplate,
    Frequent,
    Language,
    RepeatedCaption,
    language,
    measure_caption,
)


def told(survey: Any, captions: list[Any]) -> list[tuple[int, str]]:
    for caption in captions:
        survey.add(measure_caption(caption))
    return list(survey.finish())


@given(st.lists(st.integers(0, 30)), st.integers(1, 12))
def test_frequent_values_are_all_there(values: list[int], places: int) -> None:
    """Every value above 1 / places of the stream is kept, counted too small by at most that; never more than `places`."""
    frequent: Frequent[int] = Frequent(places)
    for where, value in enumerate(values):
        frequent.add(value, where)
        assert len(frequent.counts) <= places
    for value, count in Counter(values).items():
        kept = frequent.counts.get(value, 0)
        assert count - len(values) / places <= kept <= count
        if count > len(values) / places:
            assert kept > 0
    assert all(values[frequent.first[value]] == value for value in frequent.counts)


@given(st.one_of(st.none(), st.text(), st.integers(), st.lists(st.text()), st.binary()))
def test_any_caption_can_be_measured(caption: Any) -> None:
    """Whatever a dataset holds for a caption: the same four scores, no error."""
    scores = measure_caption(caption)
    assert list(scores) == ["caption_text", "opening", "markup", "language"]


@pytest.mark.parametrize(
    ("caption", "markup"),
    [
        ("a <b>red</b> car", "<b>"),
        ("<script>alert(1)</script>", "<script>"),
        ("cats &amp; dogs", "&amp;"),
        ("see https://example.org/a?b for more", "https://example.org/a?b"),
        ("IMG_2034", "IMG_2034"),
        ("holiday.jpg at the sea", "y.jpg"),
    ],
)
def test_markup_is_told(caption: str, markup: str) -> None:
    """Tags, entities, addresses and file names are found, and quoted."""
    found = measure_caption(caption)["markup"]
    assert found is not None
    assert found.startswith(markup) or markup.startswith(found)


@pytest.mark.parametrize("caption", ["a heart <3 you", "5 < 6 and 7 > 2", "f. jpg", "Smith & Sons"])
def test_plain_text_is_no_markup(caption: str) -> None:
    """Signs that text has by itself are no markup."""
    assert measure_caption(caption)["markup"] is None


def test_languages() -> None:
    """Sentences are told apart; a few words, numbers and names are of no language."""
    assert language("a man riding a wave on top of a surfboard") == "en"
    assert language("ein Foto von einem Hund, der am Strand läuft") == "de"
    assert language("une femme avec un chapeau rouge") == "fr"
    assert measure_caption("photograph 3")["language"] is None


ENGLISH = [f"a man is riding wave number {n} on top of a surfboard" for n in range(60)]
GERMAN = "ein Foto von einem Hund, der am Strand läuft"


def test_a_caption_in_another_language_is_told() -> None:
    """One German caption among English ones is found in its row; an English dataset has nothing else to tell."""
    assert [row for row, _ in told(Language(), [*ENGLISH[:30], GERMAN, *ENGLISH[30:]])] == [30]
    assert told(Language(), ENGLISH) == []


def test_a_dataset_in_another_language_is_told_once() -> None:
    """Where most captions are not English, that is said once, at the first of them."""
    found = told(Language(), ["photo", *[f"{GERMAN}, {n}" for n in range(50)]])
    assert [row for row, _ in found] == [1]
    assert "100%" in found[0][1]
    assert "'de'" in found[0][1]


def test_one_caption_for_many_pictures() -> None:
    """Told once, at its first row, with its number, whatever its case and spaces; few repeats are no matter."""
    captions = [f"picture number {n}" for n in range(400)] + ["A red  car"] * 5 + ["a red car"] * 5
    assert told(RepeatedCaption(), captions) == [(400, "10 of 410 pictures have the same caption: 'a red car'")]
    assert told(RepeatedCaption(), captions[:-1]) == []


def test_boilerplate_is_told() -> None:
    """An opening of four words that a fifth of the captions share, with more behind it, is told at the first of them."""
    captions = [f"number {n} has words of its own" for n in range(70)]
    shared = [f"this picture shows a thing called {n}" for n in range(30)]
    assert told(Boilerplate(), captions + shared) == [(70, "30 of 100 captions begin alike: 'this picture shows a'")]
    assert told(Boilerplate(), captions + shared[:10]) == []
