"""Sound inputs of every reader: small, and made here."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from condprep.dataset.arrow import IMAGE


def pictures() -> list[bytes]:
    rows = np.add.outer(np.arange(24), np.arange(16)).astype(np.uint8)
    image = Image.fromarray(np.stack([rows * 5, rows * 3, 255 - rows], -1))
    exif = Image.Exif()
    exif[0x0112] = 6
    ways: list[tuple[str, dict[str, Any]]] = [
        *(
            ("JPEG", {"exif": exif}),
            ("JPEG", {"progressive": True}),
            ("PNG", {}),
            ("WEBP", {}),
            ("GIF", {}),
            ("BMP", {}),
        ),
        *(("TIFF", {"compression": "tiff_lzw"}), ("AVIF", {}), ("JPEG2000", {}), ("PPM", {}), ("TGA", {}), ("ICO", {})),
    ]
    found = [_saved(image, form, how) for form, how in ways]
    return [*found, _saved(image.convert("P"), "PNG", {"transparency": 3}), _saved(image.convert("CMYK"), "JPEG", {})]


def _saved(image: Image.Image, form: str, how: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def tars() -> list[bytes]:
    return [_tar(tarfile.PAX_FORMAT), _tar(tarfile.GNU_FORMAT), _tar(tarfile.USTAR_FORMAT)]


def _tar(form: int) -> bytes:
    file, picture = io.BytesIO(), pictures()[2]
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data in (("0.png", picture), ("0.txt", b"a"), ("é/1.png", picture), ("é/1.json", b'{"text": "b"}')):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def table() -> pa.Table:
    picture = {"bytes": pictures()[2], "path": None}
    columns = {
        "image": [picture] * 3,
        "conditioning_image": [picture] * 3,
        "text": ["a", None, "c"],
        "key": ["0", "1", "2"],
    }
    kinds = {"image": IMAGE, "conditioning_image": IMAGE, "text": pa.string(), "key": pa.string()}
    more = {"transform": [[1.0, 0, 0, 0, 1, 0], None, [1.0]], "width": [16, 16, 16], "height": [24, 24, None]}
    return pa.table(
        columns | more,
        pa.schema(kinds | {"transform": pa.list_(pa.float64()), "width": pa.int32(), "height": pa.int32()}),
    )


def parquets() -> list[bytes]:
    found = []
    for how in (
        {"compression": "zstd"},
        {"compression": "none", "data_page_version": "2.0"},
        {"use_dictionary": False},
    ):
        file = io.BytesIO()
        pq.write_table(table(), file, **how)
        found.append(file.getvalue())
    return found


def arrows() -> list[bytes]:
    found = []
    for packer in (None, "zstd", "lz4"):
        file = io.BytesIO()
        with pa.ipc.new_stream(file, table().schema, options=pa.ipc.IpcWriteOptions(compression=packer)) as stream:
            stream.write_table(table(), max_chunksize=2)
        found.append(file.getvalue())
    return found


def listings() -> list[bytes]:
    rows = [{"file_name": "a.png", "text": "a"}, {"file_name": "b.png", "text": ["b", "c"]}]
    return ["\n".join(map(json.dumps, rows)).encode()]


def plans() -> list[bytes]:
    options = {"annotators": ["canny"], "primary": None, "beside": [], "shard_rows": 2}
    requested = {"options": options, "source": {"kind": "folder"}}
    config = {"condprep": "0", "requested": requested, "annotators": [], "batch_size": 1}
    return [_json({"config": config, "inputs": 2, "shard_rows": 2, "listing": "0" * 64})]


def provenances() -> list[bytes]:
    made = {
        "column": "canny",
        "annotator": "canny",
        "variant": "",
        "params": {},
        "parameters": {"low": 1},
        "weights": {},
    }
    made |= {"licence": "Apache-2.0", "commercial": True}
    geometry = {"resolution": 64, "fit": "crop", "max_upscale": 2.0}
    numbers = dict.fromkeys(("inputs", "bytes", "enlarged", "untouched", "without_caption"), 1)
    counts = numbers | {"rows": {"train": 1}, "rejects": {"damaged": 2}}
    return [_json({"annotators": [made], "geometry": geometry, "counts": counts, "format": "arrow", "source": {}})]


def counted() -> list[bytes]:
    file = {"name": "train/data-00000-of-00001.arrow", "split": "train", "rows": 1, "bytes": 10}
    numbers = {"bytes": 10, "enlarged": 0, "untouched": 0, "without_caption": 0}
    return [_json(numbers | {"rows": {"train": 1}, "rejects": {}, "without_map": {}, "files": [file]})]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def recipes() -> list[bytes]:
    return [b'[model]\nbase = "b"\n[data]\npath = "p"\nresolution = 512\n[train]\nlr = 1e-5\nsteps = 3\n']


def manifests() -> list[bytes]:
    recipe = {"train": {"schedule": "constant", "lr": 1.0}, "data": {"path": "p"}}
    return [_json({"update": 3, "recipe": recipe, "dataset": "d" * 64, "files": {"a": [1, "0" * 64]}, "position": {}})]


def findings() -> list[bytes]:
    return [
        _json(
            {
                "condprep": "0",
                "rows": 2,
                "notes": [],
                "seconds": 1.0,
                "findings": [[0, "k", "structure", "size", "error", "r", None]],
            }
        )
    ]


def records() -> list[bytes]:
    return [_json({"a.npy": {"bytes": 3, "blocks": "0" * 64, "sha256": "0" * 64}})]


def metadata_table() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"file_name": ["a.png", "b.png"], "text": ["a", None]}), file)
    return file.getvalue()
