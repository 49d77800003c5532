"""`condprep report`: the page tells what verify found, the worst first, and stays small; nothing in a dataset is markup."""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.command import Command
from support.datasets import HOSTILE, OFFLINE, rows_of, written
from support.pictures import encoded, smooth

import condprep
from condprep.errors import UsageError
from condprep.reporting.choice import BADNESS, choose_rows, worst_first
from condprep.reporting.histograms import histograms
from condprep.reporting.report import ReportResult
from condprep.reporting.thumbnails import SIDES, fitting_side, thumbnail
from condprep.verification.findings import Finding
from condprep.verification.groups import groups


class Elements(HTMLParser):
    """The tags of a page with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str, word: str = "") -> list[dict[str, str | None]]:
        """The attributes of those elements whose class has the word."""
        return [found for name, found in self.tags if name == tag and word in (found.get("class") or "")]


def made(dataset: Path, tmp_path: Path, **options: Any) -> tuple[ReportResult, Elements]:
    result = condprep.report(dataset, tmp_path / "report.html", weights=OFFLINE, **options)
    return result, Elements((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_page_shows_what_verify_found(defects: Path, tmp_path: Path) -> None:
    """Every row with its findings in words, every rule with its count; the numbers are those of `verify`."""
    result, page = made(defects, tmp_path)
    assert result.shown == result.rows == 8
    assert {card["data-row"] for card in page.of("article")} == {str(row) for row in range(8)}
    for finding in result.verified.findings:
        assert finding.reason in page.text
    rules = Counter(f"{one.check}: {one.rule}" for one in result.verified.findings)
    assert {found["data-rule"] for found in page.of("button", "link")} == set(rules)
    ranked: Counter[str] = Counter()
    for card in page.of("article"):
        ranked.update(json.loads(card["data-ranks"] or ""))
    assert ranked.keys() == rules.keys()


def test_rows_with_findings_come_first(defects: Path, tmp_path: Path) -> None:
    """The cards are in order of severity: rows without findings are the last."""
    _, page = made(defects, tmp_path)
    clean = ["clean" in (card["class"] or "") for card in page.of("article")]
    assert clean == sorted(clean)
    assert 0 < sum(clean) < len(clean)


def test_a_dataset_is_verified_once(built: Path, tmp_path: Path) -> None:
    """What `verify` found is taken as it is while the dataset stays the same, thresholds included."""
    before = condprep.verify(built, weights=OFFLINE, settings={"structure": {"multiple": 96}})
    assert before.findings
    seen: list[Any] = []
    result, _ = made(built, tmp_path, progress=seen.append)
    assert result.verified == before
    assert not seen
    (built / ".condprep" / "verify.findings.json").unlink()
    assert not made(built, tmp_path)[0].verified.findings


def test_a_report_says_which_checks_were_not_run(built: Path, tmp_path: Path) -> None:
    """What `verify --checks` left out is named on the page and in its result: no warnings of theirs mean nothing."""
    condprep.verify(built, weights=OFFLINE, checks=["condition"])
    result, _ = made(built, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    said = f"not run: structure, alignment, curation; `condprep verify {built}` runs every check"
    assert result.verified.gap == said
    assert said in page
    assert "every check that was run is content" in page
    condprep.verify(built, weights=OFFLINE)
    assert not made(built, tmp_path)[0].verified.gap
    assert "not run" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_a_dataset_says_is_never_markup(built: Path, tmp_path: Path) -> None:
    """Tags in captions and keys are text: one script, the pictures of the pairs, and no handler of events."""
    rows = [row | {"text": HOSTILE, "key": HOSTILE + row["key"]} for row in rows_of(built)]
    _, page = made(written(rows, tmp_path / "rows.parquet"), tmp_path)
    assert (len(page.of("script")), len(page.of("img"))) == (1, 16)
    assert page.text.count(HOSTILE) == 16
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]


@pytest.mark.parametrize("listed", [True, False])
def test_one_of_a_pair_is_shown_without_the_other(tmp_path: Path, listed: bool) -> None:
    """Of a row whose map cannot be read the picture is shown, and in the map's place why; and the other way round."""
    for name, data in {"image/0": encoded(smooth()), "map/0": b"", "image/1": b"", "map/1": encoded(smooth())}.items():
        (tmp_path / "ds" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ds" / f"{name}.png").write_bytes(data)
    if listed:
        rows = [{"image": f"image/{row}.png", "map": f"map/{row}.png"} for row in range(2)]
        (tmp_path / "ds" / "prompt.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, page = made(tmp_path / "ds", tmp_path, image_column="image", condition_column="map")
    assert Counter(found["alt"] for found in page.of("img")) == {"picture": 1, "map": 1}
    assert len(page.of("span", "none")) == len(page.of("article")) == 2


def test_the_page_asks_for_nothing(built: Path, tmp_path: Path) -> None:
    """Every address in it is a part of itself; its policy allows our script and style by their hashes, and no address."""
    _, page = made(built, tmp_path)
    addresses = [found.get(name) for _, found in page.tags for name in ("src", "href") if found.get(name)]
    assert addresses
    assert all(address and address.startswith(("data:", "#")) for address in addresses)
    policy = next(found["content"] for found in page.of("meta") if found.get("http-equiv")) or ""
    assert policy.startswith("default-src 'none';")
    assert len(re.findall(r"(?:script|style)-src 'sha256-[\w+/=]+'(?:;|$)", policy)) == 2
    assert "unsafe" not in policy
    assert not [found for _, found in page.tags if "style" in found]


def test_every_annotator_has_its_map(raw: Path, tmp_path: Path) -> None:
    """Of a dataset with several maps a pair shows each, named by its column, and the page can choose among them."""
    condprep.build(raw, tmp_path / "ds", ["canny", "canny:random"], resolution=64)
    _, page = made(tmp_path / "ds", tmp_path)
    maps = [found["data-map"] for found in page.of("figure", "map")]
    assert Counter(maps) == {"canny": 12, "canny_random": 12}
    assert {"canny", "canny_random"} < {found.get("value") for found in page.of("option")}
    assert "canny:random" in page.text


def test_rejects_are_shown_with_their_pictures(raw: Path, tmp_path: Path) -> None:
    """Each reject with its reason; with the source its picture, or why there is none; without it the page says so.

    What the dataset became since, as one with a further column, changes nothing about it.
    """
    Image.fromarray(smooth(16, 16)).save(raw / "small.png")
    (raw / "<b>broken.jpg").write_text("no picture")
    condprep.build(raw, tmp_path / "ds", "canny", resolution=128)
    _, page = made(tmp_path / "ds", tmp_path, source=raw)
    assert len(page.of("figure", "reject")) == 2
    assert "<b>broken.jpg" in page.text
    pictures = [found for found in page.of("img") if found["alt"] == "rejected picture"]
    assert [(found["width"], found["height"]) for found in pictures] == [("16", "16")]
    condprep.add_columns(tmp_path / "ds", "gray")
    assert [
        found for found in made(tmp_path / "ds", tmp_path, source=raw)[1].of("img") if found in pictures
    ] == pictures
    _, without = made(tmp_path / "ds", tmp_path)
    assert not [found for found in without.of("img") if found["alt"] == "rejected picture"]
    assert "with --source" in without.text
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"image": [encoded(smooth())]}), other)
    assert "cannot be shown" in made(tmp_path / "ds", tmp_path, source=other)[1].text


