"""The Hugging Face source: save_to_disk folders and Parquet, read without decoding and without leaving the folder."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pictures import encoded, smooth

from condprep.errors import Rejected, SourceError
from condprep.sources.base import Source
from condprep.sources.open import open_source

PICTURES = [encoded(smooth(8, 8, seed)) for seed in range(3)]
ROWS = {
    "id": [7, 8, 9],
    "image": [{"bytes": data, "path": None} for data in PICTURES],
    "text": ["zero", "one", None],
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def table(**columns: Any) -> datasets.Dataset:
    """The rows above with these columns added or replaced; every column called image... holds pictures."""
    values = ROWS | columns
    pictures = {name: datasets.Image() for name in values if name.startswith("image")}
    plain = datasets.Dataset.from_dict({name: value for name, value in values.items() if name not in pictures})
    return datasets.Dataset.from_dict(values, features=datasets.Features({**plain.features, **pictures}))


def saved(folder: Path, dataset: datasets.Dataset | datasets.DatasetDict) -> Path:
    dataset.save_to_disk(folder / "ds")
    return folder / "ds"


def samples(source: Source) -> list[tuple[str, bytes, tuple[str, ...]]]:
    found = [source.read(entry) for entry in source.entries()]
    return [(sample.name, sample.data, sample.text) for sample in found]


EXPECTED = [(PICTURES[0], ("zero",)), (PICTURES[1], ("one",)), (PICTURES[2], ())]


# layouts


def test_a_saved_dataset_gives_its_rows_with_their_very_bytes(tmp_path: Path) -> None:
    """Rows by number, the encoded picture untouched, a null caption as none."""
    source = open_source(saved(tmp_path, table()))
    assert source.kind == "huggingface"
    assert samples(source) == [(str(row), *expected) for row, expected in enumerate(EXPECTED)]


def test_a_split_is_asked_for_only_where_there_are_several(tmp_path: Path) -> None:
    """One split is taken; of two, one must be named; the row's name holds it."""
    source = open_source(saved(tmp_path, datasets.DatasetDict(train=table())))
    assert samples(source)[1] == ("train:1", *EXPECTED[1])
    path = saved(tmp_path / "two", datasets.DatasetDict(train=table(), test=table(text=["t", "t", "t"])))
    assert samples(open_source(path, split="test"))[0] == ("test:0", PICTURES[0], ("t",))
    with pytest.raises(SourceError, match="has the splits test, train; choose one with --split"):
        open_source(path)
    with pytest.raises(SourceError, match=r"'dev' is not among the splits in .*: test, train"):
        open_source(path, split="dev")
    with pytest.raises(SourceError, match="has no splits; leave out --split train"):
        open_source(saved(tmp_path / "one", table()), split="train")


@pytest.mark.parametrize("layout", ["file", "folder", "hub"])
def test_parquet_gives_the_same_rows(tmp_path: Path, layout: str) -> None:
    """One file, a folder of them, or a clone of a repository with its splits under data/ and a README beside."""
    folder = tmp_path / "pq" / ("data" if layout == "hub" else "")
    folder.mkdir(parents=True)
    (tmp_path / "pq" / "README.md").write_text("no Parquet")
    table().to_parquet(folder / "train-00000-of-00001.parquet")
    if layout == "hub":
        table(text=["t", "t", "t"]).to_parquet(folder / "test-00000-of-00001.parquet")
    source = open_source(
        folder / "train-00000-of-00001.parquet" if layout == "file" else tmp_path / "pq",
        split="train" if layout == "hub" else None,
    )
    assert samples(source) == [(f"train:{row}", *expected) for row, expected in enumerate(EXPECTED)]


def test_parquet_in_sub_folders_has_their_names_as_splits(tmp_path: Path) -> None:
    """train/0.parquet and test/0.parquet are two splits, in a folder whose name would be a pattern too."""
    for split in ("train", "test"):
        (tmp_path / "pq [1]" / split).mkdir(parents=True)
        table(text=[split] * 3).to_parquet(tmp_path / "pq [1]" / split / "0.parquet")
    source = open_source(tmp_path / "pq [1]", "huggingface", split="test")
    assert samples(source)[2] == ("test:2", PICTURES[2], ("test",))


