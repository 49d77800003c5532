"""Splits and configs of Parquet against `load_dataset`: the same files in the same splits, or a reason in docs/sources.md."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.differential import compare, put

from condprep.sources.huggingface import find_parquet, parquet_splits

WORDS = [
    "train",
    "test",
    "validation",
    "val",
    "valid",
    "dev",
    "eval",
    "training",
    "TEST",
    "data",
    "part",
    "contest",
    "a.b",
]
FOLDERS = [
    "",
    "",
    "data/",
    "default/train/",
    "default/test/",
    "en/",
    "train/",
    "test/",
    "my-val/",
    "deep/er/",
    "__x__/",
    ".h/",
]


def make(random: random.Random, root: Path) -> dict[str, Any]:
    """Some Parquet files, each with its own name as its row, and perhaps a README that says what they are."""
    names = set()
    for _ in range(random.randint(1, 6)):
        word = random.choice(WORDS)
        shard = random.choice(["", "", "-00000", "-00000-of-00002", "-00001-of-00002", "_0", "2", "-x"])
        names.add(f"{random.choice(FOLDERS)}{word}{shard}.parquet")
    for name in names:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"name": [name]}), sink)
        put(root, name, sink.getvalue().to_pybytes())
    put(root, "README.md", b"# words alone\n")
    config = None
    if random.random() < 0.4:
        readme, config = configs(random, sorted(names))
        put(root, "README.md", f"---\n{yaml.safe_dump(readme)}---\n\n# a card\n".encode())
    return {"names": sorted(names), "config": config}


def configs(random: random.Random, names: list[str]) -> tuple[dict[str, Any], str | None]:
    """The `configs` of a README, and which is asked for."""
    found = []
    for config in random.sample(["default", "en", "de"], random.randint(1, 2)):
        patterns = random.sample(names, random.randint(1, len(names))) + random.choice([[], ["data/*"], ["**/*train*"]])
        splits = [
            {"split": split, "path": random.choice(patterns)} for split in random.sample(["train", "test", "x"], 2)
        ]
        files = random.choice([splits, patterns, patterns[0], "*.parquet", None])
        one = {"config_name": config} | (
            {"data_files": files} if files else {"data_dir": random.choice(["data", "en", "."])}
        )
        found.append(one | ({"default": True} if random.random() < 0.2 else {}))
    named = [one["config_name"] for one in found]
    return {"license": "mit", "configs": found}, random.choice([None, None, *named, "nowhere"])


def theirs(root: Path, case: dict[str, Any]) -> dict[str, list[str]]:
    found = datasets.load_dataset(str(root), case["config"], streaming=True)
    return {split: sorted(row["name"] for row in rows) for split, rows in found.items()}


def ours(root: Path, case: dict[str, Any]) -> dict[str, list[str]]:
    found = parquet_splits(root, find_parquet(root), case["config"])
    return {split: sorted(names) for split, names in found.items()}


def excuse(case: dict[str, Any], one: Any, other: Any) -> str | None:
    """The differences in docs/sources.md."""
    if isinstance(one, str) and isinstance(other, str):
        return "both refuse"
    if isinstance(one, dict) and {split: sorted({*names}) for split, names in one.items()} == other:
        return "a file that a README names twice"
    if "Couldn't infer the same data file format" in str(one):
        return "a split without files beside others"
    if "matching the patterns for config" in str(one) and f"config '{case['config']}'" not in str(one):
        return "another config without files"
    if "'.h/" in str(other):
        return "a hidden file that a README names"
    return None


@pytest.mark.slow
def test_splits_of_parquet_are_those_of_datasets(tmp_path: Path) -> None:
    """300 random repositories: splits in names, folders and READMEs, several configs, hidden and special folders."""
    reasons = compare(tmp_path, make, theirs, ours, excuse)
    assert reasons["same"] > 200
    assert Counter(reasons)["both refuse"] < 100
