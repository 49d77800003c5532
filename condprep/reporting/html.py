"""Pages that are one file and ask for nothing else.

A package has its `page.html`, which extends `base.html`, its `page.css` and, where it needs one, its `page.js`. Whatever
comes from a dataset goes through Jinja's autoescape into text and attributes; there is no script but the package's, and
the Content-Security-Policy allows only what has its hash, pictures that are in the page, and no address at all.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from condprep import __version__


def render(package: str, values: Mapping[str, Any], **filters: Callable[..., str]) -> str:
    """The page of a package as text. values: what its template names beside `version`; filters: the template's own."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader("condprep.reporting", "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    style, script = _own(package, "page.css"), _own(package, "page.js")
    return environment.get_template("page.html").render(
        values,
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _own(package: str, name: str) -> str:
    """The text of a package's file, empty where it has none."""
    file = files(package).joinpath(name)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