def test_a_picture_beside_the_table_is_part_of_the_source(tmp_path: Path) -> None:
    """Where rows name pictures by their paths, another picture under the same name is another source; in the rows, a path is a name."""
    (tmp_path / "0.jpg").write_bytes(PICTURES[0])
    for cells, differ in (([(None, "0.jpg"), (PICTURES[1], "1.jpg")], True), ([(PICTURES[0], "0.jpg")] * 2, False)):
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        pq.write_table(pa.table({"image": pa.array(cells, kind)}), tmp_path / "train.parquet")
        before = open_source(tmp_path, "huggingface").identity
        os.utime(tmp_path / "0.jpg", ns=(differ, 0))
        assert (open_source(tmp_path, "huggingface").identity != before) == differ


@pytest.mark.parametrize("kind", ["struct", "binary"])
def test_pictures_without_the_image_type_are_found_too(tmp_path: Path, kind: str) -> None:
    """Parquet from elsewhere: a struct of bytes and path, or plain bytes, is an image column when it is the only one."""
    column = [{"bytes": data, "path": "x.jpg"} for data in PICTURES] if kind == "struct" else PICTURES
    pq.write_table(pa.table({"jpg": column, "caption": ["zero", "one", None]}), tmp_path / "a.parquet")
    assert [sample[1:] for sample in samples(open_source(tmp_path / "a.parquet"))] == EXPECTED


# columns


def test_hidden_parquet_is_no_part_of_a_dataset(tmp_path: Path) -> None:
    """What a build keeps in its hidden folder is not taken for rows, beside Parquet or in a saved dataset."""
    path = saved(tmp_path, table())
    table().to_parquet(tmp_path / "a.parquet")
    for folder in (path, tmp_path):
        (folder / ".condprep").mkdir()
        (folder / ".condprep" / "plan.parquet").write_bytes(b"no rows")
    assert len(samples(open_source(path))) == 3
    shutil.rmtree(path)
    assert len(samples(open_source(tmp_path))) == 3


def test_several_image_columns_ask_for_one(tmp_path: Path) -> None:
    """The candidates are named, pictures only; the one chosen is read, the other is not."""
    path = saved(tmp_path, table(image_b=[{"bytes": data, "path": None} for data in PICTURES[::-1]]))
    with pytest.raises(SourceError, match=r"2 image columns in .*: image, image_b; choose one with --image-column"):
        open_source(path)
    assert [data for _, data, _ in samples(open_source(path, image_column="image_b"))] == PICTURES[::-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "jpg"}, r"'jpg' is not among the image columns in .*: image"),
        ({"image_column": "text"}, r"'text' is not among the image columns in .*: image"),
        ({"caption_column": "alt"}, r"'alt' is not among the columns in .*: id, image, text"),
    ],
)
def test_a_wrong_column_is_an_error_that_lists_the_right_ones(tmp_path: Path, options, message: str) -> None:
    """The user's slip is quoted."""
    with pytest.raises(SourceError, match=message):
        open_source(saved(tmp_path, table()), **options)


def test_no_image_column_at_all_is_an_error(tmp_path: Path) -> None:
    """A dataset of text is none of pictures."""
    with pytest.raises(SourceError, match=r"0 image columns in .*: none"):
        open_source(saved(tmp_path, table().remove_columns("image")))


def test_captions_may_be_lists_or_of_another_name(tmp_path: Path) -> None:
    """--caption-column; lists stay lists; a number becomes text, and says so."""
    path = saved(tmp_path, table(alt=[["a", "b"], [], ["c"]]))
    assert [text for *_, text in samples(open_source(path, caption_column="alt"))] == [("a", "b"), (), ("c",)]
    source = open_source(path, caption_column="id")
    sample = source.read(next(source.entries()))
    assert (sample.text, sample.note) == (("7",), "caption that is a number: kept as text")


