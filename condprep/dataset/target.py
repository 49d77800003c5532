"""A dataset that is built at a URL: its shards go there as they are finished, and the working folder here stays small.

    URL/.condprep/lock.json                  who builds it, or parts of it (`claims`)
    URL/.condprep/plan.json plan.parquet
    URL/.condprep/shards/000012/*.arrow      the rows of a shard
    URL/.condprep/shards/000012.json         its manifest, put last: that is the commit

At the end the store itself copies the rows to their final names, then come the records, then `dataset_dict.json` and the
card, and `done.json` last. What is at the URL is the truth: each run begins with an empty working folder, and fetches plan and manifests.

What is added to a finished dataset, or takes its place, is built beside it in the same way (`staging`: URL/.condprep/append, ...into-1f0c),
and comes into it by an `exchange`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import file_digest, sha256
from itertools import chain, count, takewhile
from pathlib import Path
from secrets import token_hex
from typing import Any

from condprep.dataset import exchange
from condprep.dataset.claims import LOCK, PARTS, Claims, is_claim, parse_part_name
from condprep.dataset.exchange import DONE, LAST, LISTING, PLAN, PRIVATE, RETRY, SPLITTING, do_all, is_record
from condprep.dataset.remote import MOVING, ROWS, is_inside, is_moving, mark_as, remember, stand_in, watch
from condprep.errors import DatasetError
from condprep.runtime.cache import cache_dir
from condprep.runtime.local_copies import hold_folder, let_go
from condprep.runtime.locks import Held, hold
from condprep.runtime.storage import Remote, place
from condprep.runtime.stores import Status
from condprep.runtime.upload import check_writable, copy, put, remove, send

SHARDS = f"{PRIVATE}/shards"
PLAN_FILE, LISTING_FILE = (name.removeprefix(f"{PRIVATE}/") for name in (PLAN, LISTING))
# what a run that goes on needs; of a curation what was found and decided, too
_OF_PLAN = re.compile(
    r"\.condprep/((plan|split)\.json|plan(-\d+)?\.parquet|decisions\.parquet|notes\.json|source\.verify\..+)"
)


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

    @property
    def scores(self) -> Path:
        """Where what a verification has found is kept on this machine, also of one that is stopped."""
        return self._cache / "found" / "source.verify.parquet"

    def staging(self, name: str) -> Target:
        """What is built beside the dataset, to come into it."""
        return Target(self.remote / f"{PRIVATE}/{name}")

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
            used = hold_folder(self.folder.parent)
            try:
                yield
            finally:
                let_go(used)

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
        if not self.part:
            exchange.complete(self.remote)
        listed = self._listed()
        there = {name: status for name, status in listed.items() if not is_claim(name)}
        if there and not any(name.startswith(f"{PRIVATE}/") for name in there):
            raise DatasetError(
                f"{self.remote} is not empty and was not made by condprep; choose another --out or empty it yourself"
            )
        if f"{PRIVATE}/{MOVING}" in there:
            raise DatasetError(f"{self.remote} is being changed; run the command that does it again, and it ends")
        if not {PLAN, SPLITTING} & there.keys():
            return
        if DONE in there:
            self._restore_finished(root, there)
            gone = exchange.leftovers(there)
            gone += [] if self.part else [name for name in listed if name.startswith(f"{PARTS}/")]
            do_all(lambda name: remove(self.remote / name), gone)  # of a run that was stopped at its very end
            return
        for name in filter(_OF_PLAN.fullmatch, there):
            self._fetch(root, name, there[name])
        for number, of in filter(None, map(parse_part_name, listed)):
            (root / PRIVATE / f"part-{number}-of-{of}.lock").touch()
        self._restore_shards(root, there)

    def _restore_finished(self, root: Path, there: dict[str, Status]) -> None:
        for name in filter(is_record, there):
            self._fetch(root, name, there[name])
        for name in [name for name in there if name.endswith(ROWS) and not is_record(name) and PRIVATE not in name]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            stand_in(root / name, there[name])

    def _fetch(self, root: Path, name: str, status: Status) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((self.remote / name).read_bytes(status))
        mark_as(root / name, status)

    def fetch_plan(self, root: Path) -> bool:
        """Have the plan in a working folder, that of shards which are built again where there is one; whether there is any by now."""
        self.remote.forget()
        folders = [folder for folder in (SHARDS, PRIVATE) if (self.remote / f"{folder}/{PLAN_FILE}").is_file()]
        if not folders:
            return False
        (root / PRIVATE).mkdir(parents=True, exist_ok=True)
        names = chain([LISTING_FILE], (f"plan-{number:05d}.parquet" for number in count(1)))
        there = takewhile(lambda name: (self.remote / f"{folders[0]}/{name}").is_file(), names)
        for name in chain(there, [PLAN_FILE]):
            (root / PRIVATE / name).write_bytes((self.remote / f"{folders[0]}/{name}").read_bytes())
        return True

    def gather(self, root: Path) -> None:
        """What other processes have committed since the working folder was made is seen there."""
        self._restore_shards(root, self._listed())

    def _restore_shards(self, root: Path, there: dict[str, Status]) -> None:
        number, of = self.part or (0, 1)
        found = ((name, re.fullmatch(rf"{SHARDS}/(\d+)\.json", name)) for name in there)
        manifests = [name for name, shard in found if shard and int(shard[1]) % of == number]
        missing = [name for name in manifests if not (root / name.removesuffix(".json")).exists()]
        do_all(lambda name: self._restore_shard(root, name, there), missing)

    def _restore_shard(self, root: Path, name: str, there: dict[str, Status]) -> None:
        """Raises DatasetError where the manifest is damaged. A shard whose rows are not there is built again."""
        data = (self.remote / name).read_bytes()
        try:
            manifest = json.loads(data)
            files = {f"{name.removesuffix('.json')}/{one['name']}": int(one["size"]) for one in manifest["files"]}
            records = {
                file: str(manifest[kind]) for kind, file in _RECORDS.items() if kind in manifest or kind != "repairs"
            }
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
        for file, text in records.items():
            (folder / file).write_text(text, encoding="utf-8")

    def begin(self, root: Path) -> None:
        """The plan goes first: what is there is a build that has begun. A plan that is there already stays."""
        self.remote.forget()
        if not any((self.remote / name).is_file() for name in (PLAN, SPLITTING)):
            self.send_plan(root)

    def send_plan(self, root: Path, folder: str = PRIVATE) -> None:
        """The file last that says that there is one. folder: at the URL."""
        found = [path for path in (root / PRIVATE).iterdir() if _OF_PLAN.fullmatch(f"{PRIVATE}/{path.name}")]
        for path in sorted(found, key=lambda path: f"{PRIVATE}/{path.name}" in (PLAN, SPLITTING)):
            send(path, self.remote / folder / path.name)

    def hand_out_plan(self, root: Path) -> None:
        """Other machines will build by the plan in the working folder; a finished dataset keeps its own until they have."""
        self.remote.forget()
        if (self.remote / DONE).is_file():
            self.send_plan(root, SHARDS)

    def reopen(self, root: Path, note: Path) -> None:
        """Shards of a finished dataset are built again, which stays as it is until they all are. note: says which."""
        remember(root)
        said = note.read_bytes()
        self.remote.forget()
        if not (self.remote / RETRY).is_file() or (self.remote / RETRY).read_bytes() != said:
            self.uncommit([name for name in self._listed() if name.startswith(f"{SHARDS}/")])
            put(self.remote / RETRY, said)

    def uncommit(self, names: Iterable[str]) -> None:
        """Shards are not there any more. names: of their objects, of which the manifests go."""
        do_all(lambda name: remove(self.remote / name), [name for name in names if name.endswith(".json")])

    def discard(self) -> None:
        """What is built beside a dataset is of no use any more."""
        shutil.rmtree(self.segments, ignore_errors=True)
        exchange.discard(self.remote)

    def begin_exchange(self, root: Path) -> None:
        """From here on the files of the working folder are what the dataset will be, once `publish` says so."""
        remember(root)

    def clear(self) -> None:
        """Remove what a build makes, the plan first; files of others stay, and the old listing says that the place is ours."""
        there = self._listed()
        records = [name for name in there if name.startswith(f"{PRIVATE}/") and name != LOCK]
        shutil.rmtree(self.segments, ignore_errors=True)
        if not records:
            return
        for name in (f"{PRIVATE}/{MOVING}", PLAN):
            remove(self.remote / name)
        own = re.compile(r"(train|validation|test|data)/.+|dataset_dict\.json|README\.md")
        gone = [name for name in there if own.fullmatch(name)] + [name for name in records if name != LISTING]
        do_all(lambda name: remove(self.remote / name), gone)

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
        found = {kind: folder / file for kind, file in _RECORDS.items() if (folder / file).exists()}
        records = {kind: path.read_text(encoding="utf-8") for kind, path in found.items()}
        put(self.remote / f"{name}.json", json.dumps({"files": files} | records, sort_keys=True).encode())
        sent.touch()
        for one in files:
            stand_in(folder / one["name"], Status(one["size"], one["sha256"]))

    def place_rows(self, root: Path, moves: Sequence[tuple[Path, Path]]) -> None:
        """Copy the rows to their final names, those that are not there yet. moves: files of the working folder."""
        if is_moving(root):
            if root == self.folder:
                remember(root)  # shards that were built since
            return
        there = self._listed()

        def move(names: tuple[str, str]) -> None:
            shard, final = names
            if final not in there or (shard in there and there[final].size != there[shard].size):
                copy(self.remote / shard, self.remote / final)

        do_all(move, [(old.relative_to(root).as_posix(), new.relative_to(root).as_posix()) for old, new in moves])
        self.remote.forget()
        watch(root, str(self.remote), self.remote)

    def publish(self, root: Path, rows: Iterable[str]) -> None:
        """All but the rows: records, then what makes a dataset of it, then `done.json`. Then the shards are not needed."""
        if is_moving(root):
            if root == self.folder:
                exchange.commit(self.remote, root, self._listed())
            return
        kept = {*rows, LISTING, PLAN, f"{PRIVATE}/lock"}
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".lock"]
        names = [path.relative_to(root).as_posix() for path in files]
        for name in [name for name in names if name not in (*kept, *LAST) and not name.startswith(f"{SHARDS}/")]:
            send(root / name, self.remote / name)
        for name in LAST:
            if (root / name).exists():
                send(root / name, self.remote / name)
        gone = [name for name in self._listed() if name.startswith((f"{SHARDS}/", f"{PARTS}/"))]
        do_all(lambda name: remove(self.remote / name), gone)
        self.remote.forget()

    def _listed(self) -> dict[str, Status]:
        self.remote.forget()
        names = [f"{folder}{name}" for folder, found in self.remote.listing().items() for name in found]
        return {name: (self.remote / name).status() for name in names if is_inside(name)}


_living = ExitStack()  # what this process holds until its end
_RECORDS = {
    "counts": "counts.json",
    "rejects": "rejects.jsonl",
    "repairs": "repairs.jsonl",
}  # of a shard; the last not of each
