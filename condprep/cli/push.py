"""`condprep push`, and a build's `--push-to-hub`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from condprep.cli import console
from condprep.cli.options import Json, Private
from condprep.cli.progress import progress
from condprep.errors import UsageError

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


def check_push(given: Mapping[str, Any]) -> None:
    """Raises UsageError for a push that cannot be: not only after hours of building."""
    name, out = given["push_to_hub"], given["out"]
    if not name:
        if given["private"]:
            raise UsageError("--private is of a dataset on the Hub; give --push-to-hub OWNER/NAME as well")
        return
    from condprep.dataset.push import check_name
    from condprep.runtime.storage import is_url

    if out and is_url(out):
        raise UsageError(f"--push-to-hub reads a folder of this machine, and --out {out} is a URL: give one of the two")
    if given["part"]:
        raise UsageError("--push-to-hub has no meaning with --part; `condprep push` the dataset once it is finished")
    check_name(name)


def push_built(dataset: Path, name: str, private: bool) -> None:
    """Upload what was built. What it says is said beside the build's own result."""
    from condprep.dataset.push import push as run

    with progress() as advance:
        result = run(dataset, name, private=private, progress=advance)
    console.say(f"{result.url}: {result.files:,} files, of which {result.sent:,} were sent now")