def test_rejected_pairs_are_shown_too(tmp_path: Path) -> None:
    """Of imported pairs, whose columns were named, the source is opened as it was, and shows the rejected picture."""
    picture, edges = encoded(smooth(64, 64), "PNG"), encoded(smooth(64, 32)[..., 0], "PNG")
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    good = encoded(np.where(smooth(64, 64)[..., 0] > 200, 255, 0).astype(np.uint8), "PNG")
    cells = {"left": [picture] * 2, "right": [good, edges]}
    table = {name: pa.array([{"bytes": data, "path": None} for data in of], image) for name, of in cells.items()}
    (tmp_path / "hf").mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.table(table), tmp_path / "hf" / f"{split}-00000-of-00001.parquet")
    columns = {"image_column": "left", "condition_column": "right"}
    result = condprep.build(tmp_path / "hf", tmp_path / "ds", split="test", **columns)
    assert (result.rows, sum(result.rejects.values())) == ({"train": 1}, 1)
    _, page = made(tmp_path / "ds", tmp_path, source=tmp_path / "hf")
    pictures = [found for found in page.of("img") if found["alt"] == "rejected picture"]
    assert [(found["width"], found["height"]) for found in pictures] == [("64", "64")]


def test_a_reject_list_cannot_name_files_outside_of_the_source(raw: Path, tmp_path: Path) -> None:
    """A dataset that lists ../secret.png among its rejects does not get that picture onto the page."""
    condprep.build(raw, tmp_path / "ds", "canny", resolution=64)
    Image.fromarray(smooth()).save(tmp_path / "secret.png")
    line = json.dumps({"source": "../secret.png", "stage": "fit", "reason": "too small", "code": "too-small"})
    (tmp_path / "ds" / ".condprep" / "rejects.jsonl").write_text(line + "\nnot JSON\n")
    _, page = made(tmp_path / "ds", tmp_path, source=raw)
    assert not [found for found in page.of("img") if found["alt"] == "rejected picture"]
    assert "not in the source any more" in page.text
    assert "a damaged line of rejects.jsonl" in page.text
    assert "too-small" in page.text


