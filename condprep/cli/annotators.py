"""`condprep annotators`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from condprep.cli import console
from condprep.cli.options import Json

if TYPE_CHECKING:
    from condprep.annotators.protocol import AnnotatorSpec


def annotators(as_json: Json = False) -> None:
    """The annotators, their variants, parameters, licences and weights."""
    from condprep.annotators.registry import specs

    rows = [_row(spec) for spec in specs().values()]
    if as_json:
        console.print_json(rows)
        return
    for row in rows:
        _show(row)


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
