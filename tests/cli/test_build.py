"""`condprep build`: what it prints, as words and as JSON, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from support.command import Command
from typer.main import get_command

from condprep.building.options import BuildOptions, parse_shard_size
from condprep.cli import main, stopping

SMALL = ("--resolution", "128")


def test_a_build_from_the_command_line(command: Command, raw: Path, tmp_path: Path) -> None:
    """0, the summary on stdout, and a dataset; the same command again says that it is all done."""
    arguments = ("build", raw, "--annotator", "canny", "--out", tmp_path / "ds", *SMALL)
    ended = command(*arguments)
    assert ended.code == 0
    assert ended.err.startswith("no rows are held out")
    assert ended.err.count("\n") == 1
    assert "12 = 12 rows + 0 rejected" in ended.out
    assert "canny; low = 100; high = 200; Apache-2.0" in ended.out
    assert load_from_disk(str(tmp_path / "ds"))["train"].num_rows == 12
    again = command(*arguments).out
    assert "12 done before" in again
    assert "canny; low = 100; high = 200; Apache-2.0" in again


def test_json_counts_every_input(command: Command, raw: Path, tmp_path: Path) -> None:
    """--json prints JSON alone, in which inputs = rows + rejects, also when the build fails."""
    (raw / "bad.jpg").write_text("no picture")
    arguments = ("build", raw, "-a", "canny", "--out", tmp_path / "ds", *SMALL, "--json")
    for code, more in ((0, ()), (1, ("--max-rejects", "0.01"))):
        ended = command(*arguments, *more)
        assert ended.code == code
        result = ended.json
        assert result["inputs"] == 13 == sum(result["rows"].values()) + sum(result["rejects"].values())
        assert result["rejects"] == {"unknown-format": 1}
    assert "1 of 13 inputs (7.7%) were rejected, more than 1.0%" in ended.err


def test_all_bad_is_a_failure(command: Command, tmp_path: Path) -> None:
    """Nothing built: 1, with the reasons and the counts."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "bad.jpg").write_bytes(b"")
    ended = command("build", tmp_path / "raw", "-a", "canny", "--out", tmp_path / "ds")
    assert ended.code == 1
    assert "error: none of 1 inputs became a row of the training split: empty: no bytes at all (1)" in ended.err
    assert "1 = 0 rows + 1 rejected" in ended.out


def test_the_defaults_of_the_command_are_those_of_a_build() -> None:
    """What `--help` says is the default is what `condprep.build` takes where nothing is said."""
    command: Any = get_command(main.app)
    said = {parameter.name: parameter.default for parameter in command.commands["build"].params}
    said |= {"fit": said["fit"] or "crop"} | parse_shard_size(said.pop("shard_size"))
    meant = {name: field.default for name, field in BuildOptions.model_fields.items() if name in said}
    assert {name: said[name] for name in meant} == meant
    assert meant.keys() == BuildOptions.model_fields.keys() - {"annotators", "params", "beside"}


@pytest.mark.parametrize(("verb", "goes_on"), [("build", True), ("inspect", False)])
def test_a_stop_promises_only_what_holds(
    command: Command, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, goes_on: bool
) -> None:
    """Ctrl-C: exit code 1 and one line, which says that the same command goes on where that is so."""
    for call in ("condprep.building.build.build", "condprep.dataset.inspect.summarize"):
        monkeypatch.setattr(call, lambda *_, **__: stopping._stop())
    ended = command(*(("build", raw, "-a", "canny", "--out", tmp_path / "ds") if verb == "build" else (verb, raw)))
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: stopped")
    assert ("the same command goes on from there" in ended.err) == goes_on


def test_commands_that_are_offered_can_be_pasted(command: Command, raw: Path, tmp_path: Path) -> None:
    """A folder's name that a shell would take apart is quoted, whichever verb offers the next one."""
    ds, both = tmp_path / "my ds", tmp_path / "both $(x)"
    said = command("build", raw, "-a", "canny", "--resolution", 64, "--limit", 2, "--out", ds).err
    assert f"`condprep split '{ds}' --validation" in said
    assert f"`condprep curate '{both}' --out NEW" in command("merge", ds, ds, "--out", both).err
    assert f"`condprep verify '{ds}'` runs every check" in command("verify", ds, "--checks", "structure").out
