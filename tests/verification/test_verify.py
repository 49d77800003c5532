"""`condprep verify`: findings by row, scores of every row, exit codes, the same whatever the workers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.command import Command
from support.datasets import OFFLINE, rows_of, written
from support.docs import DOCS, section, tables, ticked
from support.pictures import encoded, smooth

import condprep
from condprep.dataset.inspect import summarize
from condprep.dataset.pairs.base import padding
from condprep.dataset.pairs.open import Pair, open_pairs
from condprep.errors import UsageError
from condprep.verification.check import thresholds
from condprep.verification.findings import Finding, VerifyResult, keep, kept_result, named_columns, scores_path
from condprep.verification.groups import groups
from condprep.verification.opened import Opened, OpenedPair
from condprep.weights.find import Weights


def test_a_clean_dataset_has_no_findings(built: Path) -> None:
    """What condprep built is clean by its own checks."""
    result = condprep.verify(built, weights=OFFLINE)
    assert (result.rows, list(result.findings)) == (8, [])


def test_each_defect_is_found_in_its_row(defects: Path) -> None:
    """One finding for each planted defect, in the order of the rows, and none for the clean ones."""
    found = [(one.row, one.rule) for one in condprep.verify(defects, weights=OFFLINE).findings]
    rules = ["polarity", "grey-levels", "readable", "caption", "aspect", "duplicate-key"]
    assert found == list(enumerate(rules, start=1))


def test_findings_and_scores_do_not_depend_on_the_workers(defects: Path, tmp_path: Path) -> None:
    """One thread and five: the same findings, the same scores, byte for byte."""
    one = condprep.verify(defects, workers=1, scores=tmp_path / "one.parquet", weights=OFFLINE)
    five = condprep.verify(defects, workers=5, scores=tmp_path / "five.parquet", weights=OFFLINE)
    assert one.findings == five.findings
    assert one.scores.read_bytes() == five.scores.read_bytes()


def test_the_scores_have_every_row(defects: Path) -> None:
    """.NAME.verify.parquet beside the file: each row with its number, its key, its source and every score; unreadable ones too."""
    result = condprep.verify(defects, weights=OFFLINE)
    table = pq.read_table(result.scores)
    assert result.scores == defects.with_name(".rows.parquet.verify.parquet")
    assert table["row"].to_pylist() == list(range(8))
    assert table.column_names == ["row", "key", "source", *(name for group in groups() for name in group.scores)]
    assert table["kind"].to_pylist()[0] == "canny"
    assert table["image_width"].to_pylist() == [128] * 3 + [None] + [128] * 4
    assert [one.key for one in result.findings] == [table["key"][one.row].as_py() for one in result.findings]


def test_scores_of_our_own_dataset_lie_inside(built: Path) -> None:
    """Of a dataset of condprep they are in .condprep/, where nothing else looks; a second run replaces them."""
    for _ in range(2):
        assert condprep.verify(built, weights=OFFLINE).scores == built / ".condprep" / "verify.parquet"
    assert not list(built.parent.glob("*.verify.parquet*"))


def test_scores_are_no_rows_of_the_dataset_around_them(built: Path, tmp_path: Path) -> None:
    """After one file of a folder was verified, or a folder in it, the folder holds the rows that it held, also for `datasets`, which
    takes no file whose name begins with a dot."""
    folder = tmp_path / "all"
    for name in ("one.parquet", "more/two.parquet"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        written(rows_of(built)[:2], folder / name)
    for path in (folder / "one.parquet", folder / "more"):
        assert condprep.verify(path, checks=["structure"], weights=OFFLINE).rows == 2
    assert summarize(folder).rows == {"train": 4}
    assert condprep.verify(folder, checks=["structure"], weights=OFFLINE).rows == 4
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len([path for path in files if path.name.startswith(".")]) == len(files) - 2 == 4


def test_one_odd_row_is_found_without_a_word_of_the_kind(built: Path, tmp_path: Path) -> None:
    """In a dataset that does not say what its maps are, the one that is no Canny map is found, with its key."""
    rows = rows_of(built) * 3
    for number, row in enumerate(rows):
        rows[number] = row | {"key": f"key {number}"}
    rows[9]["conditioning_image"] = {"bytes": encoded(smooth(128, 128)[..., 0], "PNG"), "path": None}
    unsaid = written(rows, tmp_path / "r.parquet", "conditioning_image")
    findings = condprep.verify(unsaid, checks=["structure", "condition"], weights=OFFLINE).findings
    assert [(one.row, one.key, one.rule) for one in findings] == [(9, "key 9", "odd-kind")]


def test_thresholds_decide(defects: Path) -> None:
    """A threshold that is set is the one that counts."""
    settings = {"condition": {"max_grey": "1"}, "structure": {"max_aspect_error": 1000}}
    rules = {one.rule for one in condprep.verify(defects, settings=settings, weights=OFFLINE).findings}
    assert rules == {"polarity", "readable", "caption", "size", "duplicate-key"}


def test_a_dataset_without_rows(built: Path, tmp_path: Path) -> None:
    """0 rows are an error of usage, and leave no scores; 1 row is verified."""
    with pytest.raises(UsageError, match="has 0 rows"):
        condprep.verify(written([], tmp_path / "none.parquet"), weights=OFFLINE)
    assert [path.name for path in tmp_path.iterdir()] == ["none.parquet"]
    assert condprep.verify(written(rows_of(built)[:1], tmp_path / "one.parquet"), weights=OFFLINE).rows == 1


def test_without_the_vocabulary_a_note_says_so(defects: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where CLIP's vocabulary cannot be had, that is said, with the remedy, and the rest is verified."""
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "empty"))
    result = condprep.verify(defects, weights=Weights(offline=True))
    assert len(result.findings) == 6
    assert any("condprep weights pull bpe_simple_vocab_16e6.txt.gz" in note for note in result.notes)


