"""`condprep annotate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from condprep.cli import console
from condprep.cli.options import (
    Annotators,
    Device,
    Settings,
    StrictWeights,
    TrustAnnotators,
    WeightsFolder,
    names,
    of_size,
    open_weights,
    parse_settings,
)
from condprep.types import FitMode

Out = Annotated[Path, Option("--out", "-o", help="folder of the maps: NAME.png, keypoints in NAME.json")]
Like = Annotated[
    str | None,
    Option(help="a dataset, or the folder of a training run, whose annotators and geometry are repeated exactly"),
]
Pictures = Annotated[bool, Option("--pictures", help="also write each picture as the annotators saw it")]
Overwrite = Annotated[bool, Option("--overwrite", help="replace files that are there")]
Resolution = Annotated[int | None, of_size(help="for a fit that changes the size; pixels (default: 512)")]
Fit = Annotated[FitMode | None, of_size(help="how a picture gets its size (default: keep)")]


def annotate(
    images: Annotated[list[Path], Argument(help="pictures, or folders of them")],
    out: Out,
    annotator: Annotators = [],  # noqa: B006
    like: Like = None,
    pictures: Pictures = False,
    overwrite: Overwrite = False,
    settings: Settings = [],  # noqa: B006
    resolution: Resolution = None,
    fit: Fit = None,
    device: Device = "auto",
    weights: WeightsFolder = None,
    strict_weights: StrictWeights = False,
    trust_annotator: TrustAnnotators = [],  # noqa: B006
) -> None:
    """Condition maps for a few pictures, at inference time for example."""
    from condprep.annotation.files import annotate_files

    written, rejects = annotate_files(
        images,
        out,
        annotators=names(annotator),
        like=like,
        params=parse_settings(settings),
        resolution=resolution,
        fit=fit,
        pictures=pictures,
        device=device,
        weights=open_weights(weights, strict_weights),
        trust_annotators=trust_annotator,
        overwrite=overwrite,
    )
    for path in written:
        print(path)
    for reject in rejects:
        console.fail(f"{reject.source}: {reject.reason}")
    if rejects:
        raise typer.Exit(1)
