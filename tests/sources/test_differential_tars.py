"""Tars against webdataset: the same samples, pictures and captions, or a reason in docs/sources.md; patterns, too."""

from __future__ import annotations

import io
import json
import random
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import webdataset
from support.differential import PICTURE, WORDS, compare, put
from support.tars import tar

from condprep.sources.open import open_source
from condprep.sources.tar import expanded

PICTURES = ("jpg", "jpeg", "png", "webp")


def make(random: random.Random, root: Path) -> dict[str, Any]:
    """A tar of a few samples: pictures, captions and more, in any order, some of it in capitals, hidden or without a dot."""
    members = []
    for n in range(random.randint(1, 4)):
        base = random.choice(["", "", "a/", "a.b/", "./"]) + random.choice([f"{n:03}", f"x-{n}", f"{n}.05", f"{n} é"])
        parts = [(random.choice(["jpg", "png", "JPG", "webp", "jpeg"]), PICTURE)] * (random.random() < 0.9)
        parts += [(random.choice(["txt", "TXT"]), random.choice(WORDS).encode())] * (random.random() < 0.7)
        parts += [("json", json.dumps({"caption": random.choice(WORDS)}).encode())] * (random.random() < 0.4)
        parts += [("seg.png", PICTURE)] * (random.random() < 0.3) + [("cls", b"3")] * (random.random() < 0.3)
        random.shuffle(parts)
        found = [(f"{base}.{extension}", data) for extension, data in parts]
        hidden = [(f"{'/'.join([*base.split('/')[:-1], '._' + base.split('/')[-1]])}.{e}", b"mac") for e, _ in parts]
        members += [pair for both in zip(hidden, found) for pair in both] if random.random() < 0.2 else found
    put(root, "00000.tar", tar(*((name.removeprefix("/"), data) for name, data in members)))
    return {"members": [name for name, _ in members]}


def theirs(root: Path, case: dict[str, Any]) -> Counter[Any]:
    files = webdataset.tariterators.tar_file_iterator(io.BytesIO((root / "00000.tar").read_bytes()))
    named = ({"fname": name, "data": data, "__url__": "t"} for name, data in ((f["fname"], f["data"]) for f in files))
    found: Counter[Any] = Counter()
    for sample in webdataset.tariterators.group_by_keys(named):
        pictures = [field for field in sample if field in PICTURES] or [
            field for field in sample if field.rpartition(".")[2] in PICTURES
        ]
        text = sample["txt"].decode() if "txt" in sample else json.loads(sample.get("json", b"{}")).get("caption", "")
        found.update((f"{sample['__key__']}.{field}".lower(), text.strip()) for field in pictures)
    return found


def ours(root: Path, case: dict[str, Any]) -> Counter[Any]:
    source = open_source(root / "00000.tar", all_captions=False)
    return Counter(
        (entry.name.partition("#")[2].lower(), (entry.text or ("",))[0])
        if entry.text
        else (entry.name[10:].lower(), "")
        for entry in source.entries()
    )


def one_line(found: Any) -> Any:
    """Captions of several lines as one, which is what a single caption becomes."""
    return (
        found if isinstance(found, str) else Counter((name, " ".join(text.split())) for name, text in found.elements())
    )


def excuse(case: dict[str, Any], one: Any, other: Any) -> str | None:
    """The differences in docs/sources.md."""
    if one_line(one) == one_line(other):
        return "a caption of several lines"
    if any("/._" in f"/{name}" for name in case["members"]):
        return "hidden members"
    if any(".05." in name for name in case["members"]):
        return "names with dots"
    return None


@pytest.mark.slow
def test_tars_are_read_as_webdataset_reads_them(tmp_path: Path) -> None:
    """300 random tars."""
    reasons = compare(tmp_path, make, theirs, ours, excuse)
    assert reasons["same"] > 100


def test_names_with_dots_and_hidden_members_lose_nothing(tmp_path: Path) -> None:
    """Where we differ from webdataset, each picture has its own caption all the same."""
    members = [
        ("22.05.png", PICTURE),
        ("._22.05.png", b"mac"),
        ("22.05.TXT", b"may"),
        ("22.06.png", PICTURE),
        ("22.06.txt", b"june"),
    ]
    put(tmp_path, "00000.tar", tar(*members))
    found = open_source(tmp_path / "00000.tar").entries()
    assert [(entry.name, entry.text) for entry in found] == [
        ("00000.tar#22.05.png", ("may",)),
        ("00000.tar#22.06.png", ("june",)),
    ]


def test_patterns_expand_as_webdataset_expands_them() -> None:
    """300 random patterns of braces, nested, with ranges down, steps, letters and commas; unbalanced ones stay as they are."""
    for seed in range(300):
        pattern = braces(random.Random(seed)) + ".tar"
        try:
            expected = webdataset.shardlists.expand_urls(pattern)
        except ValueError:
            expected = [pattern]
        assert expanded(pattern) == expected, pattern


def braces(random: random.Random, depth: int = 0) -> str:
    """A few pieces: text, {a,b}, {000..012}, {9..1..2}, {a..e}, or one brace alone."""
    number = random.choice([lambda: str(random.randint(0, 12)), lambda: f"{random.randint(0, 12):03}"])
    piece = [
        lambda: "".join(random.choices(string.ascii_lowercase + "-_.", k=2)),
        lambda: (
            "{" + ",".join(braces(random, depth + 1) if depth < 2 else "x" for _ in range(random.randint(1, 3))) + "}"
        ),
        lambda: "{" + number() + ".." + number() + random.choice(["", "", "..2"]) + "}",
        lambda: "{" + random.choice("abc") + ".." + random.choice("cde") + "}",
        lambda: random.choice("{}") if random.random() < 0.1 else "s",
    ]
    return "".join(random.choice(piece)() for _ in range(random.randint(1, 3)))