# rows that cannot be used


def reasons(source: Source) -> list[str]:
    """Per row why it cannot be read, "" if it can."""
    found = []
    for entry in source.entries():
        try:
            source.read(entry)
            found.append("")
        except Rejected as rejected:
            found.append(f"{rejected.stage}: {rejected.reason}")
    return found


def test_a_null_picture_is_a_reject_of_its_row_alone(tmp_path: Path) -> None:
    """The rows beside it are read."""
    images = [ROWS["image"][0], None, ROWS["image"][2]]
    assert reasons(open_source(saved(tmp_path, table(image=images)))) == [
        "",
        "read: there is no picture in 'image'",
        "",
    ]


def test_a_picture_stored_as_a_path_must_lie_in_the_dataset(tmp_path: Path) -> None:
    """Inside the folder it is read; `..`, an absolute path, a link out and an address are rejects; nothing is fetched."""
    folder, outside = tmp_path / "ds", tmp_path / "secret.jpg"
    folder.mkdir()
    outside.write_bytes(PICTURES[0])
    (folder / "in.jpg").write_bytes(PICTURES[1])
    (folder / "link.jpg").symlink_to(outside)
    paths = ["in.jpg", "../secret.jpg", str(outside), "link.jpg", "https://example.com/a.jpg", "gone.jpg"]
    pq.write_table(pa.table({"image": [{"bytes": None, "path": one} for one in paths]}), folder / "a.parquet")
    found = reasons(open_source(folder, "huggingface"))
    assert found[0] == ""
    hint = "--follow-links names a folder that it may lie in"
    for reason, one in zip(found[1:4], paths[1:4]):
        assert reason == f"read: 'image' is a path that is missing or outside of the dataset: {one!r}; {hint}"
    assert "cannot be read" in found[4]
    assert "cannot be read" in found[5]
    assert "outside" in reasons(open_source(folder / "a.parquet"))[0]


# identity, workers, errors


def test_the_identity_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    """Moved Parquet and a moved folder keep it; other rows, another column or another split change it."""
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "x.parquet"
    table().to_parquet(path)
    before = open_source(path).identity
    moved = shutil.copy(path, tmp_path / "x.parquet")
    assert open_source(moved).identity == before
    assert str(tmp_path) not in json.dumps(before)
    table(text=["other", "one", None]).to_parquet(moved)
    assert open_source(moved).identity != before
    folder = saved(tmp_path, table())
    identity = open_source(folder).identity
    assert open_source(shutil.copytree(folder, tmp_path / "moved")).identity == identity
    assert open_source(folder, caption_column="id").identity != identity


def test_workers_and_threads_read_the_same(tmp_path: Path) -> None:
    """A pickled source in eight threads gives what one thread gives, and every entry is stamped with the content."""
    source = open_source(saved(tmp_path, table()))
    copy = pickle.loads(pickle.dumps(source))
    entries = list(source.entries()) * 50
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(copy.read, entries)) == [source.read(entry) for entry in entries]
    assert {entry.stamp for entry in entries} == {source.identity["fingerprint"]}


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "dataset_info.json", "state.json"])
def test_a_damaged_dataset_is_an_error_not_a_trace(tmp_path: Path, name: str) -> None:
    """Junk in place of any of its files is told with the dataset's name."""
    path = saved(tmp_path, table())
    (path / name).write_bytes(b"junk")
    with pytest.raises(SourceError, match="is no dataset that can be read"):
        open_source(path)


def test_damaged_parquet_is_an_error_not_a_trace(tmp_path: Path) -> None:
    """The same for Parquet."""
    (tmp_path / "a.parquet").write_bytes(b"junk")
    with pytest.raises(SourceError, match="is no dataset that can be read"):
        open_source(tmp_path / "a.parquet")


def test_the_hub_out_of_reach_is_an_error_with_the_name(monkeypatch) -> None:
    """Offline: neither a local path nor reachable, and the message says both."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"no file or folder 'owner/name', and as a dataset on the Hub"):
        open_source("owner/name")
