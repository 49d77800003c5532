"""`condprep annotators`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from condprep.cli import console
from condprep.cli.options import Json, WeightsFolder, open_weights

if TYPE_CHECKING:
    from condprep.annotators.protocol import AnnotatorSpec
    from condprep.weights.find import Weights

AsTable = Annotated[
    bool, Option("--table", help="a line for each variant: kind, licence, size of its weights, whether they are here")
]
TITLES = ("annotator", "kind", "licence", "weights", "here")


def annotators(table: AsTable = False, weights: WeightsFolder = None, as_json: Json = False) -> None:
    """The annotators, their variants, parameters, licences and weights."""
    from condprep.annotators.registry import specs

    if table:
        store = open_weights(weights)
        lines = [line for spec in specs().values() for line in _table(spec, store)]
        if as_json:
            console.print_json([dict(zip(TITLES, line)) for line in lines])
        else:
            console.show_table(TITLES, lines)
        return
    rows = [_row(spec) for spec in specs().values()]
    if as_json:
        console.print_json(rows)
        return
    for row in rows:
        _show(row)


def _table(spec: AnnotatorSpec, store: Weights) -> list[tuple[str, ...]]:
    """A row for each variant: its weights' size together, and whether they lie on this machine."""
    from condprep.annotators.kinds import kind_of_annotator
    from condprep.annotators.protocol import full_name
    from condprep.weights.pins import pin

    rows: list[tuple[str, ...]] = []
    named = list(spec.variants or ([] if spec.open_variant else [""]))
    for variant in [*named, *["OWNER/MODEL"] * bool(spec.open_variant)]:
        pins = [pin(file) for file in spec.weights.get(variant, ())]
        licence = "; ".join(dict.fromkeys(one.licence for one in pins)) or spec.licence
        size = f"{sum(one.size for one in pins) / 1e6:.0f} MB" if pins else ""
        here = "yes" if all(store.locate(one.name) for one in pins) else "no"
        if spec.weights and variant not in spec.weights:  # it is one of the others, whichever can be had
            here = ""
        kind = kind_of_annotator(spec.name, variant) or ""
        if variant == "OWNER/MODEL":
            licence, here = "the model's own", ""
        rows.append((full_name(spec.name, variant), kind, licence, size, here))
    return rows


def _row(spec: AnnotatorSpec) -> dict[str, Any]:
    from condprep.annotators.registry import parameters

    return {
        "name": spec.name,
        "summary": spec.summary,
        "aliases": list(spec.aliases),
        "variants": dict(spec.variants),
        "parameters": parameters(spec),
        "licence": spec.licence,
        "weights": {variant: list(files) for variant, files in spec.weights.items()},
    }


def _show(row: Mapping[str, Any]) -> None:
    from condprep.cli.terminal import escape, out

    out.print(f"[bold]{row['name']}[/]  {escape(row['summary'])}")
    for variant, line in row["variants"].items():
        out.print(f"  [cyan]{row['name']}{':' * bool(variant)}{variant}[/]  {escape(line)}")
    for name, line in row["parameters"].items():
        out.print(f"  --set {row['name']}.{name}=...  {escape(line)}", highlight=False)
    out.print(f"  licence: {escape(row['licence'])}", highlight=False)