def test_json_is_what_it_promises(command: Command, defects: Path) -> None:
    """`verify --json`: rows and findings with exactly their keys on stdout, and nothing else there; exit code 1."""
    ended = command("verify", defects, "--json")
    assert ended.code == 1
    assert ended.json.keys() == {"rows", "findings"}
    assert all(
        list(one) == ["row", "key", "source", "check", "rule", "severity", "reason"] for one in ended.json["findings"]
    )
    assert [one["row"] for one in ended.json["findings"]] == [1, 2, 3, 4, 5, 6]
    assert {one["check"] for one in ended.json["findings"]} == {"structure", "condition"}
    assert [one["rule"] for one in ended.json["findings"]][-2:] == ["aspect", "duplicate-key"]
    assert {one["source"] for one in ended.json["findings"]} == {None}


def called(path: Path, sources: list[str]) -> Path:
    """The Parquet file with a column that says where each row comes from, as a build's."""
    pq.write_table(pq.read_table(path).append_column("source", pa.array(sources)), path)
    return path


def test_findings_name_the_file_and_what_deals_with_them(command: Command, defects: Path) -> None:
    """In words each finding names the file that its row comes from, and each rule ends with a command that names the dataset."""
    called(defects, [f"{n}.png" for n in range(8)])
    assert [one["source"] for one in command("verify", defects, "--json").json["findings"]] == [
        f"{n}.png" for n in range(1, 7)
    ]
    ended = command("verify", defects)
    assert re.search(r"^  row 4  4\.png: the caption is missing", ended.out, re.MULTILINE)
    dealt = re.findall(r"^  deal with it: (.*)$", ended.out, re.MULTILINE)
    assert len(dealt) == 6
    assert f"condprep curate {defects} --out {defects}-mended --drop captionless" in dealt


def test_what_was_not_checked_is_said(command: Command, built: Path) -> None:
    """With --checks the others are named, so that their silence is not taken for content."""
    assert "not run: structure, alignment, curation" in command("verify", built, "--checks", "condition").out
    assert "not run" not in command("verify", built).out


