"""Tokens of captions: as many as CLIP's tokenizer makes, and never more where its vocabulary is not at hand."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.thorough import share

from condprep.verification.tokens import MARKERS, MERGES, VOCABULARY, TokenCounter, _spelling
from condprep.weights.find import Weights

COUNTER = TokenCounter(None)


@pytest.fixture(scope="module")
def vocabulary() -> Path:
    file = Weights(offline=True).find(VOCABULARY)
    if file is None:
        pytest.skip(f"needs CLIP's vocabulary: condprep weights pull {VOCABULARY}")
    return file.path


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Path) -> Any:
    """transformers' CLIP tokenizer with the same merges."""
    transformers = pytest.importorskip("transformers")
    with gzip.open(vocabulary, "rt", encoding="utf-8") as lines:
        merges = [tuple(line.split()) for line in lines.read().split("\n")[1 : MERGES + 1]]
    single = [letter + end for end in ("", "</w>") for letter in _spelling()]
    words = [*single, *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=merges)


LETTERS = st.sampled_from("abc defghiXYZ ÄÖüß 中文字 éœ ½²٣123 _-... '’s don't we've 🙂👍🏽 \u0301 \t\n$$ ÿ ﬁ İ ǅ <|>")
KNOWN = st.characters(exclude_categories=("Cn", "Cs"))  # letters newer than Python's Unicode are not known as letters


@settings(max_examples=share(300), deadline=None)
@given(text=st.one_of(st.text(LETTERS, max_size=80), st.text(KNOWN, max_size=40)))
def test_tokens_are_those_of_transformers(vocabulary: Path, tokenizer: Any, text: str) -> None:
    """Any text of assigned characters has as many tokens as CLIPTokenizer makes of it; without the vocabulary never more are claimed."""
    text = text.encode("utf-8", "replace").decode()
    exact = counter(vocabulary)(text)
    assert exact == len(tokenizer(text)["input_ids"])
    assert MARKERS <= COUNTER(text) <= exact


@cache
def counter(vocabulary: Path) -> TokenCounter:
    return TokenCounter(vocabulary)


def test_real_captions_have_the_tokens_of_transformers(vocabulary: Path, tokenizer: Any, shared: Path) -> None:
    """Ordinary English, punctuation and numbers included: the same counts, and 77 is where CLIP cuts."""
    text = json.dumps(json.loads((shared / "data" / "people" / "test_coco.json").read_text())["annotations"][0])[:600]
    assert counter(vocabulary)(text) == len(tokenizer(text)["input_ids"]) > 77
