"""A name in the plan identifies one thing: whatever tars, folders and members are called, pixels and captions stay together."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from support.curated import rows_of
from support.pictures import encoded, smooth
from support.tars import tar

import condprep
from condprep.building.plan import check_inputs, make_plan
from condprep.dataset.arrow import IMAGE
from condprep.dataset.pairs.open import Pairs, open_pairs
from condprep.errors import DatasetError
from condprep.images.decode import decode
from condprep.sources.base import Source
from condprep.sources.open import open_source

RED, BLUE = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))


def colour(data: bytes) -> str:
    red, _, blue = decode(data).rgb[0, 0]
    return "red" if red > blue else "blue"


def captioned(path: Path, picture: Image.Image, caption: str) -> None:
    path.write_bytes(tar(("1.jpg", encoded(picture)), ("1.txt", caption.encode())))


def captioned_pairs(path: Path, picture: Image.Image = RED) -> None:
    """A dataset of one pair."""
    image = {"bytes": encoded(picture, "PNG"), "path": None}
    schema = pa.schema({"image": IMAGE, "conditioning_image": IMAGE, "text": pa.string()})
    partial = path.with_suffix(".new")
    with pa.ipc.new_stream(str(partial), schema) as stream:
        stream.write_table(pa.Table.from_pylist([{"image": image, "conditioning_image": image, "text": "a"}], schema))
    partial.replace(path)


def unique_names(source: Source | Pairs) -> bool:
    names = [entry.name for entry in source.entries()]
    return len(set(names)) == len(names)


@pytest.mark.parametrize("other", ["a.tar#b.tar", "a.tar#1.jpg#.tar", "a\\x2etar#.tar", "a\\.tar", "a#b.tar"])
def test_tars_whose_names_begin_alike_are_told_apart(tmp_path: Path, other: str) -> None:
    """Each row has the picture and the caption of one tar, also where a tar's name looks like another's with a member."""
    (tmp_path / "tars").mkdir()
    captioned(tmp_path / "tars" / "a.tar", RED, "red")
    captioned(tmp_path / "tars" / other, BLUE, "blue")
    condprep.build(tmp_path / "tars", tmp_path / "ds", "canny", resolution=64)
    rows = rows_of(tmp_path / "ds")
    assert sorted(row["text"] for row in rows) == ["blue", "red"]
    assert all(colour(row["image"]["bytes"]) == row["text"] for row in rows)
    assert len({row["source"] for row in rows}) == 2


def test_a_line_that_cannot_be_used_is_not_called_like_a_picture(tmp_path: Path) -> None:
    """A listing's bad second line and a picture whose file is called `metadata.jsonl:2` have two names."""
    (tmp_path / "metadata.jsonl:2").write_bytes(encoded(RED))
    lines = [json.dumps({"file_name": "metadata.jsonl:2", "text": "red"}), "{nonsense"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path / "metadata.jsonl")
    first, _ = source.entries()
    assert unique_names(source)
    assert colour(source.read(first).data) == "red"


def test_a_line_of_a_listing_of_pairs_is_not_called_like_a_picture(tmp_path: Path) -> None:
    """The same of pairs that are listed."""
    for name, picture in (("1.png", BLUE), ("prompt.json:3", RED), ("map.png", BLUE)):
        picture.save(tmp_path / name, "PNG")
    good = [{"target": name, "source": "map.png", "prompt": ""} for name in ("1.png", "prompt.json:3")]
    (tmp_path / "prompt.json").write_text("\n".join([*map(json.dumps, good), "{nonsense"]))
    pairs = open_pairs(tmp_path, image_column="target", condition_column="source")
    _, odd, _ = pairs.entries()
    assert unique_names(pairs)
    assert colour(pairs.sample(odd).data) == "red"


@pytest.mark.parametrize("name", ["im\\x61ge", "im\\\\age", "imäge"])
def test_a_folder_is_found_under_its_own_name(tmp_path: Path, name: str) -> None:
    """Pairs in two folders: the pictures are those of the folder that was named, not of one whose name reads alike."""
    for folder, picture in ((name, RED), ("image", BLUE), ("im\\age", BLUE), ("condition", BLUE)):
        (tmp_path / folder).mkdir()
        picture.save(tmp_path / folder / "1.png")
    pairs = open_pairs(tmp_path, image_column=name, condition_column="condition")
    (entry,) = pairs.entries()
    assert colour(pairs.sample(entry).data) == "red"


def test_damaged_files_of_two_splits_have_two_names(tmp_path: Path) -> None:
    """Files of splits are often called alike; the plan tells their damage apart."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        captioned_pairs(tmp_path / split / "data-00000-of-00002.arrow")
        (tmp_path / split / "data-00001-of-00002.arrow").write_bytes(b"no Arrow")
    assert unique_names(open_pairs(tmp_path))


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    """One process, two looks at the same path: the second one sees what lies there now."""
    path = tmp_path / "data-00000-of-00001.arrow"
    for picture, name in ((RED, "red"), (BLUE, "blue")):
        captioned_pairs(path, picture)
        pairs = open_pairs(path)
        (entry,) = pairs.entries()
        assert colour(pairs.sample(entry).data) == name


def test_the_plan_knows_all_of_an_entry(tmp_path: Path) -> None:
    """A tar that was exchanged for one of the same size and time is noticed before a picture is read with stale offsets."""
    pictures = {name: encoded(smooth(8, 8, seed)) for seed, name in enumerate(("1.jpg", "2.jpg"))}
    captions = {"1.jpg": b"one", "2.jpg": b"two"}

    def write(order: tuple[str, str]) -> None:
        members = [pair for n in order for pair in ((n, pictures[n]), (n.replace("jpg", "txt"), captions[n]))]
        (tmp_path / "a.tar").write_bytes(tar(*members))
        os.utime(tmp_path / "a.tar", (1, 1))

    write(("1.jpg", "2.jpg"))
    plan = make_plan(tmp_path, open_source(tmp_path / "a.tar"), {}, 10, lambda _: None)
    captions["1.jpg"], captions["2.jpg"] = captions["2.jpg"], captions["1.jpg"]
    write(("1.jpg", "2.jpg"))
    with pytest.raises(DatasetError, match="changed"):
        check_inputs(plan, open_source(tmp_path / "a.tar"))