def test_maps_that_were_not_looked_at_are_named(raw: Path, built: Path, tmp_path: Path) -> None:
    """Of a dataset with several maps one is verified, and which are not is said; one that two columns hold is no second one."""
    condprep.build(raw, tmp_path / "ds", ["canny", "gray"], resolution=64)
    for column, other in ((None, "gray"), ("canny", "gray"), ("gray", "canny")):
        notes = condprep.verify(tmp_path / "ds", condition_column=column, checks=["structure"], weights=OFFLINE).notes
        said = f"only the maps in {column or 'conditioning_image'!r} were looked at, not the pictures in {other!r}; "
        assert [note.startswith(said) for note in notes if "looked at" in note] == [True]
    assert not [
        note for note in condprep.verify(built, checks=["structure"], weights=OFFLINE).notes if "looked at" in note
    ]


def test_exit_codes(command: Command, built: Path, defects: Path, tmp_path: Path) -> None:
    """0 clean, 1 findings as severe as --fail-on, 2 misuse; warnings alone are 0 until --fail-on says otherwise."""
    assert command("verify", built).code == 0
    assert command("verify", defects).code == 1
    warned = written([row | {"text": ""} for row in rows_of(built)], tmp_path / "warned.parquet")
    assert command("verify", warned).code == 0
    assert command("verify", warned, "--fail-on", "warning").code == 1
    for misuse in (("verify", tmp_path / "nothing"), ("verify", built, "--set", "structure.multipel=8")):
        ended = command(*misuse)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith("error: ")


def test_the_words_name_rows_and_cannot_be_forged(command: Command, built: Path, tmp_path: Path) -> None:
    """The summary names rule and row; a name with markup and control characters is shown as text, on its line."""
    rows = rows_of(built)
    rows[3] |= {"text": None}
    sources = ["a.png"] * 3 + ["[red]x[/red]\x1b[31m\nrow 9"] + ["a.png"] * 4
    ended = command("verify", called(written(rows, tmp_path / "rows.parquet"), sources))
    assert "error structure: caption, 1 of 8 rows" in ended.out
    assert re.search(r"row 3  \[red\]x\[/red\]\[31m row 9: the caption is missing", ended.out)
    assert "\x1b" not in ended.out


def test_progress_counts_the_rows(built: Path) -> None:
    """The callback is told every row, and of how many."""
    seen: list[int] = []
    totals: set[int | None] = set()
    condprep.verify(
        built, weights=OFFLINE, progress=lambda state: (seen.append(state.done), totals.add(state.total))[0]
    )
    assert seen == list(range(1, 9))
    assert totals == {8}


def test_every_check_is_documented() -> None:
    """docs/checks.md has the rules of each group with their severities and thresholds, and a paragraph for each."""
    page = DOCS / "checks.md"
    for group in groups():
        text = section(page, f"## {group.name}")
        rules = [*group.checks, *group.fresh_surveys()]
        documented = {ticked(name)[0]: (severity, limits) for name, severity, limits in tables(text)[0]}
        assert list(documented) == [rule.name for rule in rules]
        assert re.findall(r"^\*\*([\w-]+)\*\*:", text, re.MULTILINE) == list(documented)
        limits: dict[str, float] = {}
        for rule in rules:
            severity, cell = documented[rule.name]
            own = {name: float(value) for name, value in re.findall(r"`(\w+)` = ([\d.]+)", cell)}
            assert severity == rule.severity
            assert all(getattr(rule, name) == value for name, value in own.items())
            limits |= own
        assert limits == thresholds(group)


def test_verify_is_quiet_about_what_it_imports() -> None:
    """Asking for the public function does not load it twice: the module has another name than the function."""
    assert condprep.verify is condprep.verify
    assert "condprep.verification.verify" in sys.modules
    assert json.dumps(sorted(condprep.__all__)).count('"verify"') == 1


def test_findings_are_kept_until_the_dataset_changes(defects: Path) -> None:
    """What was found lies beside the scores, equal to the result, and counts no more once the dataset is another."""
    result = condprep.verify(defects, weights=OFFLINE)
    columns = named_columns(result.scores)
    stamp = open_pairs(defects).stamp
    kept = kept_result(str(defects), result.scores, stamp, columns)
    assert kept is not None
    assert (kept.findings, kept.rows) == (result.findings, result.rows)
    assert kept_result(str(defects), result.scores, stamp, columns | {"caption": "other"}) is None
    os.utime(defects, ns=(0, 0))
    assert kept_result(str(defects), result.scores, open_pairs(defects).stamp, columns) is None


