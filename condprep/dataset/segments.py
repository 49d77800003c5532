"""Segments: finished rows of a shard under way, so that a build that is stopped or killed loses little, however large its shards.

    .condprep/shards/000012.segments/00000000-00000350     what became of its inputs 0 to 349
    .condprep/shards/000012.segments/00000350-00000420     of those from there on

A segment is an Arrow stream of the rows, then a record (JSON) of what else a shard needs of them, its length, and a sha256 of all
before. It gets its name once it is complete and on disk. What is damaged, of another plan, or behind a gap is taken away: those
inputs are done again. The last input of a shard is never in one, so that a shard is always finished by who builds it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from condprep.dataset.arrow import record_batch, row_of
from condprep.dataset.shards import Row
from condprep.runtime.arrow_messages import check_arrow
from condprep.runtime.files import commit
from condprep.runtime.own import make_folder, remove, remove_tree
from condprep.types import Reject

_LENGTH, _SHA256 = struct.Struct("<Q"), 32  # bytes at the end: of the record's length, and of the seal
_CHUNK = 1 << 20
Outcome = Row | Reject


@dataclass(frozen=True)
class Again:
    """An input whose row is kept, and which a shard that goes on does once more, for the sake of the batch that it is in."""

    place: int  # in the shard
    weight: int  # bytes that count as having come with it, and after it until the next of these


@dataclass(frozen=True)
class Segment:
    """One segment, whose record was read."""

    path: Path
    first: int
    end: int
    facts: list[list[Any]]  # of each row: what is in it beside its columns
    rejects: list[dict[str, Any]]
    again: tuple[Again, ...]

    def outcomes(self) -> Iterator[Outcome]:
        """Its rows in their order, then its rejects in theirs."""
        facts = iter(self.facts)
        for batch in _batches(self.path):
            for at in range(batch.num_rows):
                split, enlarged, untouched, captioned, note, without = next(facts)
                yield Row(row_of(batch, at), split, enlarged, untouched, captioned, note, tuple(without))
        for one in self.rejects:
            yield Reject(**one)


@dataclass(frozen=True)
class Kept:
    """What is kept of a shard."""

    segments: Sequence[Segment] = ()

    @property
    def end(self) -> int:
        """So many of its inputs are done, from the first one on."""
        return self.segments[-1].end if self.segments else 0

    @property
    def again(self) -> tuple[Again, ...]:
        return self.segments[-1].again if self.segments else ()

    @property
    def codes(self) -> set[str]:
        """Of the rejects."""
        return {str(one.get("code")) for segment in self.segments for one in segment.rejects}

    def outcomes(self) -> Iterator[Outcome]:
        for segment in self.segments:
            yield from segment.outcomes()


@dataclass(frozen=True)
class Segments:
    """The folder of segments of a shard."""

    folder: Path
    plan: str  # its id, which says what is built of what by which annotators
    rows: int  # inputs of the shard

    def write(self, first: int, outcomes: Sequence[Outcome], again: Sequence[Again], schema: pa.Schema) -> None:
        """Keep what became of the inputs from `first` on. Raises OSError."""
        rows = [one for one in outcomes if isinstance(one, Row)]
        facts = [[row.split, row.enlarged, row.untouched, row.captioned, row.note, row.without] for row in rows]
        end = first + len(outcomes)
        record = {"plan": self.plan, "shard": self.folder.name, "first": first, "end": end, "facts": facts}
        record["rejects"] = [asdict(one) for one in outcomes if isinstance(one, Reject)]
        record["again"] = [[one.place, one.weight] for one in again]

        def write(partial: Path) -> None:
            with pa.ipc.new_stream(str(partial), schema) as stream:
                if rows:
                    stream.write_batch(record_batch([row.columns for row in rows], schema))
            _seal(partial, json.dumps(record).encode())

        make_folder(self.folder)
        commit(self.folder / f"{first:08d}-{end:08d}", write)

    def read(self, schema: pa.Schema) -> Kept:
        """What is kept and sound; whatever else lies there is taken away."""
        kept = self._chain(lambda path: _is_sound(path, schema))
        there = {segment.path for segment in kept.segments}
        for path in self._listed():
            if path not in there:
                _remove(path)
        return kept

    def look(self) -> Kept:
        """What is kept by all appearances: no rows are read."""
        return self._chain(lambda _: True)

    def remove(self) -> None:
        remove_tree(self.folder, ignore_errors=True)

    def _chain(self, is_good: Callable[[Path], bool]) -> Kept:
        """Segments that follow each other from the first input on."""
        found: list[Segment] = []
        for path in self._listed():  # of those that begin at the same input, the shortest first
            segment = self._segment(path)
            if segment and segment.first == (found[-1].end if found else 0) and is_good(path):
                found.append(segment)
        return Kept(found)

    def _listed(self) -> list[Path]:
        with suppress(OSError):
            return sorted(self.folder.iterdir())
        return []

    def _segment(self, path: Path) -> Segment | None:
        """None of what is none of this shard and plan."""
        try:
            record = json.loads(_record(path))
            first, end, facts, rejects = (record[name] for name in ("first", "end", "facts", "rejects"))
            again = tuple(Again(int(place), int(weight)) for place, weight in record["again"])
            mine = (record["plan"], record["shard"], path.name) == (
                self.plan,
                self.folder.name,
                f"{first:08d}-{end:08d}",
            )
            complete = 0 <= first < end < self.rows and len(facts) + len(rejects) == end - first
            rejects = [asdict(Reject(**one)) for one in rejects]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        earlier = all(0 <= one.place < end and one.weight >= 0 for one in again)
        return Segment(path, first, end, facts, rejects, again) if mine and complete and earlier else None


def _seal(path: Path, record: bytes) -> None:
    with path.open("ab") as file:
        file.write(record + _LENGTH.pack(len(record)))
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").digest()
    with path.open("ab") as file:
        file.write(digest)


def _record(path: Path) -> bytes:
    """Raises OSError or ValueError."""
    end = _LENGTH.size + _SHA256
    with path.open("rb") as file:
        size = path.stat().st_size
        file.seek(max(0, size - end))
        last = file.read(end)
        if len(last) < end or (length := _LENGTH.unpack(last[: _LENGTH.size])[0]) > size - end:
            raise ValueError("too short")
        file.seek(size - end - length)
        return file.read(length)


def _is_sound(path: Path, schema: pa.Schema) -> bool:
    """Whether all bytes are those that were written, and the rows have these columns."""
    try:
        left, digest = path.stat().st_size - _SHA256, sha256()
        with path.open("rb") as file:
            while left > 0:
                chunk = file.read(min(_CHUNK, left))
                digest.update(chunk)
                left -= len(chunk) or left
            if file.read() != digest.digest():
                return False
        check_arrow(path)
        facts = len(json.loads(_record(path))["facts"])
        rows: int = sum(batch.num_rows for batch in _batches(path, schema))
        return rows == facts
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException):
        return False


def _batches(path: Path, schema: pa.Schema | None = None) -> Iterator[pa.RecordBatch]:
    """schema: that it must have, else ValueError."""
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        if schema and not stream.schema.equals(schema, check_metadata=True):
            raise ValueError("other columns")
        yield from stream


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            remove(path)
