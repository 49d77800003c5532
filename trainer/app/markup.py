"""The page itself: what it says of the run, and the limits of its form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from annotated_types import Ge, Le

from condprep.reporting import html
from trainer.app.conditions import annotator_name
from trainer.app.drawing import LONGEST, MOST_SEED, Asked
from trainer.app.web import MOST_BYTES
from trainer.recipe.recipe import Recipe


def render(
    output: Path, training: Mapping[str, Any], condition: Mapping[str, Any], recipe: Recipe, base: str | None
) -> str:
    """HTML with its style and its script. training, condition: the records of the result."""
    steps, cfg, strength = (_limits(name) for name in ("steps", "cfg", "strength"))
    return html.render(
        "trainer.app",
        {
            "name": output.resolve().name,
            "kind": condition["kind"] or "condition",
            "annotates": annotator_name(condition) is not None,
            "facts": [("run", output.resolve().name), *_facts(training, condition, base)],
            "settings": {"steps": recipe.eval.sampler_steps, "cfg": recipe.eval.cfg},
            "limits": {
                "steps": steps,
                "cfg": cfg,
                "strength": strength,
                "seed": MOST_SEED,
                "prompt": LONGEST,
                "bytes": MOST_BYTES,
            },
        },
    )


def _limits(name: str) -> tuple[float, float]:
    """Of a setting: the least and the most."""
    bounds = Asked.model_fields[name].metadata
    (least,) = (one.ge for one in bounds if isinstance(one, Ge))
    (most,) = (one.le for one in bounds if isinstance(one, Le))
    return least, most  # type: ignore[return-value]  # they are numbers


def _facts(training: Mapping[str, Any], condition: Mapping[str, Any], base: str | None) -> Iterator[tuple[str, str]]:
    """No path of this machine: who sees the page need not know it."""
    if made := annotator_name(condition):
        parameters = condition["annotators"][0].get("parameters")
        known = parameters.items() if isinstance(parameters, dict) else ()
        yield "conditions", ", ".join([made, *(f"{name} {value}" for name, value in sorted(known))])
    named = str(base or training["model"]["base"])
    local = Path(named).exists() or Path(named).is_absolute()
    yield "base", f"{Path(named).name} (a folder)" if local else named
    if isinstance(updates := training.get("updates"), int):
        yield "trained", f"{updates:,} updates"
