"""Where links and stored paths may lead: the source, its own cache, what the user names; and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pictures import encoded, smooth

import condprep
from condprep.dataset.pairs.open import open_pairs
from condprep.errors import Rejected
from condprep.sources.base import Source
from condprep.sources.open import open_source

PICTURE = encoded(smooth(64, 64))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def snapshot(root: Path, **files: bytes) -> Path:
    """A repository as the Hub's cache holds it: every file a link into `blobs`."""
    folder = root / "datasets--o--n" / "snapshots" / "abc"
    blobs = root / "datasets--o--n" / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for number, (name, data) in enumerate(files.items()):
        (blobs / f"{number:040}").write_bytes(data)
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(blobs / f"{number:040}")
    return folder


def usable(source: Source) -> list[str]:
    """The names of those that can be read."""
    found = []
    for entry in source.entries():
        try:
            assert entry.problem is None
            assert source.read(entry).data == PICTURE
            found.append(entry.name)
        except (Rejected, AssertionError):
            pass
    return found


def listing(*names: str) -> bytes:
    return "".join(json.dumps({"file_name": name, "text": "x"}) + "\n" for name in names).encode()


def test_a_snapshot_of_the_hubs_cache_is_read(tmp_path: Path) -> None:
    """Every file of it is a link out of its folder, into the `blobs` beside; as a link to the snapshot, too."""
    folder = snapshot(
        tmp_path, a_dot_jpg=PICTURE, sub__b_dot_jpg=PICTURE, metadata_dot_jsonl=listing("a.jpg", "sub/b.jpg")
    )
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, tmp_path / "link", folder / "metadata.jsonl"):
        assert usable(open_source(path)) == ["a.jpg", "sub/b.jpg"]
    assert usable(open_source(folder, "folder")) == ["a.jpg", "sub/b.jpg"]


def test_a_snapshot_of_pairs_is_read_by_verify_and_imported(tmp_path: Path) -> None:
    """A listing of pairs in the cache: no row is out of its folder."""
    rows = json.dumps({"target": "a.jpg", "source": "m.png", "prompt": "x"}).encode()
    folder = snapshot(tmp_path, a_dot_jpg=PICTURE, m_dot_png=PICTURE, prompt_dot_json=rows)
    (pair,) = open_pairs(folder)
    assert (pair.problem, pair.image) == (None, PICTURE)


def test_a_link_that_leads_elsewhere_is_refused_until_its_folder_is_named(tmp_path: Path) -> None:
    """git-annex and DVC keep files elsewhere: --follow-links names the place, for links and for paths in rows."""
    store, raw, table = (tmp_path / name for name in ("annex", "raw", "table"))
    for folder in (store, raw, table):
        folder.mkdir()
    (store / "key").write_bytes(PICTURE)
    (raw / "a.jpg").symlink_to(store / "key")
    (raw / "metadata.jsonl").write_bytes(listing("a.jpg"))
    image = {"bytes": None, "path": str(store / "key")}
    pq.write_table(pa.table({"image": [image], "conditioning_image": [image]}), table / "rows.parquet")
    for path, options in ((raw, {}), (table / "rows.parquet", {"image_column": "image"})):
        assert usable(open_source(path, **options)) == []
        assert usable(open_source(path, follow_links=[tmp_path / "other"], **options)) == []
        assert len(usable(open_source(path, follow_links=[store], **options))) == 1
    assert next(iter(open_pairs(table / "rows.parquet"))).problem
    assert next(iter(open_pairs(table / "rows.parquet", follow_links=[store]))).image == PICTURE


def test_a_link_in_the_cache_that_leaves_it_is_refused(tmp_path: Path) -> None:
    """`blobs` is followed to its end: what lies there may be a link, too."""
    folder = snapshot(tmp_path, a_dot_jpg=PICTURE, metadata_dot_jsonl=listing("a.jpg"))
    blob = (folder / "a.jpg").readlink()
    blob.unlink()
    (tmp_path / "secret").write_bytes(PICTURE)
    blob.symlink_to(tmp_path / "secret")
    assert usable(open_source(folder)) == []


def test_an_imagefolder_of_the_hub_is_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are paths into the cache that `datasets` made: read there, and nowhere beside."""
    folder = snapshot(tmp_path / "hub", a_dot_jpg=PICTURE)
    (tmp_path / "secret.jpg").write_bytes(PICTURE)
    rows = [{"bytes": None, "path": str(path)} for path in (folder / "a.jpg", tmp_path / "secret.jpg")]
    loaded = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features(image=datasets.Image(decode=False)))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: datasets.DatasetDict(train=loaded))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert usable(open_source("o/n")) == ["train:0"]


def test_a_build_follows_what_it_is_told_to(tmp_path: Path) -> None:
    """`condprep.build(follow_links=...)`: rows, where there was one reject."""
    store, raw = tmp_path / "annex", tmp_path / "raw"
    store.mkdir()
    raw.mkdir()
    (store / "key").write_bytes(PICTURE)
    (raw / "a.jpg").symlink_to(store / "key")
    (raw / "metadata.jsonl").write_bytes(listing("a.jpg"))
    built = condprep.build(raw, tmp_path / "ds", "canny", resolution=64, follow_links=[store])
    assert built.rows == {"train": 1}
