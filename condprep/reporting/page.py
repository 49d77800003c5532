"""What is on the page of `condprep report`, in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from condprep.annotators.protocol import full_name
from condprep.reporting import html
from condprep.reporting.collect import Found
from condprep.runtime.files import commit


def write_page(found: Found, out: Path) -> int:
    """Write the page; its size in bytes."""
    page = render(found).encode("utf-8", "replace")  # a name that is no Unicode, too
    out.parent.mkdir(parents=True, exist_ok=True)
    commit(out, lambda partial: partial.write_bytes(page))
    return len(page)


def render(found: Found) -> str:
    """The page as text."""
    values = {
        "found": found,
        "sizes": Counter(card.size for card in found.cards if card.size).most_common(),
        "rules": dict.fromkeys(rule.name for rule in found.rules),
        "severities": Counter(one.severity for one in found.verified.findings),
        "provenance": list(_lines(found.provenance)),
        "annotators": list(_annotators(found.provenance)),
    }
    return html.render("condprep.reporting", values, percent=_percent)


def _percent(part: int, whole: int) -> str:
    """ "3.1 %", and never "0 %" of what there is."""
    share = 100 * part / max(whole, 1)
    return "< 0.1 %" if 0 < share < 0.1 else f"{share:.1f} %".replace(".0 %", " %")


def _lines(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was recorded, a line for each entry: ("geometry", "fit: crop, resolution: 512")."""
    for name, value in provenance.items():
        if name != "annotators":
            yield name, _words(value)


def _annotators(provenance: Mapping[str, Any]) -> Iterator[list[str]]:
    """Column, annotator, parameters, weights and licence of each; what was not recorded is empty."""
    made = provenance.get("annotators")
    for one in made if isinstance(made, list) else ():
        if isinstance(one, dict):
            name = full_name(*(str(one.get(part) or "") for part in ("annotator", "variant")))
            cells = [one.get(part) or "" for part in ("column", "parameters", "weights", "licence")]
            yield [_words(cells[0]), name, *map(_words, cells[1:])]


def _words(value: Any, between: tuple[str, str] = (": ", "; ")) -> str:
    """JSON as a phrase: {"rows": {"train": 9, "validation": 1}} -> "rows: train 9, validation 1"."""
    colon, comma = between
    if isinstance(value, dict):
        there = {key: one for key, one in value.items() if one not in (None, {}, [])}
        return comma.join(f"{key}{colon}{_words(one, (' ', ', '))}" for key, one in there.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