def test_what_is_recorded_is_shown_and_not_trusted(built: Path, tmp_path: Path) -> None:
    """Annotator, parameters and geometry are on the page; records of any other shape do not stop it."""
    _, page = made(built, tmp_path)
    assert "high: 200; low: 100" in page.text
    assert "fit: crop" in page.text
    recorded = built / ".condprep" / "provenance.json"
    kept = recorded.read_text()
    try:
        for odd in ("[]", '{"annotators": 3}', '{"annotators": [{"column": {}}, 7], "x": [null]}', "{"):
            recorded.write_text(odd)
            assert made(built, tmp_path)[0].shown == 8
    finally:
        recorded.write_text(kept)


@pytest.mark.slow
def test_a_large_dataset_is_sampled(tmp_path: Path) -> None:
    """Of more rows than fit, the page shows the worst of every rule and others, says so, and counts all of them."""
    picture = encoded(smooth(64, 64))
    edges = encoded(np.where(smooth(64, 64)[..., 0] > 200, 255, 0).astype(np.uint8), "PNG")
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    texts = [None if n % 20 == 7 else f"number {n}" for n in range(60)]
    columns = {"image": (image, picture), "conditioning_image": (image, edges)}
    table = {name: pa.array([{"bytes": data, "path": None}] * 60, kind) for name, (kind, data) in columns.items()}
    pq.write_table(pa.table(table | {"text": pa.array(texts)}), tmp_path / "rows.parquet")
    result, page = made(tmp_path / "rows.parquet", tmp_path, pairs=10)
    assert (result.rows, result.shown) == (60, 10)
    assert "A sample: 10 of 60 rows" in page.text
    assert {str(row) for row in range(7, 60, 20)} < {card["data-row"] for card in page.of("article")}
    size = next(one for one in histograms(result.verified.scores, None) if one.title == "Size")
    assert [(bar.name, bar.rows) for bar in size.bars] == [("64 × 64", 60)]


def test_odd_rows_are_shown_all_the_same(built: Path, tmp_path: Path) -> None:
    """A row that cannot be decoded, sizes that differ, a caption that is none, a damaged file: all on the page."""
    rows = rows_of(built)
    rows[0]["image"]["bytes"] = b"no picture"
    rows[1]["text"] = None
    rows[2]["conditioning_image"]["bytes"] = encoded(smooth(300, 40)[..., 0], "PNG")
    rows[3]["image"] = rows[4]["conditioning_image"] = {"bytes": None, "path": None}
    _, page = made(written(rows, tmp_path / "rows.parquet"), tmp_path)
    assert len(page.of("article")) == 8
    assert Counter(found["alt"] for found in page.of("img")) == {"picture": 6, "map": 7}
    assert len(page.of("span", "none")) == 3
    folder = tmp_path / "two"
    folder.mkdir()
    written(rows[4:], folder / "a.parquet")
    (folder / "b.parquet").write_bytes(b"PAR1 damaged PAR1")
    _, page = made(folder, tmp_path)
    assert len(page.of("article")) == 4
    assert "b.parquet is damaged" in page.text


def test_two_folders_are_reported(tmp_path: Path) -> None:
    """A dataset of loose files has a page, too: orphans as findings of no row, no provenance, no rejects."""
    for name in ("image/1.png", "image/2.png", "canny/1.png"):
        (tmp_path / "pairs" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth()).save(tmp_path / "pairs" / name)
    result, page = made(tmp_path / "pairs", tmp_path)
    assert result.rows == 1
    assert "image/2.png has no map of its own" in page.text
    assert "was not built by condprep" in page.text


