"""Options and arguments that several commands share, and what they have in common.

Completion reads the metavars: FILE and GGUF complete files, the lower-case words of `this|last` are offered as they
are, and a parameter named `tenant` completes the names of tenants, `suite` those of suites.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tenantctl.client import Client, environment_key, find_socket
from tenantctl.render import message


@dataclass(frozen=True)
class Globals:
    """What was said before the command."""

    socket: Path | None
    admin: bool = False  # the user's own identity, whatever key the environment holds

    @property
    def words(self) -> str:
        """How a command to try begins, so that it reaches the same daemon."""
        return "tenantctl" if self.socket is None else f"tenantctl --socket {self.socket}"


def connect(ctx: typer.Context) -> Client:
    """To the daemon that is meant, with the key of the environment if there is one; that is said on standard error.

    Raises Unauthenticated for what cannot be a key.
    """
    meant: Globals = ctx.find_object(Globals)  # type: ignore[assignment]  # set by the root
    key = "" if meant.admin else environment_key()
    if key:
        message("using the API key in TENANTD_API_KEY (pass --admin before the command to use none)")
    return Client(find_socket(meant.socket), key=key)


def words(ctx: typer.Context) -> str:
    """How a command to try begins."""
    return ctx.find_object(Globals).words  # type: ignore[union-attr]  # set by the root


class MonthCommand(TyperCommand):
    """A command whose `--month` may come without a value: it is the running month then."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Fill in the value that is left out; words after `--` are no options."""
        options = args[: args.index("--")] if "--" in args else args
        if "--month" in options:
            after = options.index("--month") + 1
            if after == len(options) or options[after].startswith("-"):
                args = [*args[:after], "this", *args[after:]]
        return super().parse_args(ctx, args)


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
Month = Annotated[
    str,
    typer.Option("--month", metavar="YYYY-MM|this|last", help="A month, as in 2026-11; without a value, this month."),
]
