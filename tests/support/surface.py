"""What users build on: public names, signatures, results, options, and the keys of every `--json` output.

tests/surface/surface.json is the list that the tests compare with. Whoever changes the surface on purpose renews it:

    PYTHONPATH=tests python -m support.surface

and says in CHANGELOG.md what is different for users.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import UnionType
from typing import Any, Union, get_args, get_origin
from unittest.mock import patch

from pydantic import BaseModel
from support import hub as hubs
from support.surface_runs import JSON_RUNS
from typer.main import get_command
from typer.testing import CliRunner

from condprep.building.options import BuildOptions

LIST = Path(__file__).parents[1] / "surface" / "surface.json"
PACKAGES = ("condprep", "trainer")
SCALARS: dict[type, str] = {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null"}


def names() -> dict[str, list[str]]:
    """package -> its public names."""
    return {package: sorted(importlib.import_module(package).__all__) for package in PACKAGES}


def signatures() -> dict[str, str]:
    """public function, class or method -> "(source, out, *, workers=None)"."""
    found = {"condprep.build(**options)": _options(BuildOptions)}
    for package, name, public in _public():
        found |= {f"{package}.{name}{method}": _signature(one) for method, one in _callables(public)}
    return found


def _options(model: type[BaseModel]) -> str:
    fields = model.model_fields.items()
    return ", ".join(name + ("" if one.is_required() else f"={one.default!r}") for name, one in fields)


def _public() -> Iterator[tuple[str, str, Any]]:
    for package, public in names().items():
        for name in public:
            yield package, name, getattr(importlib.import_module(package), name)


def _callables(public: Any) -> Iterator[tuple[str, Any]]:
    """A function itself; of a class its constructor and its public methods; of a protocol how it is called."""
    if inspect.isfunction(public):
        yield "", public
    elif getattr(public, "_is_protocol", False):
        yield ".__call__", public.__call__
    elif inspect.isclass(public) and inspect.isfunction(public.__init__):
        yield "", public.__init__
        for name, method in inspect.getmembers(public, inspect.isfunction):
            if not name.startswith("_"):
                yield f".{name}", method


def _signature(function: Any) -> str:
    """Without types; a default that is a function, whose text would hold an address, is Ellipsis."""
    signature = inspect.signature(function)
    bare = [
        parameter.replace(
            annotation=parameter.empty, default=... if callable(given) and given is not parameter.empty else given
        )
        for parameter in signature.parameters.values()
        for given in [parameter.default]
    ]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def results() -> dict[str, dict[str, str]]:
    """public function -> path of a field of what it returns -> type; names of our classes are not part of it."""
    return {
        f"{package}.{name}": dict(
            _fields("", _evaluated(public.__annotations__["return"], inspect.unwrap(public).__module__))
        )
        for package, name, public in _public()
        if inspect.isfunction(public)
    }


def _fields(path: str, kind: Any) -> Iterator[tuple[str, str]]:
    """Below classes of fields, and sequences and mappings of them, every field with its type; of a recipe's keys the default."""
    if not _has_fields(kind):
        yield path, _text(kind)
    elif held := get_args(kind):
        many = "" if get_origin(kind) in (Union, UnionType) else "[]"
        for one in filter(_has_fields, held):
            yield from _fields(path + many, one)
    elif dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            yield from _fields(f"{path}.{field.name}".lstrip("."), _evaluated(field.type, kind.__module__))
    else:
        for name, key in kind.model_fields.items():
            inner = f"{path}.{name}".lstrip(".")
            yield from _fields(inner, key.annotation) if _has_fields(key.annotation) else [(inner, repr(key.default))]


def _has_fields(kind: Any) -> bool:
    own = inspect.isclass(kind) and (dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel))
    return own or any(map(_has_fields, get_args(kind)))


