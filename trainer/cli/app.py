"""`python -m trainer app`."""

from __future__ import annotations

from typing import Annotated

import typer

from condprep.cli.options import TrustAnnotators, open_weights
from trainer.cli.options import (
    AnnotatorWeights,
    BaseName,
    Device,
    Kind,
    Output,
    WhichCheckpoint,
    WhichPrecision,
    WhichWeights,
)
from trainer.errors import MachineError

Host = Annotated[str, typer.Option(help="the address at which it listens; 0.0.0.0: other machines may come, too")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="the port; 0 is a free one")]
Open = Annotated[bool, typer.Option("--open", help="open the page in the browser")]


def app(
    output: Output,
    kind: Kind = None,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    open_browser: Open = False,
    base: BaseName = None,
    checkpoint: WhichCheckpoint = None,
    weights: WhichWeights = "best",
    precision: WhichPrecision = "auto",
    device: Device = "auto",
    annotator_weights: AnnotatorWeights = None,
    trust_annotators: TrustAnnotators = [],  # noqa: B006
) -> None:
    """Try a ControlNet in the browser: drop a photograph, see its condition, and pictures beside those of the base."""
    _check_installed()
    from trainer.app.address import address_of, is_local, listen
    from trainer.cli import console

    with listen(host, port) as listening:
        console.load_libraries()
        from trainer.app.serve import open_page, server

        page = open_page(
            output,
            base=base,
            checkpoint=checkpoint,
            weights=weights,
            precision=precision,
            device=device,
            annotator_weights=open_weights(annotator_weights, strict=True),
            trust=trust_annotators,
            kind=kind,
            say=console.say,
        )
        if not is_local(host):
            console.say("whoever reaches this machine can use the page: it asks for no password")
        address = address_of(listening, host)
        print(address, flush=True)
        console.say("open this address in a browser; Ctrl-C ends the page")
        if open_browser:
            typer.launch(address)
        server(page, host).run(sockets=[listening])


def _check_installed() -> None:
    """Raises MachineError where what serves the page is missing: before anything is loaded."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MachineError(f"the page needs {error.name}: pip install 'condprep[app]'") from None
