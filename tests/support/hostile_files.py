"""Tables, tars, zips, listings and records that nobody should trust, each in a folder of its own, made here."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support.pictures import encoded, smooth
from support.tars import tar

from condprep.dataset.arrow import IMAGE

ODD = "a\x1b]0;owned\x07[red]\u202e</script><script>alert(1)</script>"
PICTURE = encoded(smooth(64, 64), "PNG")
LONG = 1_000_000  # bytes of a caption
Write = Callable[[Path], object]  # into an empty folder


def tables() -> dict[str, Write]:
    """Datasets of pairs, as Parquet and as Arrow."""
    columns = _columns()
    found: dict[str, Write] = {f"{name} (parquet)": _parquet(**one) for name, one in columns.items()}
    found |= {f"{name} (arrow)": _arrow("zstd", **one) for name, one in columns.items()}
    own = {
        "captions of 2 GB": _parquet(text=lambda: _repeated(2000), rows=2000),
        "a caption of 150 MB": _parquet(text=lambda: pa.array(["x" * 150_000_000])),
        "the same in lz4": _arrow("lz4", text=lambda: pa.array(["x" * 150_000_000])),
        "a list of 140 MB": _parquet(text=lambda: _in_lists(140)),
        "many rows": _parquet(text=lambda: _repeated(10_000, 10), rows=10_000),
        "a sparse table": lambda folder: _sparse(folder / "train.arrow"),
        "a sparse parquet": lambda folder: _sparse(folder / "train.parquet"),
        "a pipe": lambda folder: os.mkfifo(folder / "train.parquet"),
        "a device": lambda folder: (folder / "train.parquet").symlink_to("/dev/zero"),
        "a footer of 1 GB": lambda folder: _footer(folder, 1 << 30),
        "buffers that lie": lambda folder: _lying(folder / "train.arrow"),
        "dictionaries": _arrow(None, text=pa.array(["x" * LONG]).dictionary_encode()),
        "a readme that is deep": lambda folder: _readme(folder, "configs: " + "[" * 1500),
        "a readme of anchors": lambda folder: _readme(folder, _anchors()),
        "a readme that leads away": lambda folder: _readme(folder, "configs:\n- data_files: ../../../etc/passwd"),
        "code": lambda folder: (folder / f"{folder.name}.py").write_text("raise SystemExit(3)"),
    }
    return found | own


def _columns() -> dict[str, dict[str, Any]]:
    late = pa.array([2**62], pa.timestamp("us"))
    return {
        "odd captions": {"text": pa.array([ODD])},
        "numbers for captions": {"text": pa.array([3])},
        "late captions": {"text": late},
        "late columns": {"taken": late, "spans": pa.array([2**62], pa.duration("s"))},
        "late columns in lists": {"taken": pa.array([[2**62]], pa.list_(pa.timestamp("us")))},
        "numbers for pictures": {"image": pa.array([3])},
        "nothing for pictures": {"image": pa.nulls(1)},
        "paths": {"image": pa.array([{"bytes": None, "path": "/etc/passwd"}], IMAGE)},
        "urls": {"conditioning_image": pa.array([{"bytes": None, "path": "http://example.invalid/a.png"}], IMAGE)},
        "a transform of nothing": {"transform": pa.array([[float("nan")] * 6])},
        "keypoints of nothing": {"keypoints": pa.array([{"people": [{"pose": [float("inf")]}]}])},
        "an odd column": {ODD: pa.array(["a"])},
        "a thousand columns": {f"c{n}": pa.array([n]) for n in range(1000)},
        "bytes for captions": {"text": pa.array([b"\xff\xfe"])},
        "a deep column": {"deep": _deep(60)},
    }


def sources() -> dict[str, Write]:
    """What `build` reads beside tables: tars, zips, listings, folders."""
    return _tars() | _zips() | _listings()


def _tars() -> dict[str, Write]:
    def made(**how: Any) -> bytes:
        info = tarfile.TarInfo(how.pop("name", "0.png"))
        for name, value in how.items():
            setattr(info, name, value)
        return tar(("a.png", PICTURE), (info, PICTURE), ("b.png", PICTURE), format=tarfile.PAX_FORMAT)

    gnu = tarfile.TarInfo("a" * 300)
    gnu.size = 0
    long_name = bytearray(gnu.tobuf(tarfile.GNU_FORMAT))
    long_name[124:136] = b"77777777777\0"
    long_name[148:156] = b"%06o\0 " % (sum(long_name[:148]) + 256 + sum(long_name[156:512]))
    found = {
        "a name that leaves the tar": made(name="../../../../tmp/x.png"),
        "an absolute name": made(name="/etc/x.png"),
        "a link": made(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "a hard link": made(type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        "a device": made(type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        "a negative size": made(pax_headers={"size": "-512"}),
        "a size beyond": made(pax_headers={"size": str(1 << 62)}),
        "a sparse member": made(pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": str(1 << 40)}),
        "an old sparse member": made(type=tarfile.GNUTYPE_SPARSE),
        "a name of 8 GB": bytes(long_name) + bytes(1024),
        "an odd name": made(name=f"{ODD}.png".replace("/", "")),
        "a caption of 20 MB": tar(("0.png", PICTURE), ("0.txt", b"x" * 20_000_000)),
        "deep json": tar(("0.png", PICTURE), ("0.json", b"[" * 500_000)),
        "500 members of nothing": tarfile.TarInfo("0.png").tobuf() * 500,
        "half": tar(("0.png", PICTURE))[:700],
    }
    return {f"tar: {name}": _file("0.tar", data) for name, data in found.items()}


def _zips() -> dict[str, Write]:
    whole = _zip(("0.png", PICTURE), ("1.png", PICTURE))
    directory, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
    zip64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1 << 60, 1 << 60, 1 << 60, 0)
    zip64 += struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    found: dict[str, bytes | Callable[[], bytes]] = {
        "zeros": lambda: _zip(("0.png", bytes(100_000_000))),
        "a listing of 2 GB": lambda: _zipped_table(["0.png"] * 2000, _repeated(2000)),
        "a listing of one page": lambda: _zipped_table(["0.png"], ["x" * 150_000_000]),
        "a listing of zeros": lambda: _zip(("0.png", PICTURE), ("metadata.csv", bytes(100_000_000))),
        "a listing that is deep": _zip(("0.png", PICTURE), ("metadata.jsonl", b'{"file_name":' + b"[" * 100_000)),
        "members that overlap": whole[:directory] + whole[directory:end] * 2000 + whole[end:],
        "zip64 that lies": whole[:end] + zip64 + whole[end : end + 8] + b"\xff" * 12 + b"\0\0",
        "a size that lies": whole[:directory]
        + whole[directory:].replace(struct.pack("<I", len(PICTURE)), struct.pack("<I", 2**32 - 2)),
        "a name that leaves": _zip(("../../x.png", PICTURE), ("/etc/x.png", PICTURE), (f"{ODD}.png", PICTURE)),
        "half": whole[: len(whole) // 2],
    }
    return {f"zip: {name}": _file("0.zip", data) for name, data in found.items()}


def _listings() -> dict[str, Write]:
    row = {"file_name": "0.png"}
    odd: list[Any] = [
        "../../../etc/passwd",
        "/etc/passwd",
        "a\0b",
        3,
        None,
        ["0.png"],
        {"a": 1},
        "0.png/",
        ODD,
        "~/x",
        "C:\\x",
    ]
    lines = "\n".join(json.dumps({"file_name": one, "text": ODD}) for one in odd)
    found = {
        "paths": ("metadata.jsonl", lines.encode()),
        "captions": ("metadata.jsonl", "\n".join(json.dumps(row | {"text": one}) for one in odd).encode()),
        "a line of 50 MB": ("metadata.jsonl", b'{"file_name": "' + b"x" * 20_000_000),
        "a deep line": ("metadata.jsonl", b'{"a":' * 100_000),
        "numbers": ("metadata.jsonl", b'{"file_name": "0.png", "text": 1' + b"0" * 100_000 + b"}"),
        "a quote": ("metadata.csv", b'file_name,text\n0.png,"' + b"x\n" * 500),
        "fields": ("metadata.csv", b"file_name,text\n0.png" + b"," * 10_000_000),
        "no text": ("metadata.csv", bytes(range(256)) * 1000),
    }
    return {f"listing: {name}": _listed(*one) for name, one in found.items()}


def tables_of_ours() -> dict[str, Write]:
    """In a dataset of ours: tables whose columns are others than we wrote, so that what is recorded of them does not hold."""
    changes: dict[str, dict[str, Any]] = {
        "a key of no digits": {"key": pa.array([ODD])},
        "no key": {"key": pa.nulls(1, pa.string())},
        "a number for a key": {"key": pa.array([7])},
        "a number for a source": {"source": pa.array([7])},
        "no source": {"source": pa.nulls(1, pa.string())},
        "no column of sources": {"source": None},
        "a number for a caption": {"text": pa.array([7])},
        "no picture": {"image": pa.nulls(1, IMAGE)},
        "a number for a picture": {"image": pa.array([7])},
        "a path for a picture": {"image": pa.array([{"bytes": None, "path": "/etc/passwd"}], IMAGE)},
        "a late column": {"taken": pa.array([2**62], pa.timestamp("us"))},
        "an odd source": {"source": pa.array([ODD])},
    }
    return {f"ours: {name}": _replaced(change) for name, change in changes.items()}


def records() -> dict[str, Write]:
    """Into the `.condprep` of a dataset of ours."""
    changes: list[dict[str, Any]] = [
        {"geometry": {"resolution": 40_000, "fit": "crop", "max_upscale": 2.0}},
        {"geometry": {"resolution": float("nan"), "fit": "crop", "max_upscale": float("inf")}},
        {"counts": {"rows": {ODD: 10**400}, "rejects": {ODD: -1}}},
        {"counts": {"rows": {"train": float("inf")}, "rejects": {}}},
        {"annotators": [{"column": ODD, "annotator": ODD, "variant": ODD, "licence": ODD}] * 1000},
        {"annotators": "canny", "source": ODD},
    ]
    found: dict[str, Write] = {f"provenance {n}": _changed("provenance.json", one) for n, one in enumerate(changes)}
    for name in ("provenance.json", "plan.json", "done.json", "rejects.jsonl"):
        found[f"{name} that is deep"] = _record(name, b"[" * 200_000)
        found[f"{name} of one number"] = _record(name, b"1" * 100_000)
        found[f"{name} that is sparse"] = lambda private, name=name: _sparse(private / name)  # type: ignore[misc]
    return found


# how they are written


def _parquet(rows: int = 1, **columns: Any) -> Write:
    return lambda folder: pq.write_table(
        _table(rows, columns), folder / "train.parquet", compression="zstd", store_schema=False
    )


def _arrow(packer: str | None, **columns: Any) -> Write:
    def write(folder: Path) -> None:
        table = _table(1, columns)
        options = pa.ipc.IpcWriteOptions(compression=packer)
        with pa.ipc.new_stream(str(folder / "train.arrow"), table.schema, options=options) as stream:
            stream.write_table(table)

    return write


def _table(rows: int, columns: dict[str, Any]) -> pa.Table:
    """columns: arrays, or what makes them when they are written."""
    columns = {name: column() if callable(column) else column for name, column in columns.items()}
    if rows > 1:
        indices = pa.array(np.zeros(rows, np.int32))
        one = pa.DictionaryArray.from_arrays(indices, pa.array([PICTURE]))
        return pa.table({"image": one, "conditioning_image": one} | columns)
    picture = pa.array([{"bytes": PICTURE, "path": None}], IMAGE)
    return pa.table({"image": picture, "conditioning_image": picture} | columns)


def _repeated(rows: int, size: int = LONG) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * size]))


def _in_lists(count: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.array(["x" * LONG] * count))


def _deep(levels: int) -> pa.Array:
    found = pa.array([1])
    for _ in range(levels):
        found = pa.StructArray.from_arrays([found], ["a"])
    return found


def _sparse(path: Path) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(8 << 30)


def _footer(folder: Path, size: int) -> None:
    _parquet()(folder)
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:-8] + struct.pack("<I", size) + b"PAR1")


def _lying(path: Path) -> None:
    """A compressed buffer that claims to become a terabyte."""
    _arrow("zstd", text=pa.array(["x" * 100_000]))(path.parent)
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<q", 100_000), struct.pack("<q", 1 << 40)))


def _readme(folder: Path, text: str) -> None:
    _parquet()(folder)
    (folder / "README.md").write_text(f"---\n{text}\n---\n")


def _anchors() -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    return "\n".join([*lines, "configs: *a39"])


def _file(name: str, data: bytes | Callable[[], bytes]) -> Write:
    return lambda folder: (folder / name).write_bytes(data() if callable(data) else data)


def _zipped_table(names: list[str], texts: Any) -> bytes:
    """A zip with a picture and a listing."""
    file = io.BytesIO()
    pq.write_table(pa.table({"file_name": names, "text": texts}), file, compression="zstd")
    return _zip(("0.png", PICTURE), ("metadata.parquet", file.getvalue()))


def _zip(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members:
            out.writestr(name, data)
    return file.getvalue()


def _listed(name: str, data: bytes) -> Write:
    def write(folder: Path) -> None:
        (folder / "0.png").write_bytes(PICTURE)
        (folder / name).write_bytes(data)

    return write


def _replaced(change: dict[str, Any]) -> Write:
    """The only table of a dataset with these columns instead of its own; None: without one."""

    def write(private: Path) -> None:
        (path,) = (private.parent / "train").glob("*.arrow")
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_stream(file).read_all().replace_schema_metadata(None)
        columns = {name: table[name] for name in table.schema.names} | change
        table = pa.table({name: column for name, column in columns.items() if column is not None})
        with pa.ipc.new_stream(str(path), table.schema) as stream:
            stream.write_table(table)

    return write


def _record(name: str, data: bytes) -> Write:
    return lambda private: (private / name).write_bytes(data)


def _changed(name: str, change: dict[str, Any]) -> Write:
    def write(private: Path) -> None:
        path = private / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return write
