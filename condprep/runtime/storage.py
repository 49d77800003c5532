"""Places: files of this machine, which stay plain Paths, and objects at a URL, which answer the same few questions.

    place("raw/")                  Path("raw")
    place("file:///data/raw")      Path("/data/raw")
    place("s3://bucket/raw")       Remote

A Remote has of a Path what sources ask: `/`, `name`, `suffix`, `parent`, `is_file()`, `open("rb")`. What lies below it is
listed once, by as few requests as there are pages, and kept for whoever asks next. Bytes are read by ranges.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Literal

from condprep.errors import UsageError
from condprep.runtime.hub_store import HubStore
from condprep.runtime.retry import retried
from condprep.runtime.storage_faults import as_storage_error, replaced
from condprep.runtime.stores import FsspecStore, S3Store, Status, Store

# protocol -> the package that speaks it, and the extra of condprep that installs that
PACKAGES = {
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "gcs": ("gcsfs", "gcs"),
    "memory": ("fsspec", ""),
    "hf": ("huggingface_hub", ""),
}
BLOCK = 1 << 14  # bytes that are read at least where a file is walked through: a header of a tar and what is behind it
CHUNK = 8 << 20  # bytes of one request, where all of an object is wanted
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://(.*)", re.IGNORECASE | re.DOTALL)


def is_url(where: object) -> bool:
    """Whether it names an object at a URL, and no file of this machine."""
    found = _URL.match(where) if isinstance(where, str) else None
    return found is not None and found[1].lower() != "file"


def place(where: str | Path | Remote) -> Place:
    """What a user's path or URL leads to. Raises UsageError for a URL of a kind that is not read."""
    if not isinstance(where, str):
        return where
    if not (found := _URL.match(where)):
        return Path(where)
    protocol, path = found[1].lower(), found[2]
    if protocol == "file":
        from urllib.request import url2pathname

        return Path(url2pathname(path.removeprefix("localhost")))
    if not path.strip("/"):
        raise UsageError(f"{where!r} names no bucket; give {protocol}://BUCKET/FOLDER")
    return Remote(protocol, path.strip("/"), store_for(protocol))


def store_for(protocol: str) -> Store:
    """Raises UsageError for a protocol that nobody speaks, and where its package is not installed."""
    if protocol not in PACKAGES:
        known = ", ".join(f"{one}://" for one in (*PACKAGES, "file"))
        raise UsageError(f"{protocol}:// is no kind of storage that is read; known: {known}")
    package, extra = PACKAGES[protocol]
    if find_spec(package) is None:
        raise UsageError(f"{protocol}:// needs {package}: pip install 'condprep[{extra}]'")
    if protocol in ("s3", "s3a"):
        return S3Store()
    return HubStore() if protocol == "hf" else FsspecStore(protocol)


