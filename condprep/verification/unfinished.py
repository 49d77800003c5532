"""What a verification has measured so far: kept beside its scores while it goes on, so that one that is stopped is gone on with.

Pieces of some seconds' work are files, each complete or not there. They lie in the dataset, which may come from anybody, so
they are read only where this user's own key has sealed them, for the same question about the same files.
"""

from __future__ import annotations

import hmac
import json
import os
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from secrets import token_bytes
from typing import Any, Literal

import numpy as np

from condprep.runtime.cache import cache_dir
from condprep.runtime.files import commit_text, read_json
from condprep.runtime.locks import Held, hold
from condprep.runtime.own import claim, make_folder, remove, remove_tree

KEEP_EVERY = 20.0  # seconds of work that a killed process loses
Kind = Literal["maps", "rows"]  # that were made again in a pass over some rows; of the pass over all
PLAIN = (type(None), bool, int, float, str)
KEY_BYTES = 32


class Unfinished:
    """Of one verification, which takes it up with `with` and says `forget` at its end. One process has it; others do without."""

    def __init__(self, scores: Path, question: Mapping[str, Any]) -> None:
        """scores: the file that it ends with. question: everything that its numbers depend on, as JSON."""
        self.folder = folder_of(scores)
        if scores.parent.name == ".condprep":  # of a dataset, in which nothing is reached through a link
            claim(scores.parent.parent)
        self.question = sha256(json.dumps(question, sort_keys=True, default=str).encode()).hexdigest()
        self.total: int | None = None  # rows that there will be, where that is known
        self._mine, self._held, self._given_up = ExitStack(), False, False
        self._files: dict[Kind, list[Path]] = {"maps": [], "rows": []}
        self._counts: dict[Kind, int] = {"maps": 0, "rows": 0}
        self._read = dict(self._counts)  # what was there at the beginning
        self._waiting: dict[Kind, list[str]] = {"maps": [], "rows": []}
        self._whole: dict[Kind, int] = {"maps": 0, "rows": 0}

    def __enter__(self) -> Unfinished:
        self._kept_at = time.monotonic()
        if self.folder.is_symlink():
            remove(self.folder)
        if self.folder.is_dir() and self._take():
            self._look()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """What was stopped keeps what it has."""
        with self._mine:
            if kind is not None:
                self._keep()

    def known(self, kind: Kind) -> int:
        """How many values `read` gives."""
        return self._read[kind]

    def read(self, kind: Kind) -> Iterator[Any]:
        """What was given to `add` before, in that order."""
        for path in self._files[kind]:
            for line in path.read_text(encoding="utf-8").splitlines()[:-1]:
                yield _value(json.loads(line))

    def add(self, kind: Kind, value: Any, whole: bool = True) -> None:
        """whole: whether what was added up to here can be gone on from."""
        if self._given_up:
            return
        self._waiting[kind].append(json.dumps(_plain(value)))
        if whole:
            self._whole[kind] = len(self._waiting[kind])
            if time.monotonic() - self._kept_at >= KEEP_EVERY:
                self._keep()

    def give_up(self) -> None:
        """From here on nothing is kept: what follows depends on more than the question."""
        self._given_up = True

    def forget(self) -> None:
        """It has ended."""
        if self.folder.is_dir() and not self.folder.is_symlink() and (self._held or self._take()):
            remove_tree(self.folder, ignore_errors=True)

    def _take(self) -> bool:
        """Whether nobody else has it."""
        try:
            self._mine.enter_context(hold(self.folder / "lock"))
        except Held:
            self._given_up = True
            return False
        self._held = True
        return True

    def _look(self) -> None:
        """Take up what is there, or remove it where it answers another question."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            if read_json(self.folder / "asked.json")["question"] == self.question:
                for kind in self._files:
                    self._find(kind)
                self._read = dict(self._counts)
                return
        self._clear()

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name != "lock":
                remove(path)

    def _find(self, kind: Kind) -> None:
        """The files that follow each other without a gap, with the right seals."""
        for path in sorted(self.folder.glob(f"{kind}-*.jsonl")):
            lines = path.read_bytes().splitlines(keepends=True)
            name = _name(kind, self._counts[kind], len(lines) - 1)
            if path.name == name and hmac.compare_digest(lines[-1], self._seal(name, b"".join(lines[:-1])).encode()):
                self._files[kind].append(path)
                self._counts[kind] += len(lines) - 1
            else:
                remove(path)

    def _keep(self) -> None:
        self._kept_at = time.monotonic()
        if self._given_up or not any(self._whole.values()):
            return
        if not self._held:
            make_folder(self.folder)
            if not self._take():
                return
            self._clear()
        if not (self.folder / "asked.json").exists():
            commit_text(self.folder / "asked.json", json.dumps({"question": self.question, "total": self.total}))
        for kind, whole in self._whole.items():
            if whole:
                lines = "".join(f"{line}\n" for line in self._waiting[kind][:whole])
                name = _name(kind, self._counts[kind], whole)
                commit_text(self.folder / name, lines + self._seal(name, lines.encode()))
                del self._waiting[kind][:whole]
                self._counts[kind] += whole
                self._whole[kind] = 0

    @cached_property
    def _key(self) -> bytes:
        return _own_key()

    def _seal(self, name: str, lines: bytes) -> str:
        return hmac.new(self._key, f"{self.question} {name} ".encode() + lines, sha256).hexdigest()


def folder_of(scores: Path) -> Path:
    return scores.with_name(f"{scores.name}.begun")


def kept_rows(scores: Path) -> str | None:
    """How much of a verification that was stopped is on disk, in words."""
    found = dict.fromkeys(("maps", "rows"), 0)
    for path in folder_of(scores).glob("*-*-*.jsonl"):
        kind, _, count = path.stem.split("-")
        found[kind] = found.get(kind, 0) + int(count)
    with suppress(OSError, ValueError, KeyError):
        total = read_json(folder_of(scores) / "asked.json")["total"]
        if found["rows"]:
            return f"{found['rows']:,} of {total:,} rows are kept" if total else f"{found['rows']:,} rows are kept"
        if found["maps"]:
            return f"{found['maps']:,} maps that were made again are kept"
    return None


def _name(kind: Kind, first: int, count: int) -> str:
    return f"{kind}-{first:010d}-{count}.jsonl"


def _own_key() -> bytes:
    """A secret of this user's, by which files are known that nobody else has made; of this process alone where none can be stored."""
    path = cache_dir() / "key"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(token_bytes(KEY_BYTES))
        key = path.read_bytes()
        if len(key) == KEY_BYTES:
            return key
        path.unlink()
    return token_bytes(KEY_BYTES)


def _plain(value: Any) -> Any:
    """As JSON, so that `_value` gives back the same to the last bit. Raises TypeError for what it does not know."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(one) for one in value]}
    if isinstance(value, Mapping):
        return {"mapping": {name: _plain(one) for name, one in value.items()}}
    if isinstance(value, bytes):
        return {"bytes": b64encode(value).decode()}
    if isinstance(value, np.ndarray | np.generic):
        shape = list(value.shape) if isinstance(value, np.ndarray) else None
        return {"array": b64encode(value.tobytes()).decode(), "dtype": value.dtype.str, "shape": shape}
    raise TypeError(f"{type(value).__name__} cannot be kept")


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(one) for one in plain]
    if not isinstance(plain, dict):
        return plain
    if "tuple" in plain:
        return tuple(map(_value, plain["tuple"]))
    if "mapping" in plain:
        return {name: _value(one) for name, one in plain["mapping"].items()}
    if "bytes" in plain:
        return b64decode(plain["bytes"])
    array = np.frombuffer(b64decode(plain["array"]), plain["dtype"])
    return array[0] if plain["shape"] is None else array.reshape(plain["shape"])
