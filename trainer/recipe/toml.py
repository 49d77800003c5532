"""Recipes from files and back: TOML, `--set`, and errors in the user's own words."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from trainer.errors import RecipeError
from trainer.recipe.recipe import Recipe

LARGEST, DOTS = 1 << 20, 3_000  # bytes, and dots: a key of dots takes the square of their number to read
SHIPPED = tuple(folder / "recipes" for folder in Path(__file__).parents[1:3])  # wheel, checkout


def load_recipe(path: str | Path, settings: Iterable[str] = ()) -> Recipe:
    """A recipe from a TOML file, or a shipped one by its name ("pose", "recipes/pose.toml").

    settings: "train.lr=2e-6", each replaces a key. Raises RecipeError that names the file, the key, the value and what
    would be right.
    """
    found = _find(Path(path))
    try:
        values = tomllib.loads(_text(found))
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of numbers with thousands of digits
        raise RecipeError(f"{found} is no TOML: {error}") from None
    _check_values(found, values)
    given = {_set(values, setting): setting for setting in settings}
    return parse_recipe(values, str(found), given)


def parse_recipe(values: Mapping[str, Any], origin: str = "recipe", given: Mapping[str, str] = {}) -> Recipe:
    """A recipe from nested dicts, as tomllib reads them. Raises RecipeError, which names the origin of what is wrong.

    given: key -> the `--set` that it comes from, of those that are not from the origin.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problem = next(iter(error.errors(include_url=False)))
        said = _explain(problem)
        raise RecipeError(f"{_blamed(problem, said, given) or origin}: {said}") from None


def _blamed(problem: Mapping[str, Any], said: str, given: Mapping[str, str]) -> str:
    """The settings that a problem comes from; "" for what stands in the file. Of values that do not go together, those it quotes."""
    location = ".".join(part for part in problem["loc"] if isinstance(part, str))
    blamed = [
        setting
        for key, setting in given.items()
        if location in (key, key.partition(".")[0]) or (not location and re.search(rf"\b{re.escape(key)}\b", said))
    ]
    return " ".join(f"--set {setting}" for setting in blamed)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with all its defaults, as TOML with a comment for every key; `load_recipe` reads it back."""
    tables = []
    for name, table in recipe:
        fields = type(table).model_fields
        lines = [f"{key} = {literal(value)}  # {fields[key].description}" for key, value in table]
        tables.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(tables) + "\n"


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted({path.stem for folder in SHIPPED for path in folder.glob("*.toml")})


def _find(path: Path) -> Path:
    places = [path, *(folder / f"{path.stem}.toml" for folder in SHIPPED if path.suffix in ("", ".toml"))]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise RecipeError(f"there is no recipe {str(path)!r}; shipped are {', '.join(shipped_recipes())}")
    return found


def _text(path: Path) -> str:
    """Raises RecipeError for what is too large to be a recipe."""
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST or data.count(b".") > DOTS:
        raise RecipeError(f"{path} is no recipe: it has more than {LARGEST:,} bytes, or more than {DOTS:,} dots")
    return data.decode("utf-8")


def _check_values(path: Path, values: Mapping[str, Any]) -> None:
    """Raises RecipeError for what TOML itself does not have, or no name of a file: tomllib lets both through."""
    waiting: list[Any] = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
        elif (isinstance(value, int) and abs(value) >= 1 << 63) or (isinstance(value, str) and "\0" in value):
            raise RecipeError(f"{path} is no recipe: it has a number of more than 64 bits, or a string with a NUL")


def _set(values: dict[str, Any], setting: str) -> str:
    """ "train.lr=2e-6" into nested dicts; its key. What is no TOML value is a string: data.path=ds/."""
    key, equals, text = setting.partition("=")
    table, dot, name = key.strip().partition(".")
    if not (equals and dot and table and name):
        raise RecipeError(f"--set {setting!r} is not of the form table.key=value, as train.lr=2e-6")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    if not isinstance(values.setdefault(table, {}), dict):
        raise RecipeError(f"--set {setting!r}: the recipe has {table} = {values[table]!r}, and it must be a table")
    values[table][name] = value
    return f"{table}.{name}"


def _explain(problem: Mapping[str, Any]) -> str:
    """A pydantic error in the words of the recipe."""
    location = [part for part in problem["loc"] if isinstance(part, str)][:2]
    key = ".".join(location)
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"unknown {'key' if len(location) == 2 else 'table'} {key}{_nearest(location)}"
    if len(location) == 1:
        return f"{key} = {_shown(problem['input'])} must be a table: [{key}]"
    field = Recipe.model_fields[location[0]].annotation.model_fields[location[1]]  # type: ignore[union-attr]
    meant = _nearest_value(field, problem["input"])
    return f"{key} = {_shown(problem['input'])}: it must be {describe(field)} (default {literal(field.default)}){meant}"


def _shown(value: Any) -> str:
    """The user's own value, as far as anybody reads it."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # tables in tables in tables; a number of thousands of digits
        text = "a value without end"
    return text if len(text) <= 300 else f"{text[:299]}…"