@dataclass(frozen=True)
class Remote:
    """An object, or a folder of objects, at a URL. Picklable; what was listed of it is not pickled."""

    protocol: str
    path: str  # "bucket/folder/name"
    store: Store = field(compare=False, repr=False)
    _known: dict[str, Status] = field(default_factory=dict, compare=False, repr=False)  # paths of objects
    _folders: dict[str, Listing] = field(default_factory=dict, compare=False, repr=False)  # that were listed

    def __str__(self) -> str:
        return f"{self.protocol}://{self.path}"

    def __reduce__(self) -> Any:
        return Remote, (self.protocol, self.path, self.store)

    def __truediv__(self, relative: str) -> Remote:
        return self.at(f"{self.path}/{relative.removesuffix('/')}") if relative else self

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> Remote:
        return self.at(posixpath.dirname(self.path) or self.path)

    def with_suffix(self, suffix: str) -> Remote:
        return self.at(posixpath.splitext(self.path)[0] + suffix)

    def pinned(self) -> Remote:
        """The same by a path that stays what it is: of a repository with versions, the one that it has now."""
        return self.at(retried(partial(self.store.resolved, self.path), str(self)))

    def status(self) -> Status:
        """Of the object, as listed if it was. Raises FileNotFoundError where there is none."""
        if self.path in self._known:
            return self._known[self.path]
        if (above := self._listed_above()) and above[0] != self.path:
            raise as_storage_error(FileNotFoundError(), str(self))
        self._known[self.path] = retried(partial(self.store.status, self.path), str(self))
        return self._known[self.path]

    def is_file(self) -> bool:
        """Whether there is such an object."""
        try:
            self.status()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether there are objects below."""
        return bool(self.listing())

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def has_bucket(self) -> bool:
        """Whether the bucket, or what else holds it, is there."""
        return retried(partial(self.store.has_bucket, self.path), str(self))

    def listing(self) -> Listing:
        """What lies below: folder -> names of folders, which end with a slash, and of objects, sorted. Listed once."""
        if above := self._listed_above():
            folder, listing = above
            below = f"{self.path}/".removeprefix(f"{folder}/")
            own = {name.removeprefix(below): names for name, names in listing.items() if name.startswith(below)}
            return own if below else listing
        self._folders[self.path] = _tree(self._found())
        return self._folders[self.path]

    def forget(self) -> None:
        """Let go of what was listed: a million objects take a quarter of a gigabyte."""
        self._known.clear()
        self._folders.clear()

    def open(self, mode: Literal["rb"] = "rb", block: int = BLOCK, status: Status | None = None) -> IO[bytes]:
        """To be read by ranges, at least `block` bytes at once. status: as listed. Raises FileNotFoundError."""
        return io.BufferedReader(RangeFile(self, status or self.status()), block)

    def read(self, start: int, end: int, mark: str | None = None) -> bytes:
        """Those bytes, of the object with that mark. Raises SourceError where it was replaced."""
        return retried(partial(self._read, start, end, mark), str(self))

    def read_bytes(self, status: Status | None = None, most: int | None = None) -> bytes:
        """All of it, or its first `most` bytes. status: as it was listed; asked for where it is not known."""
        status = status or self.status()
        size = min(status.size, most) if most is not None else status.size
        return self.read(0, size, status.mark)

    def chunks(self, status: Status) -> Iterator[bytes]:
        """All of it, a request at a time."""
        for start in range(0, status.size, CHUNK):
            yield self.read(start, min(start + CHUNK, status.size), status.mark)

    def _read(self, start: int, end: int, mark: str | None) -> bytes:
        if end <= start:
            return b""
        data = self.store.read(self.path, start, end, mark)
        if len(data) != end - start:
            if mark is not None and self.store.status(self.path).mark != mark:
                raise replaced(str(self))
            raise ConnectionError(f"{self}: {len(data)} bytes came instead of {end - start}")
        return data

    def _found(self) -> Iterator[str]:
        for relative, status in self.store.find(self.path):
            self._known[f"{self.path}/{relative}"] = status
            yield relative

    def _listed_above(self) -> tuple[str, Listing] | None:
        """The folder whose listing has this one, and that listing."""
        for folder, listing in self._folders.items():
            if self.path == folder or self.path.startswith(f"{folder}/"):
                return folder, listing
        return None

    def at(self, path: str) -> Remote:
        """Another path of the same store, which shares what was listed."""
        return Remote(self.protocol, path, self.store, self._known, self._folders)


class RangeFile(io.RawIOBase):
    """An object as a file that can be read and moved in; of what is not read, nothing is fetched."""

    def __init__(self, remote: Remote, status: Status) -> None:
        self.name, self._remote, self._status, self._at = str(remote), remote, status, 0
        self._before, self._data = 0, b""  # what was read last: whoever moves back for it asks nobody

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._status.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._status.size)
        if end <= self._at:
            return 0
        if not self._before <= self._at < end <= self._before + len(self._data):
            self._before, self._data = self._at, self._remote.read(self._at, end, self._status.mark)
        data = self._data[self._at - self._before : end - self._before]
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


Place = Path | Remote
Listing = Mapping[str, list[str]]  # folder, "" or with a slash at its end -> names in it, sorted


def _tree(paths: Iterator[str]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for path in paths:
        folder, name = _split(path)
        while name not in (names := found.setdefault(folder, set())):
            names.add(name)
            if not folder:
                break
            folder, name = _split(folder[:-1])
            name += "/"
    return {folder: sorted(names) for folder, names in found.items()}


def _split(path: str) -> tuple[str, str]:
    """A name, and its folder with the slash."""
    cut = path.rfind("/") + 1
    return path[:cut], path[cut:]
