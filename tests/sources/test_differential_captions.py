"""Captions and listings against the readers that `datasets` uses: pandas, pyarrow, its text files, and Python's codecs."""

from __future__ import annotations

import codecs
import csv
import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow.json
import pytest
from support.differential import CASES, WORDS, compare, put, quiet
from support.thorough import slow_ones

from condprep.sources.metadata import csv_rows, json_rows
from condprep.sources.text import UNTOLD, read_captions

SENTENCES = {
    "western": "a dog’s bowl – “naïve” façade, déjà vu, ein Hündchen auf der Straße, un garçon mange, el niño pequeño",
    "cyrillic": "рыжая кошка сидит на деревянном столе рядом с чашкой горячего кофе",
    "japanese": "テーブルの上に座っている猫と、窓の外を見ている犬の写真です",
    "chinese": "一只橘猫坐在木桌上，旁边有一杯热咖啡，窗外下着雨",
}
ENCODINGS = {
    "western": ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"],
    "cyrillic": ["utf-8", "utf-8-sig", "utf-16", "cp1251", "koi8-r"],
    "japanese": ["utf-8", "utf-16", "shift_jis", "euc_jp"],
    "chinese": ["utf-8", "utf-16", "gb18030", "big5"],
}


def test_no_encoding_changes_a_caption_in_silence() -> None:
    """300 sentences in the encodings of their languages: the caption, or a note; UTF-8 and marked UTF-16 and 32 never fail."""
    told = Counter[str]()
    for seed in range(CASES):
        draw = random.Random(seed)
        language = draw.choice([*SENTENCES])
        words = SENTENCES[language].split() if language in ("western", "cyrillic") else [*SENTENCES[language]]
        text = (" " if " " in SENTENCES[language] else "").join(draw.sample(words, draw.randint(4, 8)))
        encoding = draw.choice(ENCODINGS[language])
        data = (codecs.BOM_UTF16_LE if encoding == "utf-16-le" else b"") + text.encode(encoding, "ignore")
        found = read_captions(data)
        right = found.texts == (data.decode(encoding).lstrip("\ufeff").strip(),)
        assert right or found.note, (seed, encoding, text, found)
        assert "\ufffd" not in "".join(found.texts)
        if encoding.startswith("utf"):
            assert right, (seed, encoding, text, found)
            assert found.note is None
        told[encoding, right] += 1
    assert told["cp1252", True] > 3 * told["cp1252", False]


def test_damaged_utf8_is_no_caption_and_says_so() -> None:
    """300 times one byte of UTF-8 goes missing or becomes another: never half a caption, and always a word."""
    for seed in range(CASES):
        draw = random.Random(seed)
        data = bytearray(draw.choice([*SENTENCES.values()]).encode())
        at = draw.randrange(len(data))
        data[at : at + 1] = draw.choice([b"", b"\xff", b"\xfe"])
        try:
            expected = (bytes(data).decode().strip(),)
        except UnicodeDecodeError:
            assert read_captions(bytes(data)) == ((), UNTOLD), seed
        else:
            assert read_captions(bytes(data)) == (expected, None)


def test_lines_are_those_of_datasets(tmp_path: Path) -> None:
    """300 texts of several lines in one file after the other: each line that `load_dataset("text")` gives and is not empty."""
    for seed in range(CASES):
        draw = random.Random(seed)
        lines = [draw.choice(WORDS).replace("\n", " ") for _ in range(draw.randint(1, 5))]
        put(tmp_path, f"{seed:03}.txt", draw.choice(["\n", "\r\n"]).join(lines).encode() + b"\n")
    with quiet():
        rows = datasets.load_dataset(
            "text", data_files=[str(path) for path in sorted(tmp_path.glob("*.txt"))], streaming=True, split="train"
        )
        theirs = [row["text"].strip() for row in rows if row["text"].strip()]
    ours = [line for path in sorted(tmp_path.glob("*.txt")) for line in read_captions(path.read_bytes()).texts]
    assert ours == theirs