def test_a_dataset_that_changes_meanwhile_is_verified_again(defects: Path) -> None:
    """What was found while it changed is said to be, and is not kept as that of the dataset as it is now."""
    notes = condprep.verify(
        defects, weights=OFFLINE, progress=lambda at: os.utime(defects, ns=(at.done, at.done))
    ).notes
    assert [note for note in notes if "changed while it was looked at" in note]
    columns = named_columns(scores_path(defects))
    assert kept_result(str(defects), scores_path(defects), open_pairs(defects).stamp, columns) is None


def test_padding_is_no_fault_of_the_picture(tmp_path: Path) -> None:
    """`--fit pad` puts black around a picture: that is no bars, nor once curated; bars of the picture itself still are."""
    from skimage import data

    (tmp_path / "raw").mkdir()
    wide = [np.array(Image.fromarray(data.coffee()).resize((300, height))) for height in (151, 120, 150)]
    wide[2][:20] = wide[2][-20:] = 0
    for number, picture in enumerate(wide):
        Image.fromarray(picture).save(tmp_path / "raw" / f"{number}.png")
    condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", fit="pad", resolution=256)
    condprep.curate(tmp_path / "ds", tmp_path / "curated", weights=OFFLINE, drop="blurry")
    for dataset in ("ds", "curated"):
        found = condprep.verify(tmp_path / dataset, checks=["curation"], weights=OFFLINE)
        assert [one.row for one in found.findings if one.rule == "bars"] == [2]


def test_padding_is_read_from_nothing_but_a_transform() -> None:
    """Six finite numbers say how much is padded; crops (negative offsets), and whatever else lies there, say nothing."""
    assert padding([0.5, 0.0, 12.0, 0.0, 0.5, 3.0]) == (3, 12)
    for other in (
        [1.0, 0.0, -8.0, 0.0, 1.0, -2.0],
        [1.0, 0.0, float("nan"), 0.0, 1.0, float("inf")],
        None,
        "x",
        [9.0],
        5,
    ):
        assert padding(other) == (0, 0)
    picture = np.zeros((10, 10, 3), np.uint8)
    pair = Pair(0, "a", padding=(5, 900))  # more than there is: the dataset lies
    assert OpenedPair(pair, Opened(rgb=picture), Opened()).content is picture


@pytest.mark.slow
def test_keeping_findings_takes_no_memory(tmp_path: Path) -> None:
    """20,000 findings, 3 MB of them, are written in less than 1 MB of memory, and read back as they were."""
    long = "a reason of some length: <b>\u2028" * 4
    found = [Finding(n, f"key {n}", "structure", "truncated", "warning", long, n or None) for n in range(20_000)]
    (tmp_path / "verify.parquet").touch()
    result = VerifyResult("ds", 20_000, found, ["a note"], tmp_path / "verify.parquet", 1.5)
    tracemalloc.start()
    keep(result, "stamp", {"image": None})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert kept_result("ds", result.scores, "stamp", {"image": None}) == result


@pytest.mark.slow
def test_only_the_comparison_with_maps_made_again_needs_torch(built: Path) -> None:
    """The other checks do without it: half a gigabyte, and seconds of every start."""
    code = "import sys, condprep; condprep.verify(sys.argv[1], checks=sys.argv[2:]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, built, "structure", "condition", "curation"]).returncode == 0


def test_the_first_rows_alone_are_looked_at(defects: Path, command: Command) -> None:
    """--limit: the findings are those of the first rows, the scores of all rows stay, and it is said."""
    whole = condprep.verify(defects, weights=OFFLINE)
    kept = whole.scores.read_bytes()
    ended = command("verify", defects, "--limit", "3", "--json")
    assert ended.json["rows"] == 3
    assert ended.json["findings"] == [one.public() for one in whole.findings if one.row in (0, 1, 2)]
    assert "only the first 3 rows were looked at" in ended.err
    assert whole.scores.read_bytes() == kept
    assert command("verify", defects, "--limit", "0").code == 2