def test_a_page_that_cannot_be_is_refused(built: Path, tmp_path: Path, command: Command) -> None:
    """No dataset, a number of pairs that no browser bears: exit code 2, and no file."""
    with pytest.raises(UsageError, match="pairs = 0"):
        condprep.report(built, tmp_path / "report.html", pairs=0)
    ended = command("report", str(tmp_path / "nothing"), "-o", str(tmp_path / "report.html"))
    assert (ended.code, ended.out) == (2, "")
    assert not (tmp_path / "report.html").exists()


def test_the_command_names_the_page(built: Path, tmp_path: Path, command: Command) -> None:
    """Standard output is the path of the page; how much of the dataset it shows is said beside."""
    ended = command("report", str(built), "-o", str(tmp_path / "report.html"), "--pairs", "5")
    assert (ended.code, ended.out.strip()) == (0, str(tmp_path / "report.html"))
    assert "5 of 8 rows" in ended.err


def test_the_worst_row_of_a_rule_comes_first(tmp_path: Path) -> None:
    """Rows of a rule with a measure are ordered by it; of any other by how grave their other findings are, then by row."""
    scores = {"row": [0, 1, 2, 3], "tokens": [80, 300, 90, 5]}
    pq.write_table(pa.table(scores), tmp_path / "verify.parquet")
    findings = [Finding(row, "", "structure", "truncated", "warning", "") for row in (0, 1, 2)]
    findings += [Finding(row, "", "condition", "polarity", "error", "") for row in (0, 2, 3)]
    findings += [
        Finding(3, "", "condition", "kind", "error", ""),
        Finding(None, "", "structure", "readable", "error", ""),
    ]
    worst = worst_first(findings, tmp_path / "verify.parquet")
    assert worst == {
        "condition: polarity": [3, 0, 2],
        "condition: kind": [3],
        "structure: truncated": [1, 2, 0],
    }


def test_every_measure_is_one_that_its_check_has() -> None:
    """The rules and scores by which rows are ordered exist."""
    scores = {(group.name, name) for group in groups() for name in (*group.scores, "row")}
    rules = {
        f"{group.name}: {rule.name}" for group in groups() for rule in (*group.checks, *(s() for s in group.surveys))
    }
    assert rules >= BADNESS.keys()
    for rule, (columns, _) in BADNESS.items():
        assert {(rule.partition(":")[0], column) for column in columns} <= scores


@pytest.mark.parametrize("rows", [0, 5, 50, 5000])
def test_rows_are_chosen_once_and_fairly(rows: int) -> None:
    """At most as many as wanted, all different; the worst of every rule; clean rows while there are any; repeatable."""
    worst = {"a": list(range(0, rows, 2)), "b": [rows - 1] if rows else [], "c": list(range(0, rows, 10))}
    chosen = choose_rows(worst, rows, 40, seed=1)
    assert len(chosen) == len(set(chosen)) == min(rows, 40)
    assert set(chosen) <= set(range(rows))
    assert {of_rule[0] for of_rule in worst.values() if of_rule} <= set(chosen)
    bad = {row for of_rule in worst.values() for row in of_rule}
    clean = [row not in bad for row in chosen]
    assert clean == sorted(clean)
    assert sum(clean) == min(rows - len(bad), max(10, 40 - len(bad)))
    assert chosen == choose_rows(worst, rows, 40, seed=1)


def test_thumbnails_keep_their_aspect_and_never_grow() -> None:
    """The longer side is the wanted one where the picture is larger; what cannot be decoded says why."""
    large, small = thumbnail(encoded(smooth(100, 400)), 256), thumbnail(encoded(smooth(10, 20)), 256)
    assert (large.size, small.size) == ((256, 64), (20, 10))
    decoded = Image.open(io.BytesIO(b64decode(large.uri.partition(",")[2])))
    assert (decoded.format, decoded.size) == ("WEBP", (256, 64))
    assert "picture" in thumbnail(b"nothing", 256).problem


def test_thumbnails_shrink_as_pictures_grow_in_number() -> None:
    """More pictures on a page never have larger thumbnails, and few have the largest."""
    sides = [fitting_side(n, 8_500_000) for n in range(1, 2000, 50)]
    assert sides == sorted(sides, reverse=True)
    assert set(sides) == set(SIDES)
