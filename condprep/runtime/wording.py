"""Errors in the words of who reads them: messages name options of the command line, `--max-rejects`, which in Python are arguments."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from condprep.errors import CondprepError

F = TypeVar("F", bound=Callable[..., Any])
OTHERWISE = {"annotator": "annotators", "check": "checks", "set": "settings", "trust_annotator": "trust_annotators"}
_OPTION = re.compile(r"`[^`]*`|(?<![\w-])--([a-z][a-z-]*[a-z])")  # what stands in backticks is a command, and stays one


def in_python_words(verb: F) -> F:
    """The same function, but that its errors name its own arguments."""

    @functools.wraps(verb)
    def spoken(*arguments: Any, **named: Any) -> Any:
        try:
            return verb(*arguments, **named)
        except CondprepError as error:
            error.of_command = error.of_command or str(error)
            error.args = (_reworded(str(error), _arguments(verb)), *error.args[1:])
            raise

    return spoken  # type: ignore[return-value]  # called as the verb is


def _reworded(message: str, arguments: Mapping[str, Any]) -> str:
    def said(match: re.Match[str]) -> str:
        option = (match[1] or "").replace("-", "_")
        if option == "into":
            return "add_columns"
        name = next((one for one in _names(option) if one in arguments), None)
        if name is None:
            return match[0]
        asked_for = match.start() > 0 and not message[match.end() :].startswith(" =")  # else it is what is spoken of
        return f"{name}=True" if asked_for and isinstance(arguments[name], bool) else name

    return _OPTION.sub(said, message)


def _names(option: str) -> tuple[str, ...]:
    """What an option may be called in Python, the likelier one first."""
    return option, OTHERWISE.get(option, option), *(("params",) if option == "set" else ())


def _arguments(verb: Callable[..., Any]) -> dict[str, Any]:
    """Argument -> its default; of `build` its options, too."""
    parameters = inspect.signature(verb).parameters.values()
    found = {one.name: one.default for one in parameters if one.kind is not one.VAR_KEYWORD}
    if len(found) < len(parameters):
        options = import_module("condprep.building.options").BuildOptions.model_fields
        found |= {name: field.default for name, field in options.items()} | {"precision": None, "params": None}
    return found
