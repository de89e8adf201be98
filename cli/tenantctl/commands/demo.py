"""`tenantctl demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tenantctl.options import examples

PIPED_COLUMNS = 140
EXAMPLES = examples("tenantctl demo", "tenantctl demo --model model.gguf")


def demo(
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="GGUF", help="Model to serve. Default: the small one of the demo extra."),
    ] = None,
) -> None:
    """Two tenants at once on a daemon of their own: answers, shares, invoice.

    Runs in a temporary folder; a daemon that is running already is left alone.
    """
    from rich.console import Console

    from tenantctl.bench.demonstration import run_demo

    console = Console()
    run_demo(model, console if console.is_terminal else Console(width=PIPED_COLUMNS))
