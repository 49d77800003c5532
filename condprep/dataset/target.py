"""A dataset that is built at a URL: its shards go there as they are finished, and the working folder here stays small.

    URL/.condprep/lock.json                  who builds it, or parts of it (`claims`)
    URL/.condprep/plan.json plan.parquet
    URL/.condprep/shards/000012/*.arrow      the rows of a shard
    URL/.condprep/shards/000012.json         its manifest, put last: that is the commit

At the end the store itself copies the rows to their final names, then come the records, then `dataset_dict.json` and the
card, and `done.json` last. What is at the URL is the truth: each run begins with an empty working folder, and fetches plan and manifests.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import file_digest, sha256
from itertools import chain, count, takewhile
from pathlib import Path
from secrets import token_hex
from typing import Any

from condprep.dataset.claims import LOCK, PARTS, Claims, is_claim, parse_part_name
from condprep.dataset.remote import ROWS, is_inside, stand_in, watch
from condprep.errors import DatasetError
from condprep.runtime.cache import cache_dir
from condprep.runtime.locks import Held, hold
from condprep.runtime.storage import Remote, place
from condprep.runtime.stores import Status
from condprep.runtime.upload import check_writable, copy, put, remove, send

PRIVATE = ".condprep"
PLAN, LISTING, DONE = (f"{PRIVATE}/{name}" for name in ("plan.json", "plan.parquet", "done.json"))
SHARDS = f"{PRIVATE}/shards"
_OF_PLAN = re.compile(r"\.condprep/plan(\.json|(-\d+)?\.parquet)")
LAST = ("dataset_dict.json", "README.md", DONE)  # of what is published, in this order
AT_ONCE = 16  # requests side by side


@dataclass(frozen=True)
class Target:
    """Where the dataset goes. Picklable: processes of one build send their own shards."""

    remote: Remote
    part: tuple[int, int] | None = None  # its number, and of how many: only its own shards are fetched
    own: str = ""  # of a process that builds beside others: the name of its working folder

    @classmethod
    def at(cls, url: str, part: tuple[int, int] | None = None) -> Target:
        """Raises UsageError where nothing can be written."""
        remote = place(url)
        assert isinstance(remote, Remote)  # the caller has looked
        check_writable(remote)
        return cls(remote, part, "part-{}-of-{}".format(*part) if part else "")

    @property
    def folder(self) -> Path:
        """The working folder on this machine."""
        return self._cache / self.own / "ds"

    @property
    def segments(self) -> Path:
        """Where rows of shards under way are kept on this machine, whichever process builds them."""
        return self._cache / "segments"

    @property
    def _cache(self) -> Path:
        return cache_dir() / "targets" / sha256(str(self.remote).encode()).hexdigest()[:32]

    @property
    def claims(self) -> Claims:
        return Claims(self.remote)

    def on_a_node(self) -> Target:
        """For a process that builds for another one: a working folder of its own, taken away by one that comes after its end."""
        for lock in self._cache.glob("node-*/lock"):
            with suppress(Held), hold(lock):
                shutil.rmtree(lock.parent)
        token = token_hex(4)
        (new := self._cache / f"new-{token}").mkdir(parents=True)
        _living.enter_context(hold(new / "lock"))
        new.rename(self._cache / f"node-{token}")
        return replace(self, own=f"node-{token}")

    @contextmanager
    def claimed(self, break_lock: bool = False) -> Iterator[None]:
        """Nobody else builds it, or this part of it, meanwhile. Raises DatasetError that names who does."""
        claim = self.claims.part(*self.part, break_lock, self._is_begun) if self.part else self.claims.whole(break_lock)
        with claim:
            yield

    def _is_begun(self) -> bool:
        self.remote.forget()
        return (self.remote / PLAN).is_file() and not (self.remote / DONE).is_file()

    def restore(self, root: Path) -> None:
        """An empty working folder, then what is at the URL: the plan, and of each committed shard its records.

        Raises DatasetError where others' files lie there.
        """
        shutil.rmtree(root, ignore_errors=True)
        (root / PRIVATE).mkdir(parents=True)
        watch(root, str(self.remote), self.remote)
        listed = self._listed()
        there = {name: status for name, status in listed.items() if not is_claim(name)}
        if there and not any(name.startswith(f"{PRIVATE}/") for name in there):
            raise DatasetError(
                f"{self.remote} is not empty and was not made by condprep; choose another --out or empty it yourself"
            )
        if PLAN not in there:
            return
        records = [name for name in there if name.startswith(f"{PRIVATE}/") and not name.startswith(f"{SHARDS}/")]
        for name in records if DONE in there else [name for name in records if _OF_PLAN.fullmatch(name)]:
            (root / name).write_bytes((self.remote / name).read_bytes())
        rows = [name for name in there if DONE in there and name.endswith(ROWS) and PRIVATE not in name]
        for name in rows:
            (root / name).parent.mkdir(exist_ok=True)
            stand_in(root / name, there[name])
        if DONE in there:
            self._remove_leftovers(there if self.part else listed)  # of a run that was stopped at its very end
            return
        for number, of in filter(None, map(parse_part_name, listed)):
            (root / PRIVATE / f"part-{number}-of-{of}.lock").touch()
        self._restore_shards(root, there)

    def fetch_plan(self, root: Path) -> bool:
        """Have the plan in a working folder; whether there is one by now."""
        self.remote.forget()
        if not (self.remote / PLAN).is_file():
            return False
        names = chain([LISTING], (f"{PRIVATE}/plan-{number:05d}.parquet" for number in count(1)))
        for name in takewhile(lambda name: (self.remote / name).is_file(), names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((self.remote / name).read_bytes())
        (root / PLAN).write_bytes((self.remote / PLAN).read_bytes())
        return True

    def gather(self, root: Path) -> None:
        """What other processes have committed since the working folder was made is seen there."""
        self._restore_shards(root, self._listed())

    def _restore_shards(self, root: Path, there: dict[str, Status]) -> None:
        number, of = self.part or (0, 1)
        found = ((name, re.fullmatch(rf"{SHARDS}/(\d+)\.json", name)) for name in there)
        manifests = [name for name, shard in found if shard and int(shard[1]) % of == number]
        missing = [name for name in manifests if not (root / name.removesuffix(".json")).exists()]
        _all(lambda name: self._restore_shard(root, name, there), missing)

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
        self.remote.forget()
        if not (self.remote / PLAN).is_file():
            for path in sorted((root / PRIVATE).glob("plan*.parquet")):
                send(path, self.remote / PRIVATE / path.name)
            send(root / PLAN, self.remote / PLAN)

    def clear(self) -> None:
        """Remove what a build makes, the plan first; files of others stay, and the old listing says that the place is ours."""
        there = self._listed()
        records = [name for name in there if name.startswith(f"{PRIVATE}/") and name != LOCK]
        shutil.rmtree(self.segments, ignore_errors=True)
        if not records:
            return
        remove(self.remote / PLAN)
        own = re.compile(r"(train|validation|test|data)/.+|dataset_dict\.json|README\.md")
        gone = [name for name in there if own.fullmatch(name)] + [name for name in records if name != LISTING]
        _all(lambda name: remove(self.remote / name), gone)

    def send_shard(self, root: Path, folder: Path) -> None:
        """Commit a shard that was finished here. Its rows are at the URL then, and no longer here."""
        if (sent := folder / "sent").exists():  # by a process that died before it could say so: its rows are stand-ins
            return
        name = folder.relative_to(root).as_posix()
        files: list[dict[str, Any]] = []
        for path in sorted(path for path in folder.iterdir() if path.suffix in ROWS):
            send(path, self.remote / f"{name}/{path.name}")
            with path.open("rb") as file:
                digest = file_digest(file, "sha256").hexdigest()
            files.append({"name": path.name, "size": path.stat().st_size, "sha256": digest})
        records = {kind: (folder / file).read_text(encoding="utf-8") for kind, file in _RECORDS.items()}
        put(self.remote / f"{name}.json", json.dumps({"files": files} | records, sort_keys=True).encode())
        sent.touch()
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
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".lock"]
        names = [path.relative_to(root).as_posix() for path in files]
        for name in [name for name in names if name not in (*kept, *LAST) and not name.startswith(f"{SHARDS}/")]:
            send(root / name, self.remote / name)
        for name in LAST:
            if (root / name).exists():
                send(root / name, self.remote / name)
        self._remove_leftovers(self._listed())
        self.remote.forget()

    def _remove_leftovers(self, there: Iterable[str]) -> None:
        """The dataset is finished: its shards, and what says who built which part, are not needed any more."""
        gone = [name for name in there if name.startswith((f"{SHARDS}/", f"{PARTS}/"))]
        _all(lambda name: remove(self.remote / name), gone)

    def _listed(self) -> dict[str, Status]:
        self.remote.forget()
        names = [f"{folder}{name}" for folder, found in self.remote.listing().items() for name in found]
        return {name: (self.remote / name).status() for name in names if is_inside(name)}


_living = ExitStack()  # what this process holds until its end
_RECORDS = {"counts": "counts.json", "rejects": "rejects.jsonl"}  # of a shard


def _all(do: Callable[[Any], None], these: Sequence[Any]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(do, these):
            pass
