"""What a verb writes never comes to lie among what it reads, by whatever name both are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, Features, Image
from support.command import Command
from support.pictures import encoded, smooth

from condprep.building.output_folder import check_outside, check_places
from condprep.dataset.layout import Layout
from condprep.errors import UsageError


@pytest.fixture
def ds(tmp_path: Path) -> Path:
    """A dataset of others, which has a second name."""
    stored = [{"bytes": encoded(smooth()), "path": None}]
    pictures = Features({"image": Image(), "conditioning_image": Image()})
    Dataset.from_dict(dict.fromkeys(pictures, stored), pictures).save_to_disk(tmp_path / "ds")
    (tmp_path / "link").symlink_to(tmp_path / "ds")
    return tmp_path / "ds"


@pytest.mark.parametrize("out", ["ds/x", "ds/a/b/", "link/x", "ds/../link/x", "ds", "ds/", "link", "../HERE/ds", "."])
def test_a_dataset_is_not_copied_into_itself(
    command: Command, ds: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    """`curate`, `merge` and a build of a dataset refuse an output in it, around it, or that is it, and write nothing."""
    monkeypatch.chdir(ds.parent)
    out = out.replace("HERE", ds.parent.name)
    for asked in (
        ("curate", "link", "--drop", "flat"),
        ("merge", "ds", "ds"),
        ("build", "ds", "-a", "canny", "--image-column", "image"),
        ("build", "link"),
    ):
        ended = command(*asked, "--out", out)
        assert (ended.code, ended.out, "lies inside the" in ended.err) == (2, "", True)
    assert sorted(path.name for path in ds.iterdir()) == [
        "data-00000-of-00001.arrow",
        "dataset_info.json",
        "state.json",
    ]


def test_the_same_at_a_url() -> None:
    """A target at a URL holds no source, and lies in none; one whose name begins alike is another."""
    layout = Layout(Path("work"), type("At", (), {"remote": "s3://bucket/ds"})())
    for source in ("s3://bucket/ds", "s3://bucket/ds/raw/"):
        with pytest.raises(UsageError, match=f"{source} lies inside s3://bucket/ds"):
            check_places(source, layout)
    for source in ("s3://bucket", "s3://bucket/"):
        with pytest.raises(UsageError, match=f"lies inside the source {source}"):
            check_outside(source, layout)
    for check in (check_places, check_outside):
        check("s3://bucket/ds2", layout)
        check("s3://bucket/d", layout)


def test_scores_do_not_become_rows(command: Command, ds: Path) -> None:
    """A table of scores in a dataset would be read as rows of it; hidden, or beside it, it is not."""
    for place in (ds / "scores.parquet", ds.parent / "link" / "train" / "scores.parquet"):
        ended = command("verify", ds, "--scores", place)
        assert (ended.code, f"{place} would be taken for rows of {ds}" in ended.err) == (2, True)
    for place in (ds / ".mine" / "scores.parquet", ds.parent / "scores.parquet"):
        assert "would be taken" not in command("verify", ds, "--scores", place).err


def test_a_map_never_takes_the_place_of_its_picture(command: Command, photo: Path, tmp_path: Path) -> None:
    """`annotate --overwrite` replaces maps, not the pictures that they are of; nor do maps come among those of a folder."""
    before = photo.read_bytes()
    (tmp_path / "link").symlink_to(photo.parent)
    for out in (photo.parent, tmp_path / "link"):
        ended = command("annotate", photo, "-a", "canny", "-o", out, "--overwrite")
        assert (ended.code, "01.png is one of the pictures" in ended.err) == (2, True)
        ended = command("annotate", photo.parent, "-a", "canny", "-o", out, "--overwrite")
        assert (ended.code, "maps would lie among the pictures" in ended.err) == (2, True)
    assert photo.read_bytes() == before
