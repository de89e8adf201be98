"""Options and arguments that several commands share, and what they have in common.

Completion reads the metavars: FILE and GGUF complete files, the lower-case words of `this|last` are offered as they
are, and a parameter named `tenant` completes the names of tenants, `suite` those of suites.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tenantctl.client import Client, find_socket


@dataclass(frozen=True)
class Globals:
    """What was said before the command."""

    socket: Path | None

    @property
    def words(self) -> str:
        """How a command to try begins, so that it reaches the same daemon."""
        return "tenantctl" if self.socket is None else f"tenantctl --socket {self.socket}"


def connect(ctx: typer.Context) -> Client:
    """To the daemon that is meant."""
    return Client(find_socket(ctx.find_object(Globals).socket))  # type: ignore[union-attr]  # set by the root


def words(ctx: typer.Context) -> str:
    """How a command to try begins."""
    return ctx.find_object(Globals).words  # type: ignore[union-attr]  # set by the root


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n".join(["[bold]Examples:[/]", *(f"  {line}" for line in lines)])


def _tenant_name(value: str | None) -> str | None:
    from tenantd.domain import TENANT_NAME

    if value is not None and not TENANT_NAME.fullmatch(value):
        raise typer.BadParameter("a tenant's name has a-z, 0-9, _ and -, begins with a letter or digit, at most 63")
    return value


def finite(value: float | None) -> float | None:
    """A number JSON can carry: neither nan nor infinite."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("must be a finite number")
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="Its name.", callback=_tenant_name)]
NewTenantArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="a-z, 0-9, _ and -, at most 63.", callback=_tenant_name)
]
TenantFilter = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", help="Only this tenant.", callback=_tenant_name)
]
ActingTenant = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        metavar="NAME",
        help="For whom. Needed by administrators, and by users and keys of several tenants.",
        callback=_tenant_name,
    ),
]
Month = Annotated[str, typer.Option("--month", metavar="YYYY-MM|this|last", help="A month, as in 2026-11.")]
