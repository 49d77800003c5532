"""Who calls from Python reads of arguments, who types commands of options: the same mistake, in the words of each."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.command import Command
from support.pictures import smooth

import condprep
from condprep.errors import CondprepError


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw/ with two pictures, and ds/ made of them; nothing here changes it."""
    folder = tmp_path_factory.mktemp("wording")
    (folder / "raw").mkdir()
    for number in range(2):
        Image.fromarray(smooth(80, 72, number)).save(folder / "raw" / f"{number}.png")
    condprep.build(folder / "raw", folder / "ds", "canny", resolution=64)
    return folder


BUILDS: dict[str, Any] = {
    "resolution": 100, "fit": "squash", "max_upscale": 0, "image_format": "gif", "image_quality": 0, "max_pixels": 0,
    "validation": 2, "limit": 0, "shard_rows": 0, "shard_bytes": 3, "batch_size": 0, "format": "x", "captions": "some",
    "condition_kind": "canny", "image_column": "x", "condition_column": "x", "caption_column": "x", "config": "x",
    "devices": "", "engine": "x", "address": "x", "actors": 2, "max_rejects": 3, "part": "x", "decode": "x",
    "drop_empty": "x", "allow_truncated": "x", "network_memory": "x",
}  # fmt: skip
MISTAKES: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    *(("build", ("raw", "out", "canny"), {"resolution": 64, name: wrong}, name) for name, wrong in BUILDS.items()),
    ("build", ("raw", "ds", "canny"), {"resolution": 64, "retry_rejects": "nope"}, "retry_rejects nope"),
    ("build", ("raw", "ds", "canny"), {"resolution": 128}, "another out, or overwrite=True"),
    ("build", ("raw", "out", "canny"), {"append": True, "overwrite": True}, "leave out overwrite=True, retry_rejects and"),
    ("build", ("raw", "out", "canny"), {"append": True, "part": "0/2"}, "append concerns"),
    ("build", ("raw", "out", "canny"), {"source_kind": "pairs"}, "holds no dataset"),
    ("add_columns", ("ds", ()), {}, "add_columns adds .* with annotators"),
    ("add_columns", ("raw", "canny"), {}, "add_columns adds"),
    ("add_columns", ("ds", "canny:random"), {"batch_size": 0}, "batch_size = 0"),
    ("finish", ("ds",), {"max_rejects": 5}, "max_rejects 5"),
    ("annotate", ([],), {"like": "ds", "fit": "pad"}, "^like repeats .* leave out params, resolution and fit$"),
    ("annotate", ([], "canny"), {"resolution": 3}, "^resolution = 3"),
    ("Session", ("canny",), {"resolution": 3}, "^resolution = 3"),
    ("as_map", ("canny",), {"fit": "x"}, "^fit = 'x'"),
    ("verify", ("ds",), {"image_column": "x"}, "^image_column 'x'"),
    ("verify", ("ds",), {"limit": 0}, "^limit 0"),
    ("verify", ("ds",), {"checks": ["nope"]}, "^checks nope"),
    ("verify", ("ds",), {"settings": {"nope": {}}}, "^settings nope"),
    ("curate", ("ds", "out"), {}, "with drop, or say fix=True"),
    ("curate", ("ds", "out", "nope"), {}, "^drop nope"),
    ("curate", ("ds", "out", "blurry"), {"keep": "x"}, "^keep x"),
    ("curate", ("ds", None, "blurry"), {}, "give out for the new dataset, or dry_run=True"),
    ("merge", (["ds", "ds"], "ds"), {}, "choose an out beside it"),
    ("report", ("ds", "x.html"), {"caption_column": "x"}, "^caption_column 'x'"),
    ("load_annotator", ("canny",), {"device": "cuda:99"}, "device"),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "arguments", "named", "said"), MISTAKES)
def test_errors_of_python_name_its_arguments(
    verb: str,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    said: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every public verb, with every argument that can be wrong: its name, and no option outside of a command to be typed."""
    monkeypatch.chdir(place)
    with pytest.raises(CondprepError, match=said) as failed:
        getattr(condprep, verb)(*arguments, **named)
    assert not re.search(r"--[a-z]", re.sub("`[^`]*`", "", str(failed.value)))


def test_the_command_names_its_options(command: Command, place: Path) -> None:
    """The same mistakes, typed: as --help has them."""
    raw, ds, out = place / "raw", place / "ds", place / "out"
    for arguments, said in [
        (("build", raw, "-a", "canny", "--out", out, "--resolution", "100"), "--resolution = 100: "),
        (("annotate", raw / "0.png", "-a", "canny", "--out", out, "--resolution", "3"), "--resolution = 3: "),
        (("verify", ds, "--limit", "0"), "--limit 0: "),
        (("curate", ds, "--out", out), "with --drop, or say --fix"),
    ]:
        ended = command(*arguments)
        assert ended.code == 2
        assert said in " ".join(ended.err.split())


@pytest.mark.parametrize("name", ["build", "verify", "load_annotator"])
def test_a_verb_stays_what_it_is(name: str) -> None:
    """It pickles by its public name, always is the same function, and tells its signature."""
    verb: Callable[..., Any] = getattr(condprep, name)
    assert pickle.loads(pickle.dumps(verb)) is verb is getattr(condprep, name)
    assert "device" in inspect.signature(verb).parameters
    assert verb.__doc__
