"""What condprep wrote down about a dataset, read again: it came with the dataset, and is no more trusted than its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from condprep.annotators.protocol import full_name
from condprep.errors import DatasetError
from condprep.runtime.files import read_json

T = TypeVar("T")
COUNTED = ("inputs", "bytes", "enlarged", "untouched", "without_caption")
UNKNOWN = "licence unknown"
MAX_REJECTS = 1 << 29  # bytes, of some millions of them


def read_record(path: Path, form: Callable[[Any], T]) -> T:
    """A file of `.condprep/` as `form` wants it. Raises DatasetError where it is missing or damaged."""
    try:
        return form(read_json(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        said = str(error.strerror if isinstance(error, OSError) else error)
        raise DatasetError(
            f"{path} is damaged ({type(error).__name__}: {said:.200}); make the dataset again, or start afresh with --overwrite"
        ) from None


def read_rejects(folder: Path) -> bytes:
    """All of a dataset's rejects.jsonl; b"" where there is none. Raises DatasetError where it is no such file."""
    path = folder / "rejects.jsonl"
    if not path.exists():
        return b""
    if not path.is_file() or path.stat().st_size > MAX_REJECTS:
        raise DatasetError(f"{path} is no file, or larger than {MAX_REJECTS:,} bytes; take it away")
    return path.read_bytes()


def provenance(found: Any) -> dict[str, Any]:
    """With every key that is asked for later, of the type that it has. Raises ValueError, KeyError or TypeError."""
    counts = found["counts"]
    numbers = {name: _number(counts.get(name, 0)) for name in COUNTED}
    by_name = {name: {str(key): _number(rows) for key, rows in counts[name].items()} for name in ("rows", "rejects")}
    by_name["without_map"] = {key: _number(rows) for key, rows in _mapping(counts.get("without_map")).items()}
    geometry = found["geometry"]
    shown = {"fit": _text(geometry["fit"]), "resolution": _number(geometry["resolution"])}
    return {
        **found,
        "annotators": [annotator(one) for one in found["annotators"]],
        "geometry": {**geometry, **shown},
        "format": found.get("format") if found.get("format") in ("parquet", "webdataset") else "arrow",
        "counts": {**counts, **numbers, **by_name},
    } | ({"curation": [_curation(one) for one in found["curation"]]} if found.get("curation") else {})


def annotator(found: Any) -> dict[str, Any]:
    """How the maps of a column were made. Raises KeyError or TypeError where it does not say by what."""
    names = {name: _text(found[name]) for name in ("column", "annotator", "variant")}
    weights = {str(file): _text(sha256) for file, sha256 in _mapping(found.get("weights")).items()}
    return {
        **found,
        **names,
        "params": _mapping(found.get("params")),
        "parameters": _mapping(found.get("parameters")),
        "weights": weights,
        "licence": str(found.get("licence") or UNKNOWN),
        "commercial": found.get("commercial") is True,
    }


def primary_column(provenance: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
    """The column whose map is also `conditioning_image`; None where the records do not tell. options: of the build."""
    made = {full_name(one["annotator"], one["variant"]): str(one["column"]) for one in provenance["annotators"]}
    if (recorded := provenance.get("primary")) in made.values():
        return str(recorded)
    if (
        options.get("beside") and len(made) > 1
    ):  # of an older version: columns were added since, and it is not said which
        return None
    primary = options.get("primary")
    return made.get(str(primary)) if primary else next(iter(made.values()), None)


def _curation(found: Any) -> dict[str, Any]:
    return {**found} | {
        name: {str(key): _number(rows) for key, rows in found[name].items()} for name in ("dropped", "repaired")
    }


def _mapping(value: Any) -> dict[str, Any]:
    """{} for what is none: null, where nothing was said."""
    return {str(key): one for key, one in value.items()} if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r:.80} is no number")
    return value
