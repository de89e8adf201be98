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
        typer.Option("--model", metavar="GGUF", help="Model to serve. Default: the small model of the demo extra."),
    ] = None,
) -> None:
    """Run a self-contained demo: two tenants share a model.

    Prints their answers, shares and invoice. Uses a temporary folder and does not touch a running daemon.
    """
    from rich.console import Console

    from tenantctl.bench.demonstration import run_demo

    console = Console()
    run_demo(model, console if console.is_terminal else Console(width=PIPED_COLUMNS))
