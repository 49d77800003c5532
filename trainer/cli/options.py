"""Options that several verbs of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.inference.pipeline import PrecisionName, WeightsName

Output = Annotated[Path, typer.Argument(help="the folder of a run: its ControlNet")]
BaseName = Annotated[str | None, typer.Option("--base", help="another base model than that of the training")]
WhichWeights = Annotated[WeightsName, typer.Option("--weights", help="best: the averaged ones where there are any")]
WhichPrecision = Annotated[PrecisionName, typer.Option("--precision", help="auto: bf16 on a GPU, fp32 on a CPU")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1")]
