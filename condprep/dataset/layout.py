"""The dataset on disk: its files, and the last step of a build that puts the shards in their places.

    ds/README.md  dataset_dict.json  train/data-00000-of-00012.arrow ...     what `datasets` reads
    ds/.condprep/plan.json  provenance.json  rejects.jsonl  done.json        what condprep knows; ignored by `datasets`

Every step here can be repeated: a build that is killed while finishing finishes when it is run again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from condprep.dataset.shards import SUFFIXES, Counts, Form
from condprep.dataset.target import Target
from condprep.errors import DatasetError
from condprep.runtime.files import commit, commit_json
from condprep.runtime.own import make_folder, move, remove, remove_folder, remove_tree

SPLITS = ("train", "validation", "test")  # a build makes the first two
DATA_FOLDERS = (*SPLITS, "data")  # that hold the rows, as Arrow or Parquet
FILES = ("dataset_dict.json", "README.md")  # beside them
SPLIT_FILES = ("dataset_info.json", "state.json")  # of a split of Arrow files


@dataclass(frozen=True)
class Layout:
    """Where everything of the dataset at `root` lies."""

    root: Path
    target: Target | None = None  # where it goes, if not here: then this is the working folder

    @property
    def private(self) -> Path:
        return self.root / ".condprep"

    @property
    def shards(self) -> Path:
        return self.private / "shards"

    @property
    def done(self) -> Path:
        return self.private / "done.json"

    @property
    def appending(self) -> Path:
        """What says that other files are being put behind those that are there."""
        return self.private / "append.json"

    @property
    def lock(self) -> Path:
        return self.private / "lock"

    def shard(self, number: int) -> Path:
        return self.shards / f"{number:06d}"

    def segments(self, number: int) -> Path:
        """Where rows of a shard lie that is not finished: on this machine, wherever the dataset goes."""
        return self._kept / f"{number:06d}.segments"

    @property
    def _kept(self) -> Path:
        return self.target.segments if self.target else self.shards

    def begun(self) -> list[int]:
        """Shards of which there are such rows, or were."""
        names = [path.stem for path in self._kept.glob("*.segments")]
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def data(self, split: str, number: int, count: int, suffix: str) -> Path:
        """The names that `datasets` itself gives: save_to_disk's for Arrow, the Hub's for Parquet and tars."""
        if suffix != ".arrow":
            return self.root / "data" / f"{split}-{number:05d}-of-{count:05d}{suffix}"
        return self.root / split / f"data-{number:05d}-of-{count:05d}.arrow"

    def __str__(self) -> str:
        """What the user called it."""
        return str(self.target.remote if self.target else self.root)

    @property
    def url(self) -> str | None:
        """Where the dataset goes, if not here."""
        return str(self.target.remote) if self.target else None

    def begin(self) -> None:
        """What is left to do once the plan is on this disk. Raises TargetFault."""
        if self.target:
            self.target.begin(self.root)

    def gather(self) -> None:
        """What other machines have committed is seen here."""
        if self.target:
            self.target.gather(self.root)

    def staging(self, name: str, digest: str = "") -> Layout:
        """Where what comes into this finished dataset is built. digest: of what is asked for: at a URL each has a place of its own."""
        beside = self.beside(name, digest)
        if beside.target:
            beside.target.restore(beside.root)
        return beside

    def beside(self, name: str, digest: str = "") -> Layout:
        """The same place, as it was left on this machine."""
        return Layout(self.private / name, self.target and self.target.staging("-".join(filter(None, (name, digest)))))

    def discard(self) -> None:
        """Nothing is left of what was built there."""
        remove_tree(self.root, ignore_errors=True)
        if self.target:
            self.target.discard()

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """In the block the files of a finished dataset become others; at a URL that is seen at its end, all at once."""
        if self.target:
            self.target.begin_exchange(self.root)
        yield
        self.publish([])

    def publish(self, rows: Iterable[str]) -> None:
        """What is left to do once the dataset is finished on this disk. rows: its files of rows. Raises TargetFault."""
        if self.target:
            self.target.publish(self.root, rows)

    def reopen(self, note: Path) -> None:
        """Shards of this finished dataset will be built again. note: says which."""
        if self.target:
            self.target.reopen(self.root, note)

    def send_plan(self) -> None:
        """Another plan takes the place of that of a build that has not finished."""
        if self.target:
            self.target.send_plan(self.root)

    def remove_shards(self) -> None:
        """What a dataset that is finished does not need any more."""
        remove_tree(self.shards, ignore_errors=True)
        remove_tree(self._kept, ignore_errors=True)

    def uncommit(self, shards: Sequence[int]) -> None:
        """Shards of a build that has not finished are to be built again."""
        for shard in shards:
            remove_tree(self.shard(shard), ignore_errors=True)
            remove_tree(self.segments(shard), ignore_errors=True)
        if self.target:
            self.target.uncommit(f"{self.shard(shard).relative_to(self.root).as_posix()}.json" for shard in shards)

    def commit_shard(self, number: int) -> None:
        """What is left to do once a shard is complete on this disk. Raises TargetFault."""
        if self.target:
            self.target.send_shard(self.root, self.shard(number))

    def clear(self, keep: Path | None = None) -> None:
        """Remove what a build makes, the plan first; files of others in the folder stay. keep: a folder in `private` that does, too."""
        for path in [self.private / "plan.json", *(self.root / name for name in FILES)]:
            remove(path, missing_ok=True)
        for folder in DATA_FOLDERS:
            remove_tree(self.root / folder, ignore_errors=True)
        for path in self.private.iterdir():
            if path == keep:
                continue
            if path.is_dir():
                remove_tree(path)
            elif path.suffix != ".lock" and path != self.lock:
                remove(path)
        remove_tree(self._kept, ignore_errors=True)

    def missing(self, shards: int) -> list[int]:
        """Which of so many shards are not committed yet; by one look at the folder, however many they are."""
        there = set(os.listdir(self.shards)) if self.shards.exists() else set()
        return [number for number in range(shards) if self.shard(number).name not in there]


def place_files(
    layout: Layout,
    counts: list[Counts],
    features: Mapping[str, Any],
    form: Form,
    plan_id: str,
    rejects: bytes = b"",
) -> Counts:
    """Move the committed shards' files to their final names and write what `datasets` needs beside them.

    features: the columns, as `features` words them. rejects: those of the dataset from which the rows come.
    """
    total, suffix = Counts(), SUFFIXES[form]
    moves: list[tuple[Path, Path]] = []
    for shard in counts:
        total.merge(shard)
    commit(layout.private / "rejects.jsonl", lambda partial: _join(layout, len(counts), rejects, partial))
    for split in SPLITS:
        files = list(_files(layout, counts, split))
        for number, (path, stored) in enumerate(files):
            final = layout.data(split, number, len(files), suffix)
            moves.append((path, final))
            total.files.append(stored | {"name": final.relative_to(layout.root).as_posix()})
    if layout.target:
        layout.target.place_rows(layout.root, moves)
    _move(moves)
    if form == "arrow":
        for split in total.rows:
            _describe_split(layout, split, total, features, _content(layout, plan_id))
        commit_json(layout.root / "dataset_dict.json", {"splits": [split for split in SPLITS if total.rows[split]]})
    return total


def remove_empty_splits(layout: Layout, rows: Collection[str]) -> None:
    """Nothing is left of splits that are not among those with rows, where a dataset had them."""
    for split in set(SPLITS) - set(rows):
        for name in SPLIT_FILES:
            remove(layout.root / split / name, missing_ok=True)
        with suppress(OSError):  # there is none, or it holds files of the user's
            remove_folder(layout.root / split)


def _move(moves: list[tuple[Path, Path]]) -> None:
    for path, final in moves:
        make_folder(final.parent)
        if path.exists():
            move(path, final)
        elif not final.exists():
            raise DatasetError(f"{path} is gone; start afresh with --overwrite")


def _files(layout: Layout, counts: list[Counts], split: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for number, shard in enumerate(counts):
        for stored in shard.files:
            if stored["split"] == split:
                yield layout.shard(number) / stored["name"], stored


def _join(layout: Layout, shards: int, rejects: bytes, partial: Path) -> None:
    with partial.open("wb") as joined:
        joined.write(rejects)
        for number in range(shards):
            joined.write((layout.shard(number) / "rejects.jsonl").read_bytes())


def _content(layout: Layout, plan_id: str) -> str:
    """What is in the dataset: of the inputs of a plan those that are no rejects, which may be others once they are tried again."""
    rejects = (layout.private / "rejects.jsonl").read_bytes()
    return f"{plan_id} {sha256(rejects).hexdigest()}"


def _describe_split(layout: Layout, split: str, total: Counts, features: Mapping[str, Any], content: str) -> None:
    """`dataset_info.json` and `state.json`, as `Dataset.save_to_disk` writes them."""
    folder = layout.root / split
    empty = dict.fromkeys(("citation", "description", "homepage", "license"), "")
    commit_json(folder / "dataset_info.json", empty | {"features": dict(features)})
    state: dict[str, Any] = {
        "_data_files": [{"filename": Path(file["name"]).name} for file in total.files if file["split"] == split],
        "_fingerprint": sha256(f"{content} {split}".encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    commit_json(folder / "state.json", state)
