"""Readers of paired datasets: every layout gives the same pairs; what is missing or damaged is said, not raised."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image
from PIL import Image as Pictures
from support.pictures import encoded, smooth

import condprep
from condprep.dataset.pairs.first import FirstPairs
from condprep.dataset.pairs.open import Pair, open_pairs
from condprep.errors import SourceError, UsageError

PICTURES = [encoded(smooth(seed=n)) for n in range(5)]
MAPS = [encoded(smooth(seed=n)[..., 0], "PNG") for n in range(5)]
CAPTIONS = [f"photograph {n}" for n in range(5)]

Contents = list[tuple[bytes, bytes, Any]]


def contents(path: Path, **columns: str) -> Contents:
    pairs = open_pairs(path, **columns)
    return [(pair.image, pair.condition, _first(pair.caption)) for pair in pairs if pair.problem is None]


def problems(path: Path) -> list[Pair]:
    return [pair for pair in open_pairs(path) if pair.problem]


def _first(caption: Any) -> Any:
    return caption[0] if isinstance(caption, list) and caption else caption


def table(
    image: str = "image", condition: str = "conditioning_image", caption: str = "text", rows: int = 5
) -> pa.Table:
    cells = [[{"bytes": data, "path": None} for data in column[:rows]] for column in (PICTURES, MAPS)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {image: pa.array(cells[0], kind), caption: pa.array(CAPTIONS[:rows]), condition: pa.array(cells[1], kind)}
    return pa.table(columns)


def as_parquet(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    pq.write_table(table(), folder / "data" / "train-00000-of-00001.parquet")
    return folder


def as_saved(folder: Path) -> Path:
    """As `Dataset.save_to_disk` writes it, with other names of the columns."""
    rows = {"picture": PICTURES, "hint": MAPS, "caption": CAPTIONS}
    made = Dataset.from_dict(rows).cast_column("picture", Image()).cast_column("hint", Image())
    made.save_to_disk(str(folder))
    return folder


def as_folders(folder: Path) -> Path:
    for n in range(5):
        for name, data in (
            ("image/a/%d.jpg", PICTURES[n]),
            ("depth/a/%d.png", MAPS[n]),
            ("image/a/%d.txt", CAPTIONS[n]),
        ):
            path = folder / (name % n)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def as_fill50k(folder: Path) -> Path:
    lines = []
    for n in range(5):
        for name, data in ((f"target/{n}.jpg", PICTURES[n]), (f"source/{n}.png", MAPS[n])):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        lines.append(json.dumps({"source": f"source/{n}.png", "target": f"target/{n}.jpg", "prompt": CAPTIONS[n]}))
    (folder / "prompt.json").write_text("\n".join(lines))
    return folder


LAYOUTS = [as_parquet, as_saved, as_folders, as_fill50k]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_pairs(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    """Whatever the layout: the same bytes and captions in the same order, numbered from 0, as often as one iterates."""
    folder = layout(tmp_path / "pairs")
    assert contents(folder) == list(zip(PICTURES, MAPS, CAPTIONS))
    pairs = open_pairs(folder)
    assert [pair.row for pair in pairs] == [pair.row for pair in pairs] == list(range(5))
    assert len({pair.key for pair in pairs}) == 5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_counted_without_being_read(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    """As many as come, so that who reads them knows how far he is; of the first few, so many."""
    pairs = open_pairs(layout(tmp_path / "pairs"))
    there = sum(pair.row is not None for pair in pairs)
    assert (pairs.known_rows(), FirstPairs(pairs, 1).known_rows(), FirstPairs(pairs, 99).known_rows()) == (
        there,
        1,
        there,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_some_rows_are_read_alone(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    """Asked for some row numbers, a reader gives just those pairs, as iterating does; of damaged ones nothing is said."""
    pairs = open_pairs(layout(tmp_path / "pairs"))
    every = list(pairs)
    assert list(pairs.read({1, 4})) == [every[1], every[4]]
    assert list(pairs.read({99})) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_stamp_tells_a_change(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    """The stamp is the same while nothing changes, and another when any file of the rows does."""
    folder = layout(tmp_path / "pairs")
    stamp = open_pairs(folder).stamp
    assert open_pairs(folder).stamp == stamp
    changed = next(path for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".parquet", ".arrow"))
    os.utime(changed, ns=(0, 0))
    assert open_pairs(folder).stamp != stamp


def test_the_stamp_tells_what_can_be_reached(tmp_path: Path) -> None:
    """What was found of rows that lead out of the dataset is nothing that holds once they may, by --follow-links."""
    folder, outside = as_fill50k(tmp_path / "pairs"), tmp_path / "outside"
    outside.mkdir()
    (folder / "target" / "0.jpg").rename(outside / "0.jpg")
    (folder / "target" / "0.jpg").symlink_to(outside / "0.jpg")
    stamps = {open_pairs(folder, follow_links=also).stamp for also in ((), (), (outside,), (outside,))}
    assert len(stamps) == 2


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_the_stamp_tells_a_change_beside_the_table(tmp_path: Path, form: str) -> None:
    """Pictures and maps that rows name by their paths are of the dataset, too: the stamp is another when one of them is."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    first: dict[str, list[object]] = {"image": [(PICTURES[0], "0.jpg")], "conditioning_image": [(MAPS[0], None)]}
    for n in range(1, 3):
        for name, column, data in ((f"{n}.jpg", "image", PICTURES[n]), (f"{n}.png", "conditioning_image", MAPS[n])):
            (tmp_path / name).write_bytes(data)
            first[column].append((None, name))
    rows = pa.table({name: pa.array(values, kind) for name, values in first.items()})
    if form == "parquet":
        pq.write_table(rows, tmp_path / "rows.parquet")
    else:
        with pa.ipc.new_stream(tmp_path / "data.arrow", rows.schema) as file:
            file.write_table(rows)
    assert contents(tmp_path) == list(zip(PICTURES[:3], MAPS[:3], [None] * 3))
    stamps = {open_pairs(tmp_path).stamp, open_pairs(tmp_path).stamp}
    for changed in ("1.jpg", "2.png"):
        os.utime(tmp_path / changed, ns=(0, 0))
        stamps.add(open_pairs(tmp_path).stamp)
    assert len(stamps) == 3