def _nearest(location: Sequence[str]) -> str:
    """ "; did you mean train.lr?", looked for in the table and, for a key, in the others."""
    tables = {name: list(field.annotation.model_fields) for name, field in Recipe.model_fields.items()}  # type: ignore[union-attr]
    own = [f"{location[0]}.{key}" for key in tables.get(location[0], ())]
    known = [f"{table}.{key}" for table, keys in tables.items() for key in keys] if own else list(tables)
    word = ".".join(location)
    near = difflib.get_close_matches(word, own, n=1, cutoff=0.75) or difflib.get_close_matches(word, known, n=1)
    elsewhere = [full for full in known if len(location) == 2 and full.endswith(f".{location[1]}")]
    meant = (elsewhere or near)[:1]
    return f"; did you mean {meant[0]}?" if meant else f"; known: {', '.join(own or known)}"


def _nearest_value(field: FieldInfo, value: Any) -> str:
    """ "; did you mean "adamw8bit"?", where it must be one of some strings."""
    known = [part for part in get_args(field.annotation) if isinstance(part, str)]
    near = difflib.get_close_matches(value, known, n=1) if isinstance(value, str) else []
    return f"; did you mean {literal(near[0])}?" if near else ""


def describe(field: FieldInfo) -> str:
    """What a key may be: "a number above 0, up to 1"."""
    return _words(field.annotation, field.metadata)


def _words(kind: Any, limits: Sequence[Any]) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _words(parts[0], parts[1:])
    if origin is Literal:
        return _or([literal(part) for part in parts])
    if origin is tuple:
        return "a list of strings" if parts[1] is ... else f"a list of {len(parts)}, each {_words(parts[0], ())}"
    if origin is dict:
        return f"a table, each value {_words(parts[1], ())}"
    if parts:
        return _or([_words(part, ()) for part in parts])
    nouns = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
    return nouns[kind] + "".join(_range([one for limit in limits for one in getattr(limit, "metadata", [limit])]))


def _range(limits: Sequence[Any]) -> Iterator[str]:
    """Bounds as pydantic keeps them, in words."""
    words = {
        "gt": " above {}",
        "ge": " from {}",
        "lt": " below {}",
        "le": " up to {}",
        "multiple_of": ", a multiple of {}",
    }
    for limit in limits:
        for name, text in words.items():
            if (bound := getattr(limit, name, None)) is not None:
                yield text.format(bound)
    if any(getattr(limit, "min_length", 0) for limit in limits):
        yield " that is not empty"


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def literal(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{literal(key)} = {literal(one)}' for key, one in value.items())}}}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # TOML's strings are JSON's, but for DEL
    return str(value).lower()
