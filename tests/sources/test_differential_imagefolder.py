"""Imagefolders against `load_dataset("imagefolder")`: the same splits, pictures and captions, or a reason in docs/sources.md."""

from __future__ import annotations

import csv
import gc
import io
import json
import random
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.differential import PICTURE, WORDS, compare, put
from support.thorough import examples

from condprep.errors import SourceError
from condprep.sources.open import open_source

SPLITS = ["train", "test", "validation", "val", "dev", "Train", "training_2", "my-test", "eval"]
FOLDERS = ["images", "a.b", "people", "contest", "trainers", "deep/er", "__cache__"]
NOISE = ["README.md", "notes.txt", ".hidden/x.jpg", "LICENSE", "a.heic.bak", "captions.csv", "._a.jpg"]


def text_of(rows: list[dict[str, Any]], format: str) -> bytes:
    if format == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=bool(len(rows) % 2)) + "\n" for row in rows).encode()
    if format == "csv":
        file = io.StringIO()
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue().encode()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def make(random: random.Random, root: Path) -> dict[str, Any]:
    """A folder of pictures in some folders, with metadata in some of them."""
    if random.random() < 0.2:
        return zipped(random, root)
    format = random.choice(["jsonl", "csv", "parquet"])
    kind = random.choice(["splits", "splits", "flat", "mixed"])
    tops = {
        "splits": random.sample(SPLITS, random.randint(1, 3)),
        "flat": random.choice([[""], ["images"], ["", "people"]]),
        "mixed": random.sample(SPLITS + FOLDERS, 3) + [""] * random.randint(0, 1),
    }[kind]
    described, caption = [], random.choice(["text", "caption"])
    for top in tops:
        pictures = [f"{n}{random.choice(['.jpg', '.png', '.JPEG'])}" for n in range(random.randint(1, 3))]
        pictures = [random.choice(["", "", "sub/"]) + name for name in pictures]
        for name in pictures:
            put(root, f"{top}/{name}" if top else name)
        if random.random() < 0.7:
            rows = []
            for name in random.sample(pictures, random.randint(1, len(pictures))):
                spelt = random.choice([name, name, f"./{name}", name.replace("/", "\\")])
                rows.append({"file_name": spelt, caption: random.choice(WORDS), "n": random.randint(0, 9)})
            put(root, f"{top}/metadata.{format}" if top else f"metadata.{format}", text_of(rows, format))
            described.append(top)
    for name in random.sample(NOISE, random.randint(0, 3)):
        put(root, name, b"no data")
    return {"format": format, "tops": tops, "described": described, "caption": caption}


def zipped(random: random.Random, root: Path) -> dict[str, Any]:
    """Zips of pictures, with metadata in some of them; each split has one."""
    described = random.random() < 0.5
    for split in random.sample(["train", "test", "validation"], random.randint(1, 3)):
        with zipfile.ZipFile(
            root / f"{split}.zip", "w", random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
        ) as file:
            names = [f"{random.choice(['', 'a/', 'B.c/'])}{n}.png" for n in range(random.randint(1, 4))]
            for name in [*names, ".hidden.png", "notes.md"]:
                file.writestr(name, PICTURE)
            if described:
                rows = [{"file_name": name, "text": random.choice(WORDS)} for name in random.sample(names, 1)]
                file.writestr("metadata.jsonl", text_of(rows, "jsonl"))
    return {"format": "jsonl", "tops": [], "described": [], "caption": "text"}


def place(root: Path, path: str) -> str:
    """Relative to the case's folder: `train.zip#a/0.png` of a picture in a zip."""
    inner, _, outer = path.removeprefix("zip://").partition("::")
    return Path(outer).relative_to(root).as_posix() + f"#{inner}" if outer else Path(path).relative_to(root).as_posix()


def theirs(root: Path, case: dict[str, Any]) -> dict[str, Counter[Any]]:
    found = datasets.load_dataset("imagefolder", data_dir=str(root), streaming=True)
    result = {}
    for split, rows in found.items():
        stored = rows.cast_column("image", datasets.Image(decode=False))
        seen = Counter((place(root, row["image"]["path"]), (row.get(case["caption"]) or "").strip()) for row in stored)
        result[split] = seen
    return result


def ours(root: Path, case: dict[str, Any]) -> dict[str, Counter[Any]]:
    kind = "imagefolder" if case["described"] else None
    try:
        sources = [open_source(root, kind)]
    except SourceError as error:
        if "has the splits" not in str(error):
            raise
        splits = str(error).partition("has the splits ")[2].partition(";")[0].split(", ")
        sources = [open_source(root, kind, split=split) for split in splits]
    return {
        getattr(source, "split", None) or "train": Counter(
            (entry.name, "".join(source.read(entry).text)) for entry in source.entries() if not entry.problem
        )
        for source in sources
    }


def excuse(case: dict[str, Any], one: Any, other: Any) -> str | None:
    """The differences in docs/sources.md."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        differing = [split for split in one if one[split] != other[split]]
        if case["described"] and all(not one[split] for split in differing):
            return "a split without metadata beside one with it"
    if not case["described"] and isinstance(other, dict) and list(other) == ["train"]:
        return "pictures without metadata, some outside of the splits"
    if "Invalid string class label" in str(one):
        return "folders in zips, which datasets takes for labels"
    if isinstance(one, dict) and _without(one, lambda name: not name.endswith("notes.md")) == other:
        return "files in a zip that are no pictures"
    if case["format"] == "csv" and ("float" in str(one) or _without_na(one) == _without_na(other)):
        return "a caption that pandas takes for missing"
    return None


def _without(result: dict[str, Counter[Any]], keep: Callable[[str], bool]) -> dict[str, Counter[Any]]:
    return {split: Counter({row: n for row, n in found.items() if keep(row[0])}) for split, found in result.items()}


def _without_na(result: Any) -> Any:
    """Without what `pandas` takes for no text, and without splits that have no rows."""
    if not isinstance(result, dict):
        return result
    plain = {
        split: Counter((name, "" if text == "NA" else text) for name, text in found.elements())
        for split, found in result.items()
    }
    return {split: found for split, found in plain.items() if found}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # `datasets` leaves metadata files open
def test_imagefolders_are_read_as_datasets_reads_them(tmp_path: Path) -> None:
    """A hundred random folders: splits, file names in any spelling, metadata anywhere, files of other kinds beside."""
    cases = examples(100, 300)
    reasons = compare(tmp_path, make, theirs, ours, excuse, cases)
    gc.collect()  # closes them here and not within another test, to which the warning would be an error
    assert reasons["same"] > cases / 2