def test_a_built_dataset_is_read_with_its_own_keys(tmp_path: Path, raw: Path) -> None:
    """Of a dataset of condprep: the keys of its rows, the kind of its maps as recorded, and nothing to guess."""
    condprep.build(raw, tmp_path / "ds", "canny", resolution=64)
    pairs = open_pairs(tmp_path / "ds")
    assert (pairs.said, pairs.keyed, list(pairs.notes)) == ("canny", True, [])
    assert all(len(pair.key) == 64 for pair in pairs)


@pytest.mark.parametrize(
    ("image", "condition", "notes"),
    [("image", "conditioning_image", 0), ("target", "source", 1), ("jpg", "other", 1), ("left", "canny", 1)],
)
def test_columns_are_guessed_by_name_and_told(tmp_path: Path, image: str, condition: str, notes: int) -> None:
    """Known names are taken, the second of two picture columns follows from the first, and what is not usual is said."""
    pq.write_table(table(image, condition), tmp_path / "rows.parquet")
    pairs = open_pairs(tmp_path / "rows.parquet")
    assert [pair.condition for pair in pairs] == MAPS
    assert len(pairs.notes) == notes
    assert all(name in " ".join(pairs.notes) for name in (image, condition) if notes)


def test_named_columns_are_taken(tmp_path: Path) -> None:
    """What the user names counts more than a name that would be guessed."""
    pq.write_table(table("conditioning_image", "image"), tmp_path / "rows.parquet")
    named = {"image_column": "conditioning_image", "condition_column": "image"}
    assert contents(tmp_path / "rows.parquet", **named) == list(zip(PICTURES, MAPS, CAPTIONS))


