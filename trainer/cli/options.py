"""Options that several verbs of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.inference.pipeline import PrecisionName, WeightsName

Settings = Annotated[list[str], typer.Option("--set", help="a key, as train.lr=2e-6; repeatable")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check everything, print the plan, and train nothing")]
Output = Annotated[Path, typer.Argument(help="the folder of a run: its ControlNet")]
WhichCheckpoint = Annotated[
    int | None,
    typer.Option("--checkpoint", min=1, help="that of this update, as 500 (default: the result, else the newest)"),
]
Kind = Annotated[str | None, typer.Option(help="which kind of conditions, where the ControlNet knows several")]
BaseName = Annotated[str | None, typer.Option("--base", help="another base model than that of the training")]
WhichWeights = Annotated[WeightsName, typer.Option("--weights", help="best: the averaged ones where there are any")]
WhichPrecision = Annotated[PrecisionName, typer.Option("--precision", help="auto: bf16 on a GPU, fp32 on a CPU")]
SamplerName = Annotated[str, typer.Option(help="how pictures are drawn, as euler (auto: the family's own)")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1")]
AnnotatorWeights = Annotated[
    Path | None,
    typer.Option(envvar="CONDPREP_WEIGHTS", help="folder of the annotator's weights under their Hub names"),
]
