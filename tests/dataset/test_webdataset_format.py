"""`--format webdataset`: tars that webdataset, `load_dataset` and our own source read, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset
from PIL import Image
from support.command import Command
from support.datasets import tree

import condprep
from condprep.building.shard import ShardBuilder
from condprep.errors import DatasetError, UsageError

HOW: dict[str, Any] = {"resolution": 64, "validation": 0.3, "shard_rows": 4}


@pytest.fixture(scope="module")
def tars(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs with two maps each, in tars."""
    out = tmp_path_factory.mktemp("tars") / "ds"
    condprep.build(photographs, out, ("canny", "canny:random"), format="webdataset", **HOW)
    return out


@pytest.fixture(scope="module")
def rows(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The same as a dataset of Arrow files: key -> row, its pictures encoded."""
    from datasets import Image as ImageFeature
    from datasets import load_from_disk

    out = tmp_path_factory.mktemp("arrow") / "ds"
    condprep.build(photographs, out, ("canny", "canny:random"), **HOW)
    found = {}
    for split, part in load_from_disk(out).items():
        for column in ("image", "conditioning_image", "canny", "canny_random"):
            part = part.cast_column(column, ImageFeature(decode=False))
        found |= {row["key"]: {**row, "split": split} for row in part}
    return found


def samples(tars: Path, split: str) -> list[dict[str, Any]]:
    """As webdataset reads them, undecoded."""
    paths = sorted(map(str, (tars / "data").glob(f"{split}-*.tar")))
    return list(webdataset.WebDataset(paths, shardshuffle=False))


def test_webdataset_reads_the_rows(tars: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Each row is one sample of its split: the very bytes of its picture and maps, its caption, and all other columns."""
    seen = []
    for split in ("train", "validation"):
        for sample in samples(tars, split):
            said = json.loads(sample["json"])
            row = rows[said["key"]]
            seen.append(said["key"])
            (picture,) = (sample[name] for name in ("jpg", "png", "webp") if name in sample)
            assert picture == row["image"]["bytes"]
            for name, column in (("cond", "conditioning_image"), ("canny", "canny"), ("canny_random", "canny_random")):
                assert sample[f"{name}.png"] == row[column]["bytes"]
            assert sample["txt"].decode() == said["text"] == row["text"]
            assert all(said[name] == row[name] for name in ("source", "width", "height", "transform", "empty"))
            assert row["split"] == split
    assert sorted(seen) == sorted(rows)


def test_our_own_source_reads_the_pictures(tars: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """A build from the tars gives the same pictures and captions, and the same map, without an input that is left over."""
    result = condprep.build(tars / "data", tmp_path / "again", "canny", resolution=64, split="train")
    assert result.rejects == {}
    from datasets import Image as ImageFeature
    from datasets import load_from_disk

    again = load_from_disk(tmp_path / "again")["train"].cast_column("image", ImageFeature(decode=False))
    train = [row for row in rows.values() if row["split"] == "train"]
    ours = {hashlib.sha256(row["image"]["bytes"]).hexdigest(): row["text"] for row in train}
    assert {row["key"]: row["text"] for row in again} == ours


def test_load_dataset_reads_the_folder(tars: Path, tmp_path: Path) -> None:
    """By the card, with the splits; a map is decoded to a picture of its size."""
    from datasets import load_dataset

    loaded = load_dataset(str(tars), cache_dir=str(tmp_path))
    assert {split: part.num_rows for split, part in loaded.items()} == {
        split: len(samples(tars, split)) for split in ("train", "validation")
    }
    assert Image.open(io.BytesIO(samples(tars, "train")[0]["cond.png"])).size == (64, 64)


def test_a_stopped_build_goes_on_to_the_same_bytes(
    photographs: Path, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after its first shard, with another number of threads: tars have no times and no owners."""
    build, built = ShardBuilder.build_shard, list[int]()

    def stopping(self: ShardBuilder, shard: int, outcomes: Any) -> Any:
        if built:
            raise KeyboardInterrupt
        built.append(shard)
        return build(self, shard, outcomes)

    def run(**how: Any) -> Any:
        return condprep.build(
            photographs, tmp_path / "ds", ("canny", "canny:random"), format="webdataset", **HOW, **how
        )

    monkeypatch.setattr(ShardBuilder, "build_shard", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(workers=1)
    monkeypatch.undo()
    assert run(workers=2).resumed == 4
    assert tree(tmp_path / "ds") == tree(tars)


def test_several_captions_are_lines(photographs: Path, tmp_path: Path) -> None:
    """With --captions list: a line each in the .txt, and the list in the .json."""
    raw = tmp_path / "raw"
    raw.mkdir()
    Image.open(next(photographs.rglob("*.jpg"))).save(raw / "a.jpg")
    (raw / "a.txt").write_text("one\ntwo\n")
    condprep.build(raw, tmp_path / "ds", "canny", format="webdataset", captions="list", resolution=64)
    (sample,) = samples(tmp_path / "ds", "train")
    assert sample["txt"] == b"one\ntwo"
    assert json.loads(sample["json"])["text"] == ["one", "two"]


def test_a_caption_is_one_line(photographs: Path, tmp_path: Path) -> None:
    """A caption of a listing that goes over lines is one line of the .txt, so that whoever reads the tar has as many captions."""
    captions = ["a cup\nof espresso", "coffee"]
    picture = next(path for path in sorted(photographs.rglob("*")) if path.is_file())
    (tmp_path / "raw").mkdir()
    shutil.copy(picture, tmp_path / "raw")
    (tmp_path / "raw" / "metadata.jsonl").write_text(json.dumps({"file_name": picture.name, "text": captions}))
    condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", format="webdataset", captions="list", resolution=64)
    (sample,) = samples(tmp_path / "ds", "train")
    assert json.loads(sample["json"])["text"] == captions
    assert sample["txt"].decode().split("\n") == ["a cup of espresso", "coffee"]


def test_what_reads_tables_says_what_they_are(tars: Path, tmp_path: Path, command: Command) -> None:
    """inspect, verify, curate, split and --into say that these are tars, and what to build instead; --part, too."""
    refused: list[Callable[[], object]] = [
        lambda: condprep.verify(tars),
        lambda: condprep.curate(tars, tmp_path / "curated", "blurry"),
        lambda: condprep.split(tars, 0.5),
        lambda: condprep.add_columns(tars, "canny"),
    ]
    for call in refused:
        with pytest.raises(DatasetError, match="is a WebDataset"):
            call()
    with pytest.raises(UsageError, match="format webdataset concerns"):
        condprep.build(tars, tmp_path / "part", "canny", format="webdataset", part="0/2")
    assert command("inspect", tars).code == 2