@pytest.mark.parametrize(
    ("change", "columns", "says"),
    [
        (lambda t: t.drop(["conditioning_image"]), {}, "only 'image' holds pictures"),
        (lambda t: t.drop(["image", "conditioning_image"]), {}, "no column holds pictures (strings are not read)"),
        (lambda t: t.rename_columns(["a", "text", "b"]), {}, "which of a, b holds the images is unclear"),
        (lambda t: t, {"condition_column": "conditioning_imag"}, "did you mean conditioning_image?"),
        (lambda t: t, {"condition_column": "text"}, "'text' holds no pictures"),
        (lambda t: t, {"image_column": "image", "condition_column": "image"}, "a pair needs two"),
        (lambda t: t, {"caption_column": "words"}, "there are image, conditioning_image, text"),
    ],
)
def test_columns_that_make_no_pairs(tmp_path: Path, change: Any, columns: dict[str, str], says: str) -> None:
    """One column, strings instead of pictures, a choice that is not clear, a slip: an error that names the columns."""
    pq.write_table(change(table()), tmp_path / "rows.parquet")
    with pytest.raises(SourceError) as error:
        open_pairs(tmp_path / "rows.parquet", **columns)
    assert says in str(error.value)


def test_folders_of_pictures_without_maps_are_no_question_of_columns(tmp_path: Path) -> None:
    """Folders that share no name hold no pairs: that is said, and how maps are made; of those that do, which is which is asked."""
    for name in ("cats/a.jpg", "dogs/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PICTURES[0])
    with pytest.raises(SourceError, match=r"in cats/, dogs/ none has a map, .*`condprep build .* --annotator NAME"):
        open_pairs(tmp_path)
    (tmp_path / "dogs" / "a.png").write_bytes(PICTURES[0])
    with pytest.raises(SourceError, match="which of cats, dogs holds the images is unclear"):
        open_pairs(tmp_path)


@pytest.mark.parametrize("made", ["missing", "empty", "one folder", "text file"])
def test_what_is_no_dataset(tmp_path: Path, made: str) -> None:
    """No such path, an empty folder, a single folder of pictures, a foreign file: errors of usage that name the path."""
    path = tmp_path / made
    if made == "empty":
        path.mkdir()
    elif made == "one folder":
        (path / "image").mkdir(parents=True)
        (path / "image" / "1.jpg").write_bytes(PICTURES[0])
    elif made == "text file":
        path.write_text("hello")
    with pytest.raises(UsageError, match=made if made != "one folder" else "only 'image' holds pictures"):
        open_pairs(path)


def test_orphans_are_named(tmp_path: Path) -> None:
    """A picture without a map, a map without a picture and a second map are problems without a row; the rest are pairs."""
    folder = as_folders(tmp_path)
    (folder / "depth" / "a" / "1.png").unlink()
    (folder / "image" / "a" / "3.jpg").unlink()
    (folder / "depth" / "a" / "4.webp").write_bytes(MAPS[4])
    found = problems(folder)
    assert [(pair.row, pair.key) for pair in found] == [(None, "a/1"), (None, "a/3"), (None, "a/4")]
    assert [pair.key for pair in open_pairs(folder) if not pair.problem] == ["a/0", "a/2", "a/4"]
    assert "depth/a/1.*" in str(found[0].problem)


def test_a_damaged_file_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    """Of three Arrow files the second is cut and the third is of other columns: both are named, the first is read."""
    for n in range(3):
        rows = table() if n < 2 else table(condition="hint")
        with (
            pa.OSFile(str(tmp_path / f"data-{n:05d}-of-00003.arrow"), "wb") as file,
            pa.ipc.new_stream(file, rows.schema) as out,
        ):
            out.write_table(rows)
    cut = tmp_path / "data-00001-of-00003.arrow"
    cut.write_bytes(cut.read_bytes()[:-3000])
    assert [(pair.row, pair.key) for pair in problems(tmp_path)] == [
        (None, "data-00001-of-00003.arrow"),
        (None, "data-00002-of-00003.arrow"),
    ]
    assert contents(tmp_path) == list(zip(PICTURES, MAPS, CAPTIONS))


def test_rows_without_pictures_keep_their_numbers(tmp_path: Path) -> None:
    """A null picture and a path out of the dataset are problems of their rows, and the following rows keep theirs."""
    hint = "--follow-links names a folder that it may lie in"
    (tmp_path / "secret.png").write_bytes(MAPS[0])
    folder = tmp_path / "ds"
    folder.mkdir()
    rows = table().to_pylist()
    rows[1]["image"] = None
    rows[3]["conditioning_image"] = {"bytes": None, "path": "../secret.png"}
    pq.write_table(pa.Table.from_pylist(rows, table().schema), folder / "rows.parquet")
    assert [(pair.row, pair.problem) for pair in problems(folder)] == [
        (1, "there is no picture in 'image'"),
        (3, f"'conditioning_image' is a path that is missing or outside of the dataset: '../secret.png'; {hint}"),
    ]
    assert len(contents(folder)) == 3


@pytest.mark.parametrize("name", ["../secret.png", "link.png", "missing.png", "a\0b.png", ""])
def test_a_listing_does_not_leave_its_folder(tmp_path: Path, name: str) -> None:
    """A name that leads out of the folder, by dots or a link, or nowhere is a problem of its row, and nothing is read."""
    (tmp_path / "secret.png").write_bytes(MAPS[0])
    folder = as_fill50k(tmp_path / "ds")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with (folder / "prompt.json").open("a") as file:
        file.write("\n" + json.dumps({"source": name, "target": "target/0.jpg", "prompt": "x"}) + "\n[1]\nno json\n")
    assert [pair.row for pair in problems(folder)] == [5, 6, 7]
    assert all(pair.condition == b"" for pair in problems(folder))
    assert len(contents(folder)) == 5


@pytest.mark.slow
def test_pictures_are_not_gathered_in_memory(tmp_path: Path) -> None:
    """Of a Parquet row group of 400 MB in small pages, a few rows are in memory at a time."""
    noise = np.random.default_rng(0).bytes(1 << 20)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = pa.array([{"bytes": noise + bytes([n]), "path": None} for n in range(200)], kind)
    small_pages: dict[str, Any] = {"use_dictionary": False, "write_batch_size": 4}
    pq.write_table(pa.table({"image": cells, "hint": cells}), tmp_path / "rows.parquet", **small_pages)
    del cells
    before, most = pa.total_allocated_bytes(), 0
    for pair in open_pairs(tmp_path / "rows.parquet"):
        most = max(most, pa.total_allocated_bytes() - before)
        assert pair.image[-1] == pair.row
    assert most < 120 << 20


def test_the_pictures_of_these_tests_are_pictures() -> None:
    """The bytes used above decode, so that equal bytes mean equal pairs."""
    assert {Pictures.open(io.BytesIO(data)).size for data in (*PICTURES, *MAPS)} == {(64, 48)}


@pytest.mark.parametrize("exchanged", ["image", "condition"])
def test_a_pair_is_read_as_it_was_listed(tmp_path: Path, exchanged: str) -> None:
    """Of two folders: a picture with its map, as long as both are the files that were listed; others are refused."""
    for folder, data in (("image", PICTURES[0]), ("condition", MAPS[0])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.png").write_bytes(data)
    pairs = open_pairs(tmp_path)
    (entry,) = pairs.entries()
    sample = pairs.sample(entry)
    assert (sample.data, sample.condition) == (PICTURES[0], MAPS[0])
    (tmp_path / exchanged / "0.png").write_bytes(PICTURES[1] + b"another size")
    with pytest.raises(SourceError, match="another file than the one that was listed"):
        pairs.sample(entry)
