"""The `condprep` command: its verbs, and how a mistake, a failure or an interruption ends."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from condprep import __version__
from condprep.cli import console, vocabulary, weights
from condprep.cli.annotate import annotate
from condprep.cli.annotators import annotators
from condprep.cli.build import build, show_build
from condprep.cli.curate import curate
from condprep.cli.doctor import doctor
from condprep.cli.finish import finish
from condprep.cli.help import Verb, Verbs
from condprep.cli.inspect import inspect
from condprep.cli.merge import merge
from condprep.cli.options import CacheDir, CacheLimit, set_cache
from condprep.cli.push import push
from condprep.cli.report import report
from condprep.cli.split import split
from condprep.cli.stopping import Stopped, heed_signals
from condprep.cli.verify import verify
from condprep.errors import BuildFailed, CondprepError
from condprep.runtime.malloc import keep_freed_memory
from condprep.runtime.openmp import wait_passively

app = typer.Typer(
    cls=Verbs,
    help="Pictures in, ControlNet training pairs out: maps that line up to the pixel, in Hugging Face datasets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
NAMES = {
    verify: vocabulary.CHECKS,
    curate: vocabulary.DROPS,
}  # what a verb can be asked for by name: the end of its --help
for verb in (build, finish, inspect, verify, curate, split, merge, push, report, annotate, annotators, doctor):
    app.command(cls=Verb, epilog=NAMES.get(verb))(verb)
app.add_typer(weights.app, name="weights")


GO_ON = {"build", "finish", "curate", "split", "merge", "push"}  # verbs that do, when they are run again


@app.callback(invoke_without_command=True)
def _before(
    version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
    cache_dir: CacheDir = "",
    cache_limit: CacheLimit = "",
) -> None:
    if version:
        print(f"condprep {__version__}")
        raise typer.Exit
    set_cache(cache_dir, cache_limit)


def main() -> None:
    """The `condprep` command. Exit codes: 0 done, 1 not (all) done, 2 a mistake in what was asked for."""
    heed_signals()
    wait_passively()
    keep_freed_memory()
    try:
        app()
    except CondprepError as error:
        if isinstance(error, BuildFailed) and error.result:
            show_build(error.result, as_json="--json" in sys.argv)
        console.fail(error.of_command or str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # what the operating system refuses and nothing above could explain better
        console.fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)
    except Stopped as stopped:
        goes_on = bool(stopped.args) or not GO_ON.isdisjoint(sys.argv[1:])
        kept = next(iter(stopped.args), "what was finished stays")
        console.fail("stopped" + f"; {kept}, and the same command goes on from there" * goes_on)
        sys.exit(1)
