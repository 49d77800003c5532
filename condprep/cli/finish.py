"""`condprep finish`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument

from condprep.cli.build import MaxRejects, show_build
from condprep.cli.options import Json
from condprep.cli.progress import progress


def finish(
    out: Annotated[Path, Argument(help="the folder that the parts were given as --out")],
    max_rejects: MaxRejects = None,
    as_json: Json = False,
) -> None:
    """Make a dataset of the shards that `condprep build --part I/N` has built."""
    from condprep.building.finish_parts import finish as run

    with progress() as advance:
        result = run(out, max_rejects=max_rejects, progress=advance)
    show_build(result, as_json)
