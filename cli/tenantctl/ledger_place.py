"""Where the ledger is, for commands that read its file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from tenantctl.client import url
from tenantctl.installed import configured_state_dir
from tenantctl.options import connect, require_own_machine
from tenantd.errors import TenantdError

LEDGER_NAME: Final = "ledger.db"
StateDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with the ledger. Default: the daemon's.")]


def state_dir(ctx: typer.Context, given: Path | None) -> Path:
    """The folder of the ledger: as given, as the running daemon says, or as configured."""
    if given is not None:
        return given
    require_own_machine(ctx, instead="or name the folder of a ledger with --state-dir")
    try:
        with connect(ctx) as client:
            return Path(client.get(url("status"))["state_dir"])
    except TenantdError:  # it does not run, or not for this user
        return configured_state_dir()


@contextmanager
def progress(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Updates one line on a terminal with what is done, how far it is, and how far it goes."""
    if not sys.stderr.isatty():
        yield lambda part, done, of: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as shown:
        yield lambda part, done, of: shown.update(f"{what}: {part} {100 * done // max(of, 1)}%".replace("  ", " "))
