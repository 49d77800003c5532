"""`condprep finish`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from condprep.cli.build import MaxRejects, show_build
from condprep.cli.options import BreakLock, Json
from condprep.cli.progress import progress


def finish(
    out: Annotated[str, Argument(help="the folder, or the URL, that the parts were given as --out")],
    max_rejects: MaxRejects = None,
    break_lock: BreakLock = False,
    as_json: Json = False,
) -> None:
    """Make a dataset of the shards that `condprep build --part I/N` has built."""
    from condprep.building.finish_parts import finish as run

    with progress() as advance:
        result = run(out, max_rejects=max_rejects, break_lock=break_lock, progress=advance)
    show_build(result, as_json)
