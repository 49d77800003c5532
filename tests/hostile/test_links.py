"""Nothing outside of the output folder is written, replaced or removed, whatever lies prepared in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.datasets import tree
from support.pictures import smooth

import condprep
from condprep.annotation.files import annotate_files
from condprep.dataset.contact_sheet import sheet
from condprep.dataset.layout import Layout
from condprep.errors import CondprepError
from condprep.runtime.files import commit, commit_json, commit_text, read_json
from trainer.data.cache import one_run
from trainer.training.folder import own
from trainer.types import ONE_PROCESS

Act = Callable[[Path], Any]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    for seed in range(3):
        Image.fromarray(smooth(64, 64, seed)).save(tmp_path / "raw" / f"{seed}.png")
    return tmp_path / "raw"


@pytest.fixture
def victim(tmp_path: Path, raw: Path) -> Path:
    """Somebody's folder: a dataset, and files called as ours are."""
    condprep.build(raw, tmp_path / "victim", "canny", resolution=64)
    for name in ("plan.json", "lock", "1.arrow", "00000500.partial/weights", "shards/000000/counts.json"):
        (tmp_path / "victim" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "victim" / name).write_text("precious")
    return tmp_path / "victim"


@pytest.fixture
def build(raw: Path) -> Act:
    return lambda out: condprep.build(raw, out, "canny", resolution=64)


def overwrite(raw: Path, out: Path) -> None:
    condprep.build(raw, out, "canny", resolution=64, overwrite=True)


def unharmed(victim: Path, act: Callable[[], Any], *, refused: bool = True) -> None:
    """The act ends as it should, and the victim is what it was."""
    before, names = tree(victim), sorted(map(str, victim.rglob("*")))
    if refused:
        with pytest.raises(CondprepError, match="link"):
            act()
    else:
        act()
    assert tree(victim) == before
    assert sorted(map(str, victim.rglob("*"))) == names


@pytest.mark.parametrize(
    "inside",
    [
        *(".condprep", ".condprep/shards", ".condprep/shards/000000", ".condprep/shards/000000.partial"),
        *(".condprep/plan.json", ".condprep/lock", ".condprep/verify.parquet", ".condprep/anything/deep"),
        *("train", "validation", "data"),
    ],
)
@pytest.mark.parametrize("again", [False, True], ids=["go on", "overwrite"])
def test_a_build_follows_no_link(tmp_path: Path, raw: Path, victim: Path, inside: str, again: bool) -> None:
    """A link anywhere in what a build takes for its own, to a folder or a file: refused by name before anything happens."""
    out = tmp_path / "out"
    (out / ".condprep").mkdir(parents=True) if inside != ".condprep" else out.mkdir()
    (out / inside).parent.mkdir(parents=True, exist_ok=True)
    target = victim / "plan.json" if Path(inside).suffix or inside.endswith("lock") else victim
    (out / inside).symlink_to(target)
    how = {"overwrite": True} if again else {}
    unharmed(victim, lambda: condprep.build(raw, out, "canny", resolution=64, **how))
    assert (out / inside).is_symlink()


@pytest.mark.parametrize("inside", ["train", ".condprep", ".condprep/into", ".condprep/into/.condprep"])
def test_into_follows_no_link(tmp_path: Path, victim: Path, build: Act, inside: str) -> None:
    """Adding columns to a dataset whose split folder or staging is a link elsewhere."""
    build(tmp_path / "ds")
    place = tmp_path / "ds" / inside
    if place.exists():
        place.rename(tmp_path / "moved")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim if inside == "train" else tmp_path / "moved" if inside == ".condprep" else victim)
    unharmed(victim, lambda: condprep.add_columns(tmp_path / "ds", "canny:random"))


def test_into_removes_no_files_but_the_datasets_own(tmp_path: Path, victim: Path, build: Act) -> None:
    """A folder beside the splits that is a link to another dataset is left alone, and so are its Arrow files."""
    build(tmp_path / "ds")
    (tmp_path / "ds" / "other").symlink_to(victim / "train")
    (tmp_path / "ds" / "train" / "mine.txt").write_text("stays")
    unharmed(victim, lambda: condprep.add_columns(tmp_path / "ds", "canny:random"), refused=False)
    assert (tmp_path / "ds" / "train" / "mine.txt").exists()


def staged(dataset: Path, raw: Path) -> Path:
    """A finished build in the staging of --into, as a run leaves it that was killed just before the moves."""
    staging = dataset / ".condprep" / "into"
    condprep.build(raw, staging, "canny:random", resolution=64)
    return staging


