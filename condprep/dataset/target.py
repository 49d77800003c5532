"""A dataset that is built at a URL: its shards go there as they are finished, and the working folder here stays small.

    URL/.condprep/lock.json                  who builds it
    URL/.condprep/plan.json plan.parquet
    URL/.condprep/shards/000012/*.arrow      the rows of a shard
    URL/.condprep/shards/000012.json         its manifest, put last: that is the commit

At the end the store itself copies the rows to their final names, then come the records, then `dataset_dict.json` and the
card, and `done.json` last. What is at the URL is the truth: each run begins with an empty working folder, and fetches plan and manifests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from pathlib import Path
from secrets import token_hex
from typing import Any

from condprep.dataset.remote import ROWS, is_inside, stand_in, watch
from condprep.errors import DatasetError
from condprep.runtime.cache import cache_dir
from condprep.runtime.storage import Remote, place
from condprep.runtime.stores import Status
from condprep.runtime.upload import check_writable, copy, create, put, remove, send

PRIVATE = ".condprep"
LOCK, PLAN, LISTING, DONE = (f"{PRIVATE}/{name}" for name in ("lock.json", "plan.json", "plan.parquet", "done.json"))
SHARDS = f"{PRIVATE}/shards"
_OF_PLAN = re.compile(r"\.condprep/plan(\.json|(-\d+)?\.parquet)")
LAST = ("dataset_dict.json", "README.md", DONE)  # of what is published, in this order
AT_ONCE = 16  # requests side by side


@dataclass(frozen=True)
class Target:
    """Where the dataset goes. Picklable: processes of one build send their own shards."""

    remote: Remote

    @classmethod
    def at(cls, url: str) -> Target:
        """Raises UsageError where nothing can be written."""
        remote = place(url)
        assert isinstance(remote, Remote)  # the caller has looked
        check_writable(remote)
        return cls(remote)

    @property
    def folder(self) -> Path:
        """The working folder on this machine."""
        return cache_dir() / "targets" / sha256(str(self.remote).encode()).hexdigest()[:32] / "ds"

    @contextmanager
    def claimed(self, break_lock: bool = False) -> Iterator[None]:
        """Nobody else builds it meanwhile. Raises DatasetError that names who does."""
        me = {"host": socket.gethostname(), "pid": os.getpid(), "token": token_hex(8), "since": _now()}
        lock, data = self.remote / LOCK, json.dumps(me).encode()
        if not create(lock, data):
            owner = self._owner()
            if owner.get("token") != me["token"] and not (break_lock or _is_gone(owner)):
                raise DatasetError(
                    f"{self.remote} is being built by process {owner.get('pid')} on {owner.get('host')} since "
                    f"{owner.get('since')}; wait for it, or if that is gone, take over with --break-lock"
                )
            put(lock, data)
        try:
            yield
        finally:
            if self._owner().get("token") == me["token"]:
                remove(lock)

    def restore(self, root: Path) -> None:
        """An empty working folder, then what is at the URL: the plan, and of each committed shard its records.

        Raises DatasetError where others' files lie there.
        """
        shutil.rmtree(root, ignore_errors=True)
        (root / PRIVATE).mkdir(parents=True)
        there = self._listed()
        if there.keys() - {LOCK} and not any(name.startswith(f"{PRIVATE}/") for name in there.keys() - {LOCK}):
            raise DatasetError(
                f"{self.remote} is not empty and was not made by condprep; choose another --out or empty it yourself"
            )
        if PLAN not in there:
            return
        records = [name for name in there if name.startswith(f"{PRIVATE}/") and not name.startswith(f"{SHARDS}/")]
        for name in records if DONE in there else [name for name in records if _OF_PLAN.fullmatch(name)]:
            if name != LOCK:
                (root / name).write_bytes((self.remote / name).read_bytes())
        rows = [name for name in there if DONE in there and name.endswith(ROWS) and PRIVATE not in name]
        for name in rows:
            (root / name).parent.mkdir(exist_ok=True)
            stand_in(root / name, there[name])
        if DONE in there:
            self._remove_shards(there)  # which a run that was stopped at its very end has left
        else:
            manifests = [name for name in there if re.fullmatch(rf"{SHARDS}/\d+\.json", name)]
            _all(lambda name: self._restore_shard(root, name, there), manifests)
        watch(root, str(self.remote), self.remote)

    def _restore_shard(self, root: Path, name: str, there: dict[str, Status]) -> None:
        """Raises DatasetError where the manifest is damaged. A shard whose rows are not there is built again."""
        data = (self.remote / name).read_bytes()
        try:
            manifest = json.loads(data)
            files = {f"{name.removesuffix('.json')}/{one['name']}": int(one["size"]) for one in manifest["files"]}
            counts, rejects = str(manifest["counts"]), str(manifest["rejects"])
        except (ValueError, KeyError, TypeError):
            raise DatasetError(
                f"{self.remote}/{name} is damaged; remove it, and the same command builds it again"
            ) from None
        if any(file not in there or there[file].size != size for file, size in files.items()):
            return
        folder = root / name.removesuffix(".json")
        folder.mkdir(parents=True)
        for file in files:
            stand_in(root / file, there[file])
        (folder / "rejects.jsonl").write_text(rejects, encoding="utf-8")
        (folder / "counts.json").write_text(counts, encoding="utf-8")

    def begin(self, root: Path) -> None:
        """The plan goes first: what is there is a build that has begun. A plan that is there already stays."""
        if PLAN not in self._listed():
            for path in sorted((root / PRIVATE).glob("plan*.parquet")):
                send(path, self.remote / PRIVATE / path.name)
            send(root / PLAN, self.remote / PLAN)

    def clear(self) -> None:
        """Remove what a build makes, the plan first; files of others stay, and the old listing says that the place is ours."""
        there = self._listed()
        records = [name for name in there if name.startswith(f"{PRIVATE}/") and name != LOCK]
        if not records:
            return
        remove(self.remote / PLAN)
        own = re.compile(r"(train|validation|test|data)/.+|dataset_dict\.json|README\.md")
        gone = [name for name in there if own.fullmatch(name)] + [name for name in records if name != LISTING]
        _all(lambda name: remove(self.remote / name), gone)

    def send_shard(self, root: Path, folder: Path) -> None:
        """Commit a shard that was finished here. Its rows are at the URL then, and no longer here."""
        name = folder.relative_to(root).as_posix()
        files: list[dict[str, Any]] = []
        for path in sorted(path for path in folder.iterdir() if path.suffix in ROWS):
            send(path, self.remote / f"{name}/{path.name}")
            with path.open("rb") as file:
                digest = file_digest(file, "sha256").hexdigest()
            files.append({"name": path.name, "size": path.stat().st_size, "sha256": digest})
        records = {kind: (folder / file).read_text(encoding="utf-8") for kind, file in _RECORDS.items()}
        put(self.remote / f"{name}.json", json.dumps({"files": files} | records, sort_keys=True).encode())
        for one in files:
            stand_in(folder / one["name"], Status(one["size"], one["sha256"]))

    def place_rows(self, root: Path, moves: Sequence[tuple[Path, Path]]) -> None:
        """Copy the rows to their final names, those that are not there yet. moves: files of the working folder."""
        there = self._listed()

        def move(names: tuple[str, str]) -> None:
            shard, final = names
            if final not in there or (shard in there and there[final].size != there[shard].size):
                copy(self.remote / shard, self.remote / final)

        _all(move, [(old.relative_to(root).as_posix(), new.relative_to(root).as_posix()) for old, new in moves])
        self.remote.forget()
        watch(root, str(self.remote), self.remote)

    def publish(self, root: Path, rows: Iterable[str]) -> None:
        """All but the rows: records, then what makes a dataset of it, then `done.json`. Then the shards are not needed."""
        kept = {*rows, LISTING, PLAN, f"{PRIVATE}/lock"}
        names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]
        for name in [name for name in names if name not in (*kept, *LAST) and not name.startswith(f"{SHARDS}/")]:
            send(root / name, self.remote / name)
        for name in LAST:
            if (root / name).exists():
                send(root / name, self.remote / name)
        self._remove_shards(self._listed())
        self.remote.forget()

    def _remove_shards(self, there: Iterable[str]) -> None:
        _all(lambda name: remove(self.remote / name), [name for name in there if name.startswith(f"{SHARDS}/")])

    def _listed(self) -> dict[str, Status]:
        self.remote.forget()
        names = [f"{folder}{name}" for folder, found in self.remote.listing().items() for name in found]
        return {name: (self.remote / name).status() for name in names if is_inside(name)}

    def _owner(self) -> dict[str, Any]:
        """Who has the lock; nothing where nobody has."""
        self.remote.forget()
        try:
            found = json.loads((self.remote / LOCK).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


_RECORDS = {"counts": "counts.json", "rejects": "rejects.jsonl"}  # of a shard


def _all(do: Callable[[Any], None], these: Sequence[Any]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(do, these):
            pass


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether it was a process of this machine that has ended."""
    if not owner:
        return True
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("pid"), int):
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
