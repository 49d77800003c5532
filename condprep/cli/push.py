"""`condprep push`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from condprep.cli import console
from condprep.cli.options import Json, Private
from condprep.cli.progress import progress

if TYPE_CHECKING:
    from condprep.dataset.push import PushResult

Replace = Annotated[
    bool, Option("--overwrite", help="replace another dataset of condprep of that name; files of others stay")
]


def push(
    dataset: Annotated[str, Argument(help="a finished dataset of condprep")],
    name: Annotated[str, Argument(help="OWNER/NAME on the Hub", metavar="OWNER/NAME")],
    private: Private = False,
    overwrite: Replace = False,
    as_json: Json = False,
) -> None:
    """Upload a dataset with its card to the Hugging Face Hub; the same command again goes on where it was stopped."""
    from condprep.dataset.push import push as run

    with progress() as advance:
        result = run(dataset, name, private=private, overwrite=overwrite, progress=advance)
    if as_json:
        console.print_json(result)
    else:
        show_push(result)


def show_push(result: PushResult) -> None:
    console.show_facts(
        [
            ("files", f"{result.files:,}, of which {result.sent:,} were sent now"),
            ("commit", result.commit),
            ("time", f"{result.seconds:.1f} s"),
            ("dataset", result.url),
        ]
    )
