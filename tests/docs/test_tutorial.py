"""docs/tutorial.md is walked from its first command to its last: each works, in this order, with what the one before left."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from PIL import Image
from support.command import Command
from support.docs import DOCS, ROOT, fences
from typer.main import get_command

from condprep.dataset.splits import enough
from trainer.cli.main import app

PAGE = DOCS / "tutorial.md"
SHORTER = (  # of a run that is to end, not to learn
    *("train.steps=2", "train.warmup=0", "eval.every=2", "eval.samples=1", "eval.fidelity=false"),
    *("eval.sampler_steps=1", 'log.tracker="none"', "save.every=2"),
)


def lines(language: str) -> list[list[str]]:
    """The words of every line of the page's blocks of a language."""
    found = [line for fence in fences(PAGE) if fence.language == language for line in fence.text.splitlines()]
    return [shlex.split(line) for line in found]


def train(words: list[str]) -> None:
    """`python -m trainer WORDS`, its training of two updates."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    if words[0] not in commands:
        words = ["train", *words, *(part for setting in SHORTER for part in ("--set", setting))]
    words += {"sample": ["--steps", "2", "--device", "cpu"], "app": ["--port", "0", "--device", "cpu"]}.get(
        words[0], []
    )
    app(words, standalone_mode=False)


@pytest.mark.slow
def test_the_tutorial_leads_to_a_picture(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photographs become pairs, a ControlNet and a picture of 64 x 64 px; what the page quotes of a build is what it says."""
    monkeypatch.chdir(tmp_path)
    served: list[object] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda _, sockets: served.extend(sockets))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for fence in fences(PAGE):
        if fence.language == "python":
            exec(compile(fence.text, str(PAGE), "exec"), {"__name__": "tutorial"})
    said = ""
    for program, *words in lines("sh"):
        if program == "condprep":
            ended = command(*words)
            assert ended.code == 0, ended.err
            said += ended.out + ended.err
        else:
            assert (program, words[:2]) == ("python", ["-m", "trainer"])
            train(words[2:])
    for line in lines("text"):
        assert " ".join(line) in " ".join(said.split())
    assert "rows train 8, validation 3" in " ".join(said.split())
    assert served, "the page was ready to be shown"
    with Image.open(tmp_path / "sample.png") as picture:
        assert picture.size == (64, 64)


def test_the_share_that_is_named_is_the_one_that_is_taken() -> None:
    """The page's split is the one that the build before it proposes for so many rows."""
    (split,) = (words for words in lines("sh") if words[:2] == ["condprep", "split"])
    assert split[-1] == str(enough(11))
