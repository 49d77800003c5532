"""The dataset's README.md: what the Hub shows, and how the maps were made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from condprep import __version__
from condprep.annotators.protocol import full_name
from condprep.dataset.contact_sheet import draw_sheet
from condprep.dataset.layout import SPLITS, Layout
from condprep.dataset.reader import files
from condprep.errors import REJECTS
from condprep.runtime.files import commit_json, commit_text
from condprep.runtime.text import markdown

PREVIEW = "preview.jpg"
PATTERNS = {"arrow": "{0}/data-*.arrow", "parquet": "data/{0}-*.parquet", "webdataset": "data/{0}-*.tar"}
_LOADING = re.compile(r"from datasets import \w+\n\ndataset = \w+\(.*\)\n```")


def write_card(layout: Layout, provenance: Mapping[str, Any], rows: Mapping[str, int] | None = None) -> None:
    """`.condprep/provenance.json`, a preview picture and README.md.

    rows: of each file of the dataset by its name, where they are known; else the files are read through to count them.
    """
    commit_json(layout.private / "provenance.json", provenance)
    if provenance["format"] != "webdataset":
        _draw_preview(layout, rows)
    commit_text(layout.root / "README.md", f"---\n{_header(provenance)}---\n\n{_body(provenance)}")


def _draw_preview(layout: Layout, rows: Mapping[str, int] | None) -> None:
    found = files(layout.root)
    lengths = [rows[file.path.relative_to(layout.root).as_posix()] for file in found] if rows else None
    draw_sheet(found, layout.private / PREVIEW, rows=6, lengths=lengths)


def _header(provenance: Mapping[str, Any]) -> str:
    """The YAML that the Hub and `load_dataset` read."""
    from huggingface_hub import DatasetCardData

    pattern = PATTERNS[provenance["format"]]
    rows = provenance["counts"]["rows"]
    data = DatasetCardData(
        task_categories=["text-to-image"],
        tags=["controlnet", "condprep"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": pattern.format(split)} for split in SPLITS if split in rows],
            }
        ],
    )
    return str(data.to_yaml()) + "\n"


def _body(provenance: Mapping[str, Any]) -> str:
    counts, geometry, annotators = (provenance[name] for name in ("counts", "geometry", "annotators"))
    rows = ", ".join(f"{counts['rows'][split]:,} {split}" for split in SPLITS if split in counts["rows"])
    load = "load_from_disk" if provenance["format"] == "arrow" else "load_dataset"
    lines = [
        "# ControlNet training pairs",
        "",
        f"{rows} rows: pictures and condition maps that line up to the pixel, made by condprep {__version__}.",
        "",
        f"{counts['inputs']:,} inputs, {sum(counts['rejects'].values()):,} rejected, {counts['enlarged']:,} enlarged; "
        f"{counts['untouched']:,} hold their source's own bytes, {counts['without_caption']:,} have no caption. "
        f"Geometry: fit `{markdown(geometry['fit'])}`, resolution {geometry['resolution']}.",
        "",
        *map(_rejected, sorted(counts["rejects"].items(), key=lambda one: (-one[1], one[0]))),
        *map(_lacking, sorted(counts.get("without_map", {}).items())),
        *[""] * bool(counts["rejects"] or counts.get("without_map")),
        *map(_curated, provenance.get("curation", [])),
        *[f"![pictures and their maps](.condprep/{PREVIEW})", ""] * (provenance["format"] != "webdataset"),
        "| column | annotator | parameters | weights (sha256) | licence |",
        "|---|---|---|---|---|",
        *map(_table_row, annotators),
        "",
        *_warning(annotators),
        "```python",
        f"from datasets import {load}",
        "",
        f'dataset = {load}("path/to/this/folder")',
        "```",
        "",
    ]
    return "\n".join(lines)


def on_hub(card: str, name: str) -> str:
    """A dataset's card as it is shown on the Hub, where others load it by its name."""
    return _LOADING.sub(
        lambda _: f'from datasets import load_dataset\n\ndataset = load_dataset("{name}")\n```', card, count=1
    )


def _table_row(annotator: Mapping[str, Any]) -> str:
    name = full_name(annotator["annotator"], annotator["variant"])
    parameters = ", ".join(markdown(f"{key} = {value}") for key, value in sorted(annotator["parameters"].items()))
    weights = ", ".join(f"{markdown(file)} `{markdown(sha256[:12])}`" for file, sha256 in annotator["weights"].items())
    column, licence = markdown(annotator["column"]), markdown(annotator["licence"])
    return f"| {column} | {markdown(name)} | {parameters} | {weights} | {licence} |"


def _rejected(item: tuple[str, int]) -> str:
    """How many inputs became no rows for one reason."""
    code, inputs = item
    return f"- {inputs:,} x `{markdown(code)}`" + (f": {REJECTS[code]}" if code in REJECTS else "")


def _lacking(item: tuple[str, int]) -> str:
    """How many rows have no map in a column to which it was added, for one reason."""
    column, _, code = item[0].partition(": ")
    return f"- {item[1]:,} rows without a map in `{markdown(column)}`: `{markdown(code)}`"


def _curated(done: Mapping[str, Any]) -> str:
    """What `condprep curate` did, a paragraph."""
    dropped = ", ".join(f"{markdown(name)} {rows:,}" for name, rows in done["dropped"].items()) or "nothing"
    repaired = "".join(f"; {markdown(repair)}: {rows:,}" for repair, rows in done["repaired"].items())
    return f"Curated, which left out: {dropped}{repaired}.\n"


def _warning(annotators: Sequence[Mapping[str, Any]]) -> list[str]:
    restricted = [markdown(annotator["column"]) for annotator in annotators if not annotator["commercial"]]
    if not restricted:
        return []
    return [f"**The maps in {', '.join(restricted)} come from weights for non-commercial use only.**", ""]
