"""The verbs that look something up: inspect, annotators, weights and doctor."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from support.command import Command
from support.pictures import size_of

from condprep.weights.pins import PINS


def test_inspect_tells_what_was_built(command: Command, raw: Path, tmp_path: Path) -> None:
    """`inspect`: rows, sizes and provenance, in words and as JSON; the sheet is a picture."""
    command("build", raw, "-a", "canny", "--out", tmp_path / "ds", "--validation", "0.4", "--resolution", "128")
    ended = command("inspect", tmp_path / "ds", "--sheet", tmp_path / "sheet.png", "--rows", "4")
    assert ended.code == 0
    assert "128 x 128" in ended.out
    assert "canny" in ended.out
    assert size_of(tmp_path / "sheet.png")[0] > 500
    summary = command("inspect", tmp_path / "ds", "--json").json
    assert sum(summary["rows"].values()) == 12
    assert summary["sizes"] == {"128 x 128": 12}
    assert summary["provenance"]["annotators"][0]["annotator"] == "canny"


@pytest.mark.parametrize("told", [(), ("--json",)])
def test_inspect_of_a_damaged_dataset_is_no_success(command: Command, tmp_path: Path, told: tuple[str, ...]) -> None:
    """A cut file is named, what could be read is counted, and the exit code is the one that `verify` has for it: 1."""
    for number, size in enumerate((None, 200)):
        path = tmp_path / f"data-0000{number}-of-00002.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, pa.schema({"text": pa.string()})) as writer:
            writer.write_batch(pa.record_batch({"text": ["a caption"] * 50}))
        os.truncate(path, size or path.stat().st_size)
    ended = command("inspect", tmp_path, *told)
    assert (ended.code, f"{path} is damaged" in ended.err) == (1, True)
    assert ended.json["rows"] == {"train": 50} if told else "train 50," in ended.out


def test_annotators_are_listed(command: Command) -> None:
    """`annotators`: each with its variants and its licence; non-commercial ones say so."""
    ended = command("annotators")
    assert ended.code == 0
    for word in ("canny:random", "--set canny.low=", "openpose:blaze", "non-commercial"):
        assert word in ended.out
    rows = {row["name"]: row for row in command("annotators", "--json").json}
    assert rows["canny"]["parameters"].keys() == {"low", "high"}
    assert rows["openpose"]["weights"]["cmu"] == ["body_pose_model.pth"]


def test_annotators_as_a_table(command: Command, tmp_path: Path) -> None:
    """`--table`: a line for each variant with its kind, licence, size and whether its weights are in the folder; models as such."""
    (tmp_path / "sk_model.pth").write_bytes(b"my own")
    asked = ("annotators", "--table", "--weights", tmp_path)
    rows = {row["annotator"]: row for row in command(*asked, "--json").json}
    assert (rows["lineart"]["kind"], rows["lineart"]["weights"], rows["lineart"]["here"]) == ("lineart", "17 MB", "yes")
    assert rows["canny"] == {
        "annotator": "canny",
        "kind": "canny",
        "licence": "Apache-2.0",
        "weights": "",
        "here": "yes",
    }
    assert "non-commercial" in rows["openpose:cmu"]["licence"]
    assert rows["segmentation:OWNER/MODEL"]["licence"] == "the model's own"
    assert "segmentation" not in rows
    assert "lineart:coarse" in command(*asked).out


def test_weights_are_listed_and_found(command: Command, tmp_path: Path) -> None:
    """`weights list` has every pinned file and where it lies; `weights where` a user's own, and 1 for a missing one."""
    (tmp_path / "hand_pose_model.pth").write_bytes(b"my own")
    rows = {row["name"]: row for row in command("weights", "list", "--weights", tmp_path, "--json").json}
    assert rows.keys() == {pin.name for pin in PINS}
    assert rows["hand_pose_model.pth"]["path"] == str(tmp_path / "hand_pose_model.pth")
    assert rows["hand_pose_model.pth"]["commercial"] is False
    ended = command("weights", "list", "--weights", tmp_path)
    assert "hand_pose_" in ended.out
    ended = command("weights", "where", "hand_pose_model.pth", "--weights", tmp_path)
    assert (ended.code, ended.out.strip()) == (0, str(tmp_path / "hand_pose_model.pth"))
    assert "not the published hand_pose_model.pth but your own" in ended.err


def test_missing_weights_end_with_1(
    command: Command, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are neither here nor reachable: 1, with the command that gets them on another machine."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("condprep.weights.hub.download", _no_network)
    ended = command("weights", "where", "ControlNetHED.pth")
    assert ended.code == 1
    assert "condprep weights pull ControlNetHED.pth" in ended.err
    ended = command("build", raw, "-a", "openpose:cmu", "--out", tmp_path / "ds")
    assert ended.code == 1
    assert "condprep weights pull body_pose_model.pth --to DIR" in ended.err


def _no_network(*_: object) -> None:
    raise OSError("no network")


def test_doctor_says_what_it_looked_at(command: Command, tmp_path: Path) -> None:
    """`doctor`: one finding each for Python, the packages, the disk and more, in words and as JSON."""
    ended = command("doctor", tmp_path)
    findings = command("doctor", tmp_path, "--json").json
    assert {"python", "packages", "opencv", "disk", "memory"} <= {finding["what"] for finding in findings}
    assert ended.code == any(finding["level"] == "error" for finding in findings)
    assert "python" in ended.out


def test_what_is_piped_is_a_row_a_line(command: Command, tmp_path: Path) -> None:
    """Not on a terminal, a table has tabs between whole values, and no line of any verb is broken at 80 columns."""
    found = {line.split("\t")[0]: line.split("\t") for line in command("weights", "list").out.splitlines()}
    assert found.pop("file")[1:] == ["size", "from", "licence", "sha256", "here"]
    assert {name: fields[3] for name, fields in found.items()} == {pin.name: pin.licence for pin in PINS}
    lines = command("annotators").out.splitlines()
    assert "  licence: CMU OpenPose licence, non-commercial use only; dwpose, blaze: Apache-2.0" in lines
    assert max(map(len, lines)) > 80


@pytest.mark.parametrize("verb", ["build", "verify", "curate", "report", "annotate", "inspect", "annotators", "doctor"])
def test_help_is_whole_at_80_columns(command: Command, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """-h is --help, and at 80 columns no option and no word of it is cut."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    short, long = command(verb, "-h"), command(verb, "--help")
    assert short.code == 0
    assert short.out == long.out
    assert "\N{HORIZONTAL ELLIPSIS}" not in short.out
    assert max(map(len, short.out.splitlines())) <= 80
