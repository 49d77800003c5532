"""Only `images.decode` opens pictures: no interpreter is started and no path is followed for what a dataset holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from support.pictures import encoded, smooth
from support.witness import opened, started, witness

import condprep
import trainer
from condprep.dataset.arrow import IMAGE
from condprep.dataset.contact_sheet import sheet
from condprep.errors import Rejected
from condprep.images.decode import decode
from condprep.runtime.files import commit_json
from condprep.sources.open import open_source

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n(pwned) print\nshowpage\n%%EOF\n"
OWNERS = {"Image", "PIL.Image", "cv2", "diffusers.utils"}
OPENERS = {"open", "imread", "imreadmulti", "load_image", "imdecodemulti"}
PICTURE = {"bytes": encoded(smooth(64, 64)), "path": None}
SECRET = "/etc/passwd"
ODD = [
    {"bytes": EPS, "path": None},
    {"bytes": None, "path": SECRET},
    {"bytes": None, "path": f"file://{SECRET}"},
    {"bytes": None, "path": "http://example.invalid/1.png"},
    {"bytes": b"", "path": SECRET},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def saved(folder: Path, **columns: list[object]) -> Path:
    """A dataset as `save_to_disk` leaves it, but with paths in it; every column is of the type Image."""
    source = folder / "source"
    source.mkdir()
    schema = pa.schema(dict.fromkeys(columns, IMAGE))
    with pa.ipc.new_stream(str(source / "data.arrow"), schema) as stream:
        stream.write_table(pa.Table.from_pydict(columns, schema))
    features = {column: {"_type": "Image"} for column in columns}
    state = dict.fromkeys(("format_columns", "format_type", "output_all_columns", "split"))
    commit_json(source / "dataset_info.json", {"features": features})
    kept = {"_data_files": [{"filename": "data.arrow"}], "_fingerprint": "0" * 16, "_format_kwargs": {}}
    commit_json(source / "state.json", kept | {f"_{name}": value for name, value in state.items()})
    return source


def test_postscript_is_no_picture() -> None:
    """EPS bytes are a reject of their row."""
    with witness() as seen, pytest.raises(Rejected, match="not a picture of a known format"):
        decode(EPS)
    assert started(seen) == []


@pytest.mark.parametrize("bytes_", [EPS, b"%PDF-1.4", b"\xc5\xd0\xd3\xc6" + EPS, b"<svg/>"])
def test_a_contact_sheet_starts_no_interpreter(tmp_path: Path, bytes_: bytes) -> None:
    """What only an interpreter could draw is named in its cell, and the rest is drawn."""
    (tmp_path / "train").mkdir()
    schema = pa.schema({"image": IMAGE, "conditioning_image": IMAGE})
    rows = [{"image": PICTURE, "conditioning_image": {"bytes": bytes_, "path": SECRET}}]
    with pa.ipc.new_stream(str(tmp_path / "train" / "data-00000-of-00001.arrow"), schema) as stream:
        stream.write_table(pa.Table.from_pylist(rows, schema))
    with witness() as seen:
        sheet(tmp_path, tmp_path / "sheet.png", cell=64)
    assert started(seen) == []
    assert not opened(seen, SECRET)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd["path"] or "eps"))
def test_captions_that_are_pictures_open_nothing(tmp_path: Path, odd: dict[str, object]) -> None:
    """A caption column whose feature decodes by itself: the row is a reject, nothing was opened, started or asked for."""
    source = saved(tmp_path, image=[PICTURE, PICTURE], text=[odd, None])
    with witness() as seen:
        pictures = open_source(source, image_column="image")
        first, second = pictures.entries()
        with pytest.raises(Rejected, match="neither a string"):
            pictures.read(first)
        assert pictures.read(second).text == ()
    assert started(seen) == []
    assert not opened(seen, SECRET)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd["path"] or "eps"))
def test_pictures_that_are_paths_open_nothing_outside(tmp_path: Path, odd: dict[str, object]) -> None:
    """The same in the image column: every such row is a reject of the build."""
    source = saved(tmp_path, image=[PICTURE, odd])
    with witness() as seen:
        built = condprep.build(source, tmp_path / "ds", "canny", resolution=64)
    assert (sum(built.rows.values()), sum(built.rejects.values())) == (1, 1)
    assert started(seen) == []
    assert not opened(seen, SECRET)


def test_nobody_else_opens_pictures() -> None:
    """In all of condprep and trainer, no call of Pillow's or OpenCV's openers, which choose the reader themselves."""
    found = [call for package in (condprep, trainer) for call in _opening(Path(package.__path__[0]))]
    assert found == []


def _opening(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in OPENERS and ast.unparse(node.value) in OWNERS:
                yield f"{path.relative_to(root.parent)}:{node.lineno}: {ast.unparse(node)}"
