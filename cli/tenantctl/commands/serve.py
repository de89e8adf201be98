"""`tenantctl serve`: run the daemon in the foreground."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tenantctl.options import Globals, examples

EXAMPLES = examples(
    "tenantctl serve",
    "tenantctl serve --model ~/models/gemma.gguf",
    "tenantctl serve --config /etc/tenantd/config.toml",
)


def serve(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Configuration file. Default: TENANTD_CONFIG or ~/.config/tenantd/config.toml."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="GGUF", help="Serve this model instead of the configured one.")
    ] = None,
) -> None:
    """Run the daemon in the foreground.

    Same as `tenantd`. SIGTERM, Ctrl-C or closing the terminal stops it once running requests have finished. SIGHUP
    reloads tenants and configuration.
    """
    from tenantd.main import run

    if (socket := ctx.ensure_object(Globals).socket) is not None:
        os.environ["TENANTD_SOCKET"] = str(socket)
    raise typer.Exit(run(config, model))
