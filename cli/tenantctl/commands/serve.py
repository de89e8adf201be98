"""`tenantctl serve`: run the daemon in the foreground."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tenantctl.installed import is_machines_installed, means_the_machines
from tenantctl.options import Globals, examples
from tenantctl.render import message
from tenantd.errors import Conflict

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

    _mention_the_service(config, model)
    if (socket := ctx.ensure_object(Globals).socket) is not None:
        os.environ["TENANTD_SOCKET"] = str(socket)
    raise typer.Exit(run(config, model))


def _mention_the_service(config: Path | None, model: Path | None) -> None:
    """Raises Conflict instead of saying how to make a second daemon, with an empty ledger, beside the machine's."""
    if config is None and model is None and means_the_machines():
        raise Conflict(
            "tenantd is a service on this machine; start it with: systemctl start tenantd; for another daemon with its "
            "own ledger, begin with tenantctl init"
        )
    if is_machines_installed() and sys.stderr.isatty():
        message("this is not the service of this machine but another daemon, with its own ledger")
