"""The page: one file that asks for nothing else.

Whatever comes from the dataset goes through Jinja's autoescape into text and attributes; there is no script but ours, and
the Content-Security-Policy allows only what has its hash, pictures that are in the page, and no address at all.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from condprep import __version__
from condprep.files import commit
from condprep.reporting.collect import Found


def write_page(found: Found, out: Path) -> int:
    """Write the page; its size in bytes."""
    page = render(found).encode("utf-8", "replace")  # a name that is no Unicode, too
    out.parent.mkdir(parents=True, exist_ok=True)
    commit(out, lambda partial: partial.write_bytes(page))
    return len(page)


def render(found: Found) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("condprep.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    style, script = _own("page.css"), _own("page.js")
    return environment.get_template("page.html").render(
        found=found,
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        sizes=Counter(card.size for card in found.cards if card.size).most_common(),
        rules=dict.fromkeys(rule.name for rule in found.rules),
        severities=Counter(one.severity for one in found.verified.findings),
        provenance=list(_lines(found.provenance)),
        annotators=list(_annotators(found.provenance)),
    )


def _own(name: str) -> str:
    return files("condprep.reporting").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


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
            name = ":".join(str(one[part]) for part in ("annotator", "variant") if one.get(part))
            cells = [one.get(part) or "" for part in ("column", "parameters", "weights", "licence")]
            yield [_words(cells[0]), name, *map(_words, cells[1:])]


def _words(value: Any, between: tuple[str, str] = (": ", "; ")) -> str:
    """JSON as a phrase: {"rows": {"train": 9, "validation": 1}} -> "rows: train 9, validation 1"."""
    colon, comma = between
    if isinstance(value, dict):
        there = {key: one for key, one in value.items() if one not in (None, {}, [])}
        return comma.join(f"{key}{colon}{_words(one, (' ', ', '))}" for key, one in there.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