def make_csv(random: random.Random, root: Path) -> dict[str, Any]:
    """Rows under a header, quoted where needed or always, with any end of line."""
    columns = ["file_name", "text", "n"][: random.randint(2, 3)]
    rows = [[f"{n}.jpg", random.choice(WORDS), str(n)][: len(columns)] for n in range(random.randint(1, 6))]
    file = io.StringIO()
    end = random.choice(["\n", "\n", "\r\n", "\r"])
    quoting = csv.QUOTE_ALL if end == "\r" else random.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    writer = csv.writer(file, quoting=quoting, lineterminator=end, delimiter=random.choice(",,,;\t"))
    writer.writerows([columns, *rows])
    text = file.getvalue()
    broken = random.random() < 0.15 and len(rows) > 1
    if broken:  # a quote that nobody closes
        text = (
            text.replace("0.jpg", '"0.jpg', 1) if quoting == csv.QUOTE_MINIMAL else text.replace('"0.jpg"', '"0.jpg', 1)
        )
    put(root, "metadata.csv", text.encode())
    return {"broken": broken}


def with_pandas(root: Path, case: dict[str, Any]) -> list[dict[str, str]]:
    delimiter = max(",;\t", key=(root / "metadata.csv").read_text().splitlines()[0].count)
    frame = pandas.read_csv(root / "metadata.csv", dtype=str, keep_default_na=False, sep=delimiter)
    return [dict(row) for row in frame.to_dict("records")]


def with_csv_rows(root: Path, case: dict[str, Any]) -> list[Any]:
    return [row for _, row in csv_rows(root / "metadata.csv")]


def excuse(case: dict[str, Any], one: Any, other: Any) -> str | None:
    """The differences in docs/sources.md."""
    if case["broken"] and isinstance(other, list) and any(isinstance(row, str) for row in other):
        return "a quote that is not closed"
    return None


def test_csv_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    """300 random files: delimiters, quotes, line ends, breaks within quotes; an unclosed quote costs its row, not the others."""
    reasons = compare(tmp_path, make_csv, with_pandas, with_csv_rows, excuse)
    assert reasons["same"] > 200


def make_json(random: random.Random, root: Path) -> dict[str, Any]:
    """Objects a line, over several lines, or with blanks between."""
    rows = [{"file_name": f"{n}.jpg", "text": random.choice(WORDS), "n": n} for n in range(random.randint(1, 5))]
    layout = random.choice([{}, {}, {"indent": 2}, {"indent": 0}, {"separators": (",", ":")}])
    end = random.choice(["\n", "\r\n", "\n\n"])
    text = end.join(json.dumps(row, ensure_ascii=random.random() < 0.5, **layout) for row in rows)
    put(root, "metadata.jsonl", text.encode() + random.choice([b"", b"\n"]))
    return {}


@pytest.mark.parametrize("listed", [False, *slow_ones([True])])
def test_json_is_read_as_pyarrow_reads_it(tmp_path: Path, listed: bool) -> None:
    """300 random files: lines, pretty-printed objects; and the same as one list, which pyarrow does not read, as Python does."""

    def theirs(root: Path, case: dict[str, Any]) -> list[Any]:
        if listed:
            return list(json.loads((root / "metadata.json").read_text()))
        rows: list[Any] = pyarrow.json.read_json(root / "metadata.jsonl").to_pylist()
        return rows

    def make(random: random.Random, root: Path) -> dict[str, Any]:
        case = make_json(random, root)
        if listed:
            rows = pyarrow.json.read_json(root / "metadata.jsonl").to_pylist()
            put(root, "metadata.json", json.dumps(rows, indent=random.choice([None, 2])).encode())
        return case

    def ours(root: Path, case: dict[str, Any]) -> list[Any]:
        return [row for _, row in json_rows(root / ("metadata.json" if listed else "metadata.jsonl"))]

    assert compare(tmp_path, make, theirs, ours, lambda *_: None)["same"] == CASES
