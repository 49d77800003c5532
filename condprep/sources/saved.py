"""Datasets that `save_to_disk` wrote, on this disk or at a URL, whose Arrow files are then copied into the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from condprep.runtime.folder import is_plain
from condprep.runtime.local_copies import local
from condprep.runtime.storage import Place
from condprep.sources.base import read_regular

MAX_RECORD = 1 << 26  # bytes of a saved dataset's state.json


def saved_splits(root: Place) -> Any:
    """What `load_from_disk` gives, which fails where a split has no rows: such a one is left out."""
    import datasets

    if (root / "dataset_dict.json").is_file():
        names = json.loads(read_regular(root / "dataset_dict.json", cut=MAX_RECORD))["splits"]
        splits = {name: _saved_split(root / name) for name in names if is_plain(name)}
        return datasets.DatasetDict({name: split for name, split in splits.items() if split})
    return _saved_split(root)


def _saved_split(root: Place) -> Any:
    """None: it has no rows."""
    import datasets

    if isinstance(root, Path) and not (root / "state.json").is_file():
        return datasets.load_from_disk(str(root))  # says what is wrong with it
    files = [one["filename"] for one in json.loads(read_regular(root / "state.json", cut=MAX_RECORD))["_data_files"]]
    if not all(map(is_plain, files)):
        raise ValueError(f"{root / 'state.json'} names files that do not lie beside it")
    if isinstance(root, Path):
        return datasets.load_from_disk(str(root)) if files else None
    parts = [datasets.Dataset.from_file(str(local(root / name))) for name in files]
    return datasets.concatenate_datasets(parts) if parts else None
