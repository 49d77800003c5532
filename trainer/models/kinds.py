"""The kinds of conditions: those that the record of a result names, and maps that a pipeline is given by them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import Any

from condprep.runtime.files import read_json
from trainer.errors import ModelError
from trainer.recipe.layout import CONDITION

Given = dict[str, Any]  # the arguments of a pipeline's call, by their names
CONDITIONS = ("control_image", "image")  # what pipelines call a condition; those that have both mean the first


def kinds_of(condition: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Of a record's conditions. Raises KeyError, TypeError or AttributeError for what is no record."""
    return tuple(one["kind"] for one in condition.get("conditions", [condition]))


def all_kinds(kinds: Sequence[str | None]) -> str | None:
    """For people: "canny, depth"; None where it is not clear."""
    return ", ".join(kind for kind in kinds if kind) or None


def of_kind(condition: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What a record of several kinds says of that one, as the record of a ControlNet of one kind has it."""
    column = next(one["column"] for one in condition["conditions"] if one["kind"] == kind)
    made = [one for one in condition["annotators"] if one["column"] == column]
    return {"kind": kind, "column": column, "annotators": made, "geometry": condition["geometry"]}


def check_order(init: str, kinds: Sequence[str | None]) -> None:
    """Raises ModelError for the `model.init` of the trainer that was made for other kinds, or has them in another order."""
    found = recorded_kinds(init)
    if found and found != tuple(kinds):
        raise ModelError(
            f"model.init {init!r} was made for {all_kinds(found)}, and data.conditions has {all_kinds(kinds)}: say its"
            " kinds, in its order"
        )


def recorded_kinds(controlnet: str) -> tuple[str | None, ...]:
    """Of a ControlNet of the trainer: its folder, or that of its weights beside the record. Of others' nothing is known."""
    for folder in (Path(controlnet), Path(controlnet).parent):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            return kinds_of(read_json(folder / CONDITION))
    return ()


def condition_name(pipeline: Any) -> str:
    """What a pipeline of diffusers calls the condition."""
    known = inspect.signature(type(pipeline).__call__).parameters
    return next((name for name in CONDITIONS if name in known), CONDITIONS[-1])


def by_kind(
    pipeline: Any,
    kinds: Sequence[str | None],
    told: Callable[[Mapping[str, Any], Given], Given],
    own: type | tuple[type, ...] = object,
    meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Any:
    """The same pipeline of diffusers, which takes maps by their kinds, too: {"canny": map, "depth": map}, one of them or several.

    A map is what pipelines of one kind take, a picture or a list of them. told: arguments of the pipeline, of such maps and of
    its other arguments. own: what it takes itself. meanwhile: holds for a call that has maps by kinds. Its calls raise ModelError for anything else, and for other kinds.
    """
    name = condition_name(pipeline)

    def translated(given: Given) -> AbstractContextManager[None]:
        maps = given.get(name)
        if isinstance(maps, Mapping):
            unknown = [kind for kind in maps if kind not in kinds]
            if unknown or not maps:
                found = f"maps of {unknown[0]}" if unknown else "no map"
                raise ModelError(f"{found}: this ControlNet was trained on {all_kinds(kinds)}")
            given |= told(maps, given)
            return meanwhile()
        if name in given and not isinstance(maps, own):
            raise ModelError(
                f'this ControlNet was trained on {all_kinds(kinds)}: say which of them a map is, {name}={{"{kinds[0]}": map}}'
            )
        return nullcontext()

    return before_calls(pipeline, translated)


def before_calls(pipeline: Any, change: Callable[[Given], AbstractContextManager[None] | None]) -> Any:
    """The same pipeline, of a class of the same name, under which it is saved. change: sees the arguments of every call, may
    change them, and may give what holds while it lasts."""
    kind = type(pipeline)
    signature = inspect.signature(kind.__call__)

    @wraps(kind.__call__)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        given = signature.bind_partial(self, *arguments, **named)
        with change(given.arguments) or nullcontext():
            return kind.__call__(*given.args, **given.kwargs)

    pipeline.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    return pipeline