def test_a_shipped_staging_writes_nothing_elsewhere(tmp_path: Path, raw: Path, victim: Path, build: Act) -> None:
    """A dataset that ships a staging: files of its choosing do not go through a link that it ships as well."""
    build(tmp_path / "ds")
    staging = staged(tmp_path / "ds", raw)
    (staging / "door").mkdir()
    (staging / "door" / "plan.json").write_text("overwritten")
    (tmp_path / "ds" / "door").symlink_to(victim)
    unharmed(victim, lambda: condprep.add_columns(tmp_path / "ds", "canny:random"), refused=False)
    assert not (tmp_path / "ds" / ".condprep" / "into").exists()


@pytest.mark.parametrize(
    "name", ["../../../../victim/plan.json", "{victim}/plan.json", "..", "sub/../../x", "a\0b", ""]
)
def test_recorded_names_stay_inside(tmp_path: Path, raw: Path, victim: Path, build: Act, name: str) -> None:
    """A shard that claims a file elsewhere: that file is not moved into the dataset, nor one of done.json read or removed."""
    build(tmp_path / "ds")
    layout, name = Layout(tmp_path / "ds"), name.format(victim=victim)
    done = read_json(layout.done)
    done["files"][0]["name"] = name
    commit_json(layout.done, done)
    before = tree(victim)
    with pytest.raises(CondprepError):
        condprep.add_columns(tmp_path / "ds", "canny:random")
    layout.done.unlink()
    (layout.shards / "000000").mkdir(parents=True)
    commit_json(layout.shards / "000000" / "counts.json", done)
    with pytest.raises(CondprepError):
        build(tmp_path / "ds")
    assert tree(victim) == before


def test_curate_follows_no_link(tmp_path: Path, victim: Path, build: Act) -> None:
    """The same of the folder into which curate copies."""
    build(tmp_path / "ds")
    (tmp_path / "out" / ".condprep").mkdir(parents=True)
    (tmp_path / "out" / "train").symlink_to(victim)
    unharmed(victim, lambda: condprep.curate(tmp_path / "ds", tmp_path / "out", "duplicates"))


# files


def test_a_partial_file_is_always_a_new_one(tmp_path: Path, victim: Path) -> None:
    """What lies under the name of a partial file, a link or a file with another name elsewhere, is not written through."""
    target = tmp_path / "README.md"
    for prepare in (os.symlink, os.link):
        prepare(victim / "plan.json", tmp_path / "README.md.partial")
        unharmed(victim, lambda: commit_text(target, "text"), refused=False)
        assert target.read_text() == "text"
        assert not target.is_symlink()
        assert not list(tmp_path.glob("*.partial"))


def test_no_output_is_written_through_a_hard_link(tmp_path: Path, victim: Path, build: Act) -> None:
    """Every file of a dataset, of its scores and its page is somebody's file, too: built, changed, verified and reported anew,
    none of theirs is another."""
    build(tmp_path / "ds")
    page, scores = tmp_path / "page.html", tmp_path / "ds" / ".condprep" / "verify.parquet"
    condprep.report(tmp_path / "ds", page)
    theirs = tmp_path / "victim" / "theirs"
    theirs.mkdir()
    ours = [path for path in (tmp_path / "ds").rglob("*") if path.is_file() and path.name != "lock"] + [page]
    for number, path in enumerate(ours):
        os.link(path, theirs / str(number))
    assert scores in ours

    def act() -> None:
        condprep.add_columns(tmp_path / "ds", "canny:random")
        condprep.split(tmp_path / "ds", 0.5)
        condprep.verify(tmp_path / "ds", checks=["structure"])
        condprep.report(tmp_path / "ds", page)
        overwrite(tmp_path / "raw", tmp_path / "ds")

    unharmed(victim, act, refused=False)