def _evaluated(annotation: Any, module: str) -> Any:
    """What an annotation's text means in its module; the text where it names what is imported for type checkers alone."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, vars(sys.modules[module]))
    except NameError:
        return annotation


def _text(kind: Any) -> str:
    """A type without the modules that its names come from."""
    text = kind.__name__ if inspect.isclass(kind) and not get_args(kind) else str(kind)
    text = re.sub(r"ndarray\[.*?dtype\[[\w.]+\]\]", "ndarray", text)  # whose parameters each numpy writes differently
    text = re.sub(r"^(?:typing\.)?Optional\[(.*)\]$", r"\1 | None", text)
    words = text.replace("[", " [ ").replace("]", " ] ").replace(",", " , ").split()
    joined = " ".join(word if word[0] in "'\"" else word.rpartition(".")[2] or word for word in words)
    return joined.replace(" [ ", "[").replace(" ]", "]").replace(" ,", ",")


def options() -> dict[str, dict[str, str]]:
    """verb -> option, with all its spellings, or argument -> type, limits, default, variable."""
    found = {}
    for package in PACKAGES:
        for verb, command in _verbs(package, get_command(_app(package))):
            function = inspect.unwrap(command.callback) if command.callback else lambda: None
            declared = inspect.signature(function, eval_str=True).parameters
            found[verb] = {_spelt(one): _declared(declared[one.name]) for one in command.params if one.name in declared}
    return found


def _app(package: str) -> Any:
    return importlib.import_module(f"{package}.cli.main").app


def _verbs(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, verb in getattr(command, "commands", {}).items():
        yield from _verbs(f"{path} {name}", verb)


def _spelt(parameter: Any) -> str:
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def _declared(parameter: inspect.Parameter) -> str:
    """ "int | None, min 1 = None" """
    kind, info = get_args(parameter.annotation)
    limits = [f"{name} {getattr(info, name)}" for name in ("min", "max", "envvar") if getattr(info, name) is not None]
    default = parameter.default if not isinstance(parameter.default, Path) else str(parameter.default)
    return ", ".join([_text(kind), *limits]) + ("" if default is parameter.empty else f" = {default!r}")


def json_keys(run: str, folder: Path) -> dict[str, str]:
    """The output of a run of JSON_RUNS in an empty folder: path of a key -> JSON types that it has there."""
    package, prepare = JSON_RUNS[run]
    arguments = [*map(str, prepare(folder)), "--json"]
    empty = str(folder / "empty")
    nothing_cached = {"HF_HUB_CACHE": empty, "TORCH_HOME": empty, "CONDPREP_CACHE": empty, "CONDPREP_WEIGHTS": None}
    hub = hubs.in_use(folder / "empty") if run == "condprep push" else nullcontext()
    with hub, patch("huggingface_hub.constants.HF_HUB_CACHE", empty):
        ended = CliRunner().invoke(_app(package), arguments, env=nothing_cached)
    if ended.exception and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return shape(json.loads(ended.stdout))


def shape(value: Any) -> dict[str, str]:
    """{"rows": {"train": 3}, "notes": []} -> {"rows.train": "number", "notes": "array"}."""
    found: dict[str, set[str]] = {}
    for path, kind in _leaves("", value):
        found.setdefault(path.lstrip("."), set()).add(kind)
    return {path: " | ".join(sorted(kinds)) for path, kinds in sorted(found.items())}


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _leaves(f"{path}[]", inner)
    else:
        yield path, {dict: "object", list: "array"}.get(type(value)) or SCALARS[type(value)]


def all_json_keys() -> dict[str, dict[str, str]]:
    found = {}
    for run in JSON_RUNS:
        with TemporaryDirectory() as folder:
            found[run] = json_keys(run, Path(folder))
    return found


PARTS: dict[str, Callable[[], Any]] = {
    "names": names,
    "signatures": signatures,
    "results": results,
    "options": options,
    "json": all_json_keys,
}


if __name__ == "__main__":
    LIST.write_text(json.dumps({name: part() for name, part in PARTS.items()}, indent=1) + "\n", encoding="utf-8")
    print(LIST)
