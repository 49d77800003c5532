"""Opening a source: its kind is recognised, and what does not fit together is an error with a remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.pictures import encoded, smooth

from condprep.errors import SourceError
from condprep.sources.open import SOURCE_KINDS, open_source
from condprep.sources.recognise import recognise

PICTURE = encoded(smooth(8, 8))


def put(folder: Path, *names: str) -> Path:
    """Files that the recognition looks at by name only."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PICTURE)
    return folder


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["a.jpg"], "folder"),
        ([], "folder"),
        (["a.jpg", ".hidden/metadata.jsonl", "@eaDir/metadata.csv"], "folder"),
        (["people/a.jpg", "test/b.jpg"], "folder"),
        (["train/a.jpg", "test/b.jpg"], "imagefolder"),
        (["sub/a.jpg", "sub/metadata.jsonl", "other/b.jpg"], "imagefolder"),
        (["a.jpg", "deep/er/metadata.parquet"], "imagefolder"),
        (["a.jpg", "metadata.jsonl"], "imagefolder"),
        (["a.jpg", "metadata.csv"], "imagefolder"),
        (["a.jpg", "metadata.parquet"], "imagefolder"),
        (["train/a.jpg", "train/metadata.jsonl", "test/metadata.jsonl"], "imagefolder"),
        (["00000.tar", "00000.parquet", "00000_stats.json"], "webdataset"),
        (["00000.tar.gz"], "webdataset"),
        (["data/UP.TAR", "data/UP.TAR.md5", "README.md"], "webdataset"),
        (["a.jpg", "a.tar.idx", "b.tar.lock"], "folder"),
        (["pictures.zip", "metadata.csv"], "zip"),
        (["a.jpg", "backup.zip"], "folder"),
        (["dataset_info.json", "state.json", "data-00000-of-00001.arrow"], "huggingface"),
        (["dataset_dict.json", "train/state.json"], "huggingface"),
        (["train-00000.parquet"], "huggingface"),
        (["README.md", "data/train-00000-of-00002.parquet"], "huggingface"),
        (["default/train/0000.parquet"], "huggingface"),
    ],
)
def test_the_kind_is_recognised_by_what_lies_in_the_folder(tmp_path: Path, files: list[str], kind: str) -> None:
    """Each layout that the tools of the field write has its kind."""
    assert recognise(str(put(tmp_path, *files))) == kind


@pytest.mark.parametrize(
    "name",
    ["a.tar", "{00000..00003}.tar", "*.tar", "b.parquet", "metadata.csv", "metadata.parquet", "captions.csv", "p.json"],
)
def test_a_file_or_pattern_is_recognised_by_its_name(tmp_path: Path, name: str) -> None:
    """Tars, patterns of tars, Parquet, metadata files and any other listing may be given themselves."""
    put(tmp_path, "a.tar", "b.parquet", "metadata.csv", "metadata.parquet", "captions.csv", "p.json")
    kinds = {"tar": "webdataset", "parquet": "huggingface", "csv": "imagefolder", "json": "imagefolder"}
    expected = "imagefolder" if name.startswith("metadata") else kinds[name.rpartition(".")[2]]
    assert recognise(str(tmp_path / name)) == expected


def test_a_name_of_the_hub_is_told_from_a_slip_in_a_path(tmp_path: Path, monkeypatch) -> None:
    """owner/name is a dataset on the Hub, unless a folder `owner` lies here: then the Hub is not asked."""
    monkeypatch.chdir(tmp_path)
    assert recognise("owner/name") == "huggingface"
    (tmp_path / "raw").mkdir()
    for missing in ("raw/pictrues", "nowhere", "a/b/c", "/nowhere/at/all"):
        with pytest.raises(SourceError, match="there is no file or folder"):
            recognise(missing)


@pytest.mark.parametrize("other", ["00000.tar", "data.parquet"])
def test_a_folder_that_may_be_two_kinds_asks(tmp_path: Path, other: str) -> None:
    """Pictures beside tars or Parquet: neither is dropped in silence, and the remedy works."""
    put(tmp_path, "a.jpg", other)
    with pytest.raises(SourceError, match="choose with --source-kind folder or"):
        open_source(tmp_path)
    assert [entry.name for entry in open_source(tmp_path, "folder").entries()] == ["a.jpg"]


def test_a_picture_is_no_source(tmp_path: Path) -> None:
    """A single file of another kind names what would do."""
    with pytest.raises(SourceError, match="give the folder that it is in"):
        open_source(put(tmp_path, "a.jpg") / "a.jpg")


def test_an_unknown_kind_lists_the_known_ones(tmp_path: Path) -> None:
    """The message holds all five."""
    with pytest.raises(SourceError, match=", ".join(SOURCE_KINDS)):
        open_source(tmp_path, "rar")


@pytest.mark.parametrize(
    ("kind", "option"),
    [("folder", "image_column"), ("folder", "caption_column"), ("folder", "split"), ("folder", "config")],
)
def test_an_option_without_a_meaning_is_an_error(tmp_path: Path, kind: str, option: str) -> None:
    """An option that would do nothing is a mistake, and its name as on the command line is in the message."""
    with pytest.raises(SourceError, match=f"--{option.replace('_', '-')} 'x' means nothing"):
        open_source(tmp_path, kind, **{option: "x"})


def test_opening_a_folder_imports_nothing_heavy(tmp_path: Path) -> None:
    """Neither `datasets` nor pyarrow, torch or Pillow is paid for by a folder of pictures."""
    code = (
        "import sys; from condprep.sources.open import open_source; list(open_source(sys.argv[1]).entries());"
        "print([name for name in ('datasets', 'pyarrow', 'torch', 'PIL', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
