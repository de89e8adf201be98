"""Options and arguments that several commands share.

Completion reads the metavars: FILE and GGUF complete file names, and the lower-case words of `this|last` are offered
literally. A parameter named `tenant` completes tenant names, one named `suite` completes suite names.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from tenantctl.client import Client, environment_key
from tenantctl.installed import find_socket
from tenantctl.places import WebPlace, web_place
from tenantctl.render import message
from tenantd.errors import InvalidRequest, Unauthenticated


@dataclass(frozen=True)
class Globals:
    """Options given before the command."""

    socket: Path | None
    admin: bool = False  # act as the Unix user, even if the environment holds a key
    url: str | None = None
    ca: Path | None = None

    @property
    def words(self) -> str:
        """The start of a suggested command, so that it reaches the same daemon."""
        if self.url is not None:
            return f"tenantctl --url {self.url}" + ("" if self.ca is None else f" --ca {self.ca}")
        return "tenantctl" if self.socket is None else f"tenantctl --socket {self.socket}"

    @property
    def web_place(self) -> WebPlace | None:
        """The daemon's URL: as given, or that in TENANTD_URL if no socket is given. Raises InvalidRequest."""
        ca = self.ca or (Path(named) if (named := os.environ.get("TENANTD_CA")) else None)
        if self.url is not None:
            return web_place(self.url, ca, named="--url")
        if self.socket is None and (url := os.environ.get("TENANTD_URL")):
            return web_place(url, ca, named="TENANTD_URL")
        return None


def connect(ctx: typer.Context) -> Client:
    """A client for the selected daemon. Uses the key in TENANTD_API_KEY, if set, and says so on standard error.

    Raises Unauthenticated if the variable cannot be a key, or at a URL if there is none.
    """
    meant: Globals = ctx.find_object(Globals)  # type: ignore[assignment]  # set by the root
    if (place := meant.web_place) is not None:
        return _connect_to(place, meant)
    key = "" if meant.admin else environment_key()
    if key:
        message("using the API key in TENANTD_API_KEY (to ignore it: tenantctl --admin COMMAND)")
    return Client(find_socket(meant.socket), key=key)


def _connect_to(place: WebPlace, meant: Globals) -> Client:
    if meant.admin:
        raise InvalidRequest(
            "--admin acts as your Unix user, which only the socket knows; leave out --url (TENANTD_URL)"
        )
    if not (key := environment_key()):
        raise Unauthenticated(f"set TENANTD_API_KEY to an API key; {place} accepts nothing else")
    if place.is_exposed:
        message(f"warning: {place} is not encrypted; others can read your API key on the way")
    return Client(place, key=key)


def require_own_machine(ctx: typer.Context, *, instead: str) -> None:
    """For commands that read the daemon's files. Raises InvalidRequest, with what to do `instead`, at a URL."""
    if ctx.find_object(Globals).web_place is not None:  # type: ignore[union-attr]  # set by the root
        raise InvalidRequest(
            f"this reads the daemon's files, so run it on the daemon's machine, without --url; {instead}"
        )


def words(ctx: typer.Context) -> str:
    """The start of a suggested command."""
    return ctx.find_object(Globals).words  # type: ignore[union-attr]  # set by the root


def _with_month(args: list[str]) -> list[str]:
    """Fill in the value of `--month` if it is missing; words after `--` are not options."""
    options = args[: args.index("--")] if "--" in args else args
    if "--month" in options:
        after = options.index("--month") + 1
        if after == len(options) or options[after].startswith("-"):
            return [*args[:after], "this", *args[after:]]
    return args


class MonthCommand(TyperCommand):
    """A command whose `--month` may be given without a value, which means the current month."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_month(args))


class MonthGroup(TyperGroup):
    """A group of commands that is itself such a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_month(args))


def examples(*lines: str) -> str:
    """The examples at the end of a command's help."""
    return "\n".join(["[bold]Examples:[/]", *(f"  {line}" for line in lines)])


def _tenant_name(value: str | None) -> str | None:
    from tenantd.domain import TENANT_NAME

    if value is not None and not TENANT_NAME.fullmatch(value):
        raise typer.BadParameter("must be 1–63 characters of a–z, 0–9, _ and -, starting with a letter or digit")
    return value


def optional_tenant(value: str | None) -> str | None:
    """Checks a tenant's name that may be left out."""
    return _tenant_name(value)


def number(text: str) -> float:
    """A number as JSON writes it. Python's own reader would also take 1_0 and digits of other scripts."""
    if not text.isascii() or "_" in text:
        raise typer.BadParameter(f"{text!r} is not a number")
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def finite(value: float | None) -> float | None:
    """A number that JSON can represent: not NaN, not infinite."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("must be a finite number")
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant.", callback=_tenant_name)]
NewTenantArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Up to 63 of a-z, 0-9, _ and -.", callback=_tenant_name)
]
TenantFilter = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", help="Show only this tenant.", callback=_tenant_name)
]
ActingTenant = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        metavar="NAME",
        help="Tenant to act for. Required for administrators and for users of several tenants.",
        callback=_tenant_name,
    ),
]
Whose = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        metavar="NAME",
        help="Tenant whose request it is. Required only for users of several tenants.",
        callback=_tenant_name,
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Month = Annotated[
    str,
    typer.Option("--month", metavar="YYYY-MM|this|last", help="Month to show; --month alone means this month."),
]
PeriodMonth = Annotated[
    str | None,
    typer.Option("--month", metavar="YYYY-MM|this|last", help="Month to show; --month alone means this month."),
]


def one_output(json: bool, as_csv: bool) -> None:
    """Raises BadParameter if both are wanted."""
    if json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv", param_hint="--csv")
