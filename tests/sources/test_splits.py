"""Splits and configs: told as `datasets` tells them, and a README can name nothing outside of its folder."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.pictures import encoded, smooth

from condprep.building.paired_source import open_paired
from condprep.dataset.pairs.open import open_pairs
from condprep.errors import SourceError
from condprep.sources import splits
from condprep.sources.open import open_source
from condprep.sources.splits import find_splits, read_config
from condprep.types import Notes

PICTURE = encoded(smooth(8, 8))


def parquet(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": [PICTURE], "conditioning_image": [PICTURE], "text": [text]}
    pq.write_table(pa.table(rows), path)


def readme(root: Path, *configs: dict[str, object]) -> None:
    (root / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': list(configs)})}---\n")


@pytest.mark.parametrize("names", [("train.parquet", "test.parquet"), ("train-00000.parquet", "data/test-0.parquet")])
def test_rows_of_the_test_split_do_not_reach_training(tmp_path: Path, names: tuple[str, str]) -> None:
    """Two files with the names of splits are two splits, for build, import and verify alike."""
    for name, text in zip(names, ("train", "test")):
        parquet(tmp_path / name, text)
    with pytest.raises(SourceError, match="has the splits test, train; choose one with --split"):
        open_source(tmp_path, image_column="image")
    for split in ("train", "test"):
        source = open_source(tmp_path, image_column="image", split=split)
        assert [source.read(entry).text for entry in source.entries()] == [(split,)]
        imported = open_paired(str(tmp_path), {"image": "image", "condition": None, "caption": None}, split)
        assert [imported.read(entry).text for entry in imported.entries()] == [(split,)]
    pairs = open_pairs(tmp_path, image_column="image")
    assert {pair.split: pair.caption for pair in pairs} == {"train": "train", "test": "test"}


def test_the_readme_says_what_is_which_split_and_config(tmp_path: Path) -> None:
    """Its data_files are split; of several configs one is chosen, or the default taken; what is of none is named."""
    for name in ("a", "b", "c"):
        parquet(tmp_path / f"{name}.parquet", name)
    one = {"config_name": "one", "data_files": [{"split": "train", "path": "a.parquet"}]}
    two = {"config_name": "two", "data_files": "b*"}
    readme(tmp_path, one, two)
    with pytest.raises(SourceError, match="has the configs one, two; choose one with --config"):
        open_source(tmp_path, image_column="image")
    with pytest.raises(SourceError, match="'three' is not among the configs"):
        open_source(tmp_path, image_column="image", config="three")
    source, notes = open_source(tmp_path, image_column="image", config="two"), Notes()
    assert [source.read(entry).text for entry in source.entries(notes)] == [("b",)]
    assert notes.found["not used: a Parquet file of no split"]["names"] == ["a.parquet", "c.parquet"]
    assert [pair.caption for pair in open_pairs(tmp_path, image_column="image", config="one")] == ["a"]
    readme(tmp_path, one | {"default": True}, two)
    assert [pair.caption for pair in open_pairs(tmp_path, image_column="image")] == ["a"]
    (tmp_path / "README.md").unlink()
    with pytest.raises(SourceError, match="has no configs in a README"):
        open_source(tmp_path, image_column="image", config="one")


ELSEWHERE = [
    *("../secret.parquet", "a/../../secret.parquet", "/etc/passwd", "file:///etc/passwd", "local:///etc/passwd"),
    *("https://example.invalid/a", "hf://datasets/o/n/a.parquet", "zip://a::b.zip"),
]


@pytest.mark.parametrize("path", ELSEWHERE)
@pytest.mark.parametrize("key", ["data_files", "data_dir"])
def test_a_readme_names_nothing_outside_of_its_folder(tmp_path: Path, path: str, key: str, monkeypatch) -> None:
    """`..`, absolute paths and addresses are errors, and nobody is asked for them."""
    monkeypatch.setattr("fsspec.core.url_to_fs", None)
    parquet(tmp_path / "raw" / "a.parquet", "a")
    parquet(tmp_path / "secret.parquet", "secret")
    readme(tmp_path / "raw", {"config_name": "default", key: path})
    with pytest.raises(SourceError, match="leads out of the dataset"):
        open_source(tmp_path / "raw", image_column="image")


@pytest.mark.parametrize(
    "text", ["---\nconfigs: 7\n---\n", "---\na: [\n---\n", "---\n- 1\n---\n", "---\n!!python/object:os.x {}\n---\n"]
)
def test_a_readme_that_is_no_card_is_an_error_not_a_trace(tmp_path: Path, text: str) -> None:
    """It names the file."""
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(SourceError, match=r"the configs in .*README\.md"):
        read_config(tmp_path, None)


def test_many_names_without_a_word_for_a_split_ask_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand class folders are one split at once; where one is called test/, its pattern is tried."""
    names = [f"c{n:06}/picture.jpg" for n in range(splits.FEW + 1)]
    assert find_splits(Path(), [*names, "test/a.jpg"], {}) == {"test": ["test/a.jpg"]}
    monkeypatch.setattr("datasets.data_files.get_data_patterns", None)
    assert find_splits(Path(), names, {}) == {"train": names}
