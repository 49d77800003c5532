"""The dataset's README.md: what the Hub shows, and how the maps were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from condprep import __version__
from condprep.files import commit_json, commit_text
from condprep.layout import SPLITS, Layout
from condprep.options import BuildOptions
from condprep.plan import Plan
from condprep.shards import Counts
from condprep.sheet import draw_sheet
from condprep.stored import files

PREVIEW = "preview.jpg"


def write_card(
    layout: Layout, options: BuildOptions, plan: Plan, annotators: Sequence[Mapping[str, Any]], total: Counts
) -> None:
    """`.condprep/provenance.json`, a preview picture and README.md."""
    provenance = {
        "condprep": __version__,
        "annotators": list(annotators),
        "params": options.params,
        "geometry": {"resolution": options.resolution, "fit": options.fit, "max_upscale": options.max_upscale},
        "source": plan.config["requested"]["source"],
        "counts": {"inputs": plan.inputs} | {k: v for k, v in vars(total).items() if k != "files"},
    }
    commit_json(layout.private / "provenance.json", provenance)
    draw_sheet(files(layout.root), layout.private / PREVIEW, rows=6)
    commit_text(layout.root / "README.md", f"---\n{_header(options, total)}---\n\n{_body(options, plan, provenance)}")


def _header(options: BuildOptions, total: Counts) -> str:
    """The YAML that the Hub and `load_dataset` read."""
    from huggingface_hub import DatasetCardData

    pattern = "data/{0}-*.parquet" if options.format == "parquet" else "{0}/data-*.arrow"
    files = [{"split": split, "path": pattern.format(split)} for split in SPLITS if total.rows[split]]
    data = DatasetCardData(
        task_categories=["text-to-image"],
        tags=["controlnet", "condprep"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    return str(data.to_yaml()) + "\n"


def _body(options: BuildOptions, plan: Plan, provenance: Mapping[str, Any]) -> str:
    counts, annotators = provenance["counts"], provenance["annotators"]
    rows = ", ".join(f"{counts['rows'][split]:,} {split}" for split in SPLITS if counts["rows"][split])
    lines = [
        "# ControlNet training pairs",
        "",
        f"{rows} rows: pictures and condition maps that line up to the pixel, made by condprep {__version__}.",
        "",
        f"{plan.inputs:,} inputs, {sum(counts['rejects'].values()):,} rejected, {counts['enlarged']:,} enlarged; "
        + f"{counts['untouched']:,} hold their source's own bytes, {counts['without_caption']:,} have no caption. "
        + f"Geometry: fit `{options.fit}`, resolution {options.resolution}.",
        "",
        f"![pictures and their maps](.condprep/{PREVIEW})",
        "",
        "| column | annotator | parameters | weights (sha256) | licence |",
        "|---|---|---|---|---|",
        *map(_table_row, annotators),
        "",
        *_warning(annotators),
        "```python",
        _loading(options),
        "```",
        "",
    ]
    return "\n".join(lines)


def _table_row(annotator: Mapping[str, Any]) -> str:
    name = ":".join(filter(None, (annotator["annotator"], annotator["variant"])))
    parameters = ", ".join(f"{key} = {value}" for key, value in annotator["parameters"].items())
    weights = ", ".join(f"{file} `{sha256[:12]}`" for file, sha256 in annotator["weights"].items())
    return f"| {annotator['column']} | {name} | {parameters} | {weights} | {annotator['licence']} |"


def _warning(annotators: Sequence[Mapping[str, Any]]) -> list[str]:
    restricted = [annotator["column"] for annotator in annotators if not annotator["commercial"]]
    if not restricted:
        return []
    return [f"**The maps in {', '.join(restricted)} come from weights for non-commercial use only.**", ""]


def _loading(options: BuildOptions) -> str:
    if options.format == "parquet":
        return 'from datasets import load_dataset\n\ndataset = load_dataset("path/to/this/folder")'
    return 'from datasets import load_from_disk\n\ndataset = load_from_disk("path/to/this/folder")'
