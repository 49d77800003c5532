"""The page of a run, from its folder to a server: everything is loaded before the address is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.app.conditions import Conditions
from trainer.app.drawing import Drawing
from trainer.app.generations import Generations
from trainer.app.markup import render
from trainer.app.web import Page
from trainer.errors import ModelError
from trainer.inference.checkpoint_folder import result_folder
from trainer.inference.pipeline import PrecisionName, WeightsName, chosen_kind, open_pipeline, read_records
from trainer.models.kinds import kinds_of, of_kind
from trainer.recipe.layout import RECIPE
from trainer.recipe.toml import load_recipe
from trainer.types import Say

if TYPE_CHECKING:
    import uvicorn

    from condprep.weights.find import Weights

FEW_CONNECTIONS = 64  # at once
GRACE = 3  # seconds for what is being answered when the page ends


def open_page(
    output: Path,
    *,
    base: str | None = None,
    checkpoint: int | None = None,
    weights: WeightsName = "best",
    precision: PrecisionName = "auto",
    device: str = "auto",
    annotator_weights: Weights | None = None,
    trust: Sequence[str] = (),
    kind: str | None = None,
    say: Say = lambda _: None,
) -> Page:
    """The page of a run's ControlNet, its networks loaded. base, checkpoint, weights, precision, device: as `load_pipeline` takes them.

    annotator_weights, trust: of the annotator that is recorded. kind: which of several kinds of conditions the page is for.
    Raises ModelError where `output` holds no result or knows no such kind, and what a `condprep.Session` raises where its annotator cannot be had.
    """
    folder = result_folder(output, checkpoint, say)
    training, condition = read_records(folder)
    if not (output / RECIPE).is_file():
        raise ModelError(f"{output} holds no result of the trainer: {RECIPE} is missing")
    told = chosen_kind(kinds_of(condition), kind)
    condition = of_kind(condition, told) if told else condition
    recipe = load_recipe(output / RECIPE)
    conditions = Conditions.of(folder, condition, recipe, device=device, weights=annotator_weights, trust=trust)
    pipe = open_pipeline(folder, base=base, weights=weights, precision=precision, device=device)
    return Page(render(output, training, condition, recipe, base), conditions, Generations(Drawing(pipe, told), say))


def server(page: Page, host: str) -> uvicorn.Server:
    """What answers at a socket, `.run(sockets=[...])`, until a signal comes, which then takes its course."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            page.application(host),
            log_config=None,  # nothing but what goes wrong, on standard error
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            limit_concurrency=FEW_CONNECTIONS,
            timeout_graceful_shutdown=GRACE,
        )
    )