def test_a_link_under_the_final_name_is_replaced_itself(tmp_path: Path, victim: Path) -> None:
    """The name then stands for what was written, and what it led to stays."""
    target = tmp_path / "README.md"
    target.symlink_to(victim / "plan.json")
    unharmed(victim, lambda: commit_text(target, "text"), refused=False)
    assert target.read_text() == "text"
    assert not target.is_symlink()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither the final name nor a partial one; what was there before stays."""

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    (tmp_path / "a.json").write_text("before")
    with pytest.raises(OSError, match="No space"):
        commit(tmp_path / "a.json", fail)
    assert tree(tmp_path) == {"a.json": b"before"}


@pytest.mark.parametrize("suffix", [".partial", ""])
def test_outputs_of_every_verb_replace_links(tmp_path: Path, raw: Path, victim: Path, build: Act, suffix: str) -> None:
    """verify, report, a contact sheet, annotate: a link at the name of their file, or of its partial file."""
    build(tmp_path / "ds")
    verified, other = tmp_path / "v.parquet", tmp_path / "v.findings.json"
    page, drawn, map_ = tmp_path / "page.html", tmp_path / "sheet.png", tmp_path / "0.png"
    for path in (verified, other, page, drawn, map_):
        Path(f"{path}{suffix}").symlink_to(victim / "plan.json")

    def act() -> None:
        condprep.verify(tmp_path / "ds", checks=["structure"], scores=verified)
        condprep.report(tmp_path / "ds", page, scores=verified)
        sheet(tmp_path / "ds", drawn)
        annotate_files([raw / "0.png"], tmp_path, annotators="canny", overwrite=True)

    unharmed(victim, act, refused=False)
    assert all(path.is_file() and not path.is_symlink() for path in (verified, other, page, drawn, map_))


def test_verify_writes_into_no_linked_folder(tmp_path: Path, victim: Path, build: Act) -> None:
    """Where `.condprep` is a link, the scores lie beside the dataset, as those of any other."""
    build(tmp_path / "ds")
    (tmp_path / "ds" / ".condprep").rename(tmp_path / "moved")
    (tmp_path / "ds" / ".condprep").symlink_to(victim / ".condprep")

    def act() -> None:
        result = condprep.verify(tmp_path / "ds", checks=["structure"])
        assert result.scores == tmp_path / ".ds.verify.parquet"

    unharmed(victim, act, refused=False)


# what is allowed


def test_the_output_folder_itself_may_be_a_link(tmp_path: Path, raw: Path) -> None:
    """`out` that leads to another disk is the user's own word: built, resumed and started afresh there."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    (tmp_path / "there").symlink_to(tmp_path / "missing" / "folder")
    for _ in range(2):
        assert condprep.build(raw, tmp_path / "out", "canny", resolution=64).rows == {"train": 3}
    overwrite(raw, tmp_path / "out")
    condprep.add_columns(tmp_path / "out", "canny:random")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "train").is_dir()


def test_a_linked_folder_of_somebody_else_is_refused(tmp_path: Path, raw: Path, victim: Path) -> None:
    """A link to a folder that is neither empty nor a dataset of condprep is refused as that folder itself would be."""
    (victim / ".condprep").rename(tmp_path / "moved")
    (tmp_path / "out").symlink_to(victim)
    before = tree(victim)
    with pytest.raises(CondprepError, match="is not empty"):
        overwrite(raw, tmp_path / "out")
    assert tree(victim) == before


def test_linked_data_files_may_be_read(tmp_path: Path, build: Act) -> None:
    """Files that are links, as in the Hub's cache, are read as ever; --into replaces the links, not what they lead to."""
    build(tmp_path / "ds")
    (file,) = (tmp_path / "ds" / "train").glob("*.arrow")
    file.rename(tmp_path / "blob")
    file.symlink_to(tmp_path / "blob")
    before = (tmp_path / "blob").read_bytes()
    assert condprep.add_columns(tmp_path / "ds", "canny:random").rows == {"train": 3}
    assert (tmp_path / "blob").read_bytes() == before
    assert not file.is_symlink()


# the trainer


@pytest.mark.parametrize("inside", ["checkpoints", "raw", "samples", "metrics.jsonl", "logs", ".lock", "checkpoints/1"])
def test_a_run_follows_no_link(tmp_path: Path, victim: Path, inside: str) -> None:
    """A run's folder that came from elsewhere: links in it are refused before checkpoints are removed or lines added."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text("")
    (tmp_path / "run" / inside).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / inside).symlink_to(victim / "lock" if "." in inside else victim)

    def act() -> None:
        with own(tmp_path / "run"):
            pass

    unharmed(victim, act)


def test_a_tracker_may_have_links_in_its_own_folder(tmp_path: Path) -> None:
    """Trackers link their latest run below logs/: nobody but them writes there."""
    (tmp_path / "run" / "logs" / "wandb").mkdir(parents=True)
    (tmp_path / "run" / "recipe.toml").write_text("")
    link = tmp_path / "run" / "logs" / "wandb" / "latest-run"
    link.symlink_to("run-1")
    with own(tmp_path / "run"):
        assert link.is_symlink()


@pytest.mark.parametrize("inside", [".lock", "latents-0123456789abcdef", "latents-0/conditions-64x64-00000.npy"])
def test_a_cache_follows_no_link(tmp_path: Path, victim: Path, inside: str) -> None:
    """A cache that came with a dataset: no array is written through a link of it."""
    (tmp_path / "ds.cache" / inside).parent.mkdir(parents=True)
    (tmp_path / "ds.cache" / inside).symlink_to(victim / "lock" if "." in inside else victim)

    def act() -> None:
        with one_run(tmp_path / "ds.cache", ONE_PROCESS):
            pass

    unharmed(victim, act)
