"""Where no column has the captions, one that looks like them is offered, and nothing is taken by guessing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset
from support.command import Command
from support.pictures import encoded, smooth

from condprep.sources.offered import offer
from condprep.sources.open import open_source
from condprep.types import Notes

PICTURE = encoded(smooth(80, 72))


@pytest.mark.parametrize(
    ("columns", "offered"),
    [
        (["id", "prompt"], "prompt"),
        (["text_en", "description", "Prompt"], "Prompt"),
        (["imageCaption", "title"], "imageCaption"),
        (["negative_prompt", "altitude", "context", "licence"], None),
        (["captions", "prompt"], "captions"),
        (["the prompt"], "'the prompt'"),
        (["prompt\n"], None),
        ([], None),
    ],
)
def test_the_likeliest_column_is_offered(columns: list[str], offered: str | None) -> None:
    """By the words of its name, whatever its case; what is left out of pictures, or only sounds alike, is not."""
    assert offer(columns) == (offered and f"no captions: did you mean --caption-column {offered}?")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "dataset"])
def test_a_build_offers_it_and_takes_it_when_asked(kind: str, command: Command, tmp_path: Path) -> None:
    """At once on standard error, and in the notes; with --caption-column there is nothing left to say."""
    source = tmp_path / "raw"
    source.mkdir()
    (source / "a.png").write_bytes(PICTURE)
    row = {"file_name": "a.png", "size": "7", "prompt": "a cat"}
    if kind == "jsonl":
        (source / "metadata.jsonl").write_text(json.dumps(row))
    elif kind == "csv":
        (source / "metadata.csv").write_text("\n".join([",".join(row), ",".join(row.values())]))
    elif kind == "parquet":
        Dataset.from_list([row]).to_parquet(source / "metadata.parquet")
    else:
        source = tmp_path / "rows.parquet"
        Dataset.from_list([{"image": {"bytes": PICTURE, "path": None}, "prompt": ["a cat"]}]).to_parquet(source)
    build = ("build", source, "-a", "canny", "--resolution", "64", "--out")
    said = "no captions: did you mean --caption-column prompt?"
    ended = command(*build, tmp_path / "ds")
    assert said in ended.err
    assert f"1 x {said}" in ended.out
    heeded = command(*build, tmp_path / "other", "--caption-column", "prompt")
    assert "no captions" not in heeded.err + heeded.out
    assert "no caption\t0" in heeded.out


@pytest.mark.parametrize("column", ["text", "caption"])
def test_where_there_are_captions_nothing_is_offered(column: str, tmp_path: Path) -> None:
    """A column that is taken is enough, though another one looks like captions, too."""
    (tmp_path / "a.png").write_bytes(PICTURE)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", column: "a cat", "prompt": "a dog"}))
    source, notes = open_source(tmp_path), Notes()
    (entry,) = source.entries(notes)
    assert entry.text == ("a cat",)
    assert not notes.found
