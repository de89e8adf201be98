"""`tenantctl key`: API keys of tenants' clients, and of programs that administer."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer

from tenantctl.client import url
from tenantctl.options import Json, connect, examples, optional_tenant
from tenantctl.render import message, print_json, print_table
from tenantctl.times import duration_s, end_fields
from tenantctl.units import NOTHING, duration, moment

app = typer.Typer(name="key", help="Manage API keys.", no_args_is_help=True)

SCOPES: Final = ("run", "read")
MOST_GRACE_S: Final = 365 * 86_400
RECENT_S: Final = 2 * 86_400
"""Times nearer than this are shown as durations, others as dates."""

Tenant = Annotated[
    str | None,
    typer.Argument(metavar="TENANT", help="Name of the tenant.", callback=optional_tenant, show_default=False),
]
KeyArgument = Annotated[
    str,
    typer.Argument(metavar="KEY", help="Key id, as shown by `key list`, or at least 4 characters of its start or end."),
]
Expires = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION|DATE",
        help="When the key expires: a duration such as 90d, or a date (at the start of that day).",
    ),
]


def _scopes(value: str | None) -> str | None:
    """Refuses what a tenant's key cannot have."""
    for scope in () if value is None else value.split(","):
        if scope == "admin":
            raise typer.BadParameter("for an administrator key, use: tenantctl key create --admin")
        if scope not in SCOPES:
            raise typer.BadParameter(f"unknown scope {scope!r}; choose from {', '.join(SCOPES)}")
    return value


@app.command(
    epilog=examples(
        "tenantctl key create acme --label laptop",
        "tenantctl key create acme --scope read --expires 90d",
        "export TENANTD_API_KEY=$(tenantctl key create acme)",
        "tenantctl key create --admin --label deploy --expires 2027-01-31",
    )
)
def create(
    ctx: typer.Context,
    tenant: Tenant = None,
    label: Annotated[str, typer.Option(metavar="TEXT", help="Note on what the key is for.")] = "",
    scope: Annotated[
        str | None,
        typer.Option(
            metavar="run|read|run,read",
            help="What the key may do: run (send requests), read (look only). Default: both.",
            callback=_scopes,
        ),
    ] = None,
    expires: Expires = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="Create an administrator key, which belongs to no tenant.")
    ] = False,
    json: Json = False,
) -> None:
    """Create a key; it is shown only once."""
    _check_whose(tenant, admin)
    if admin and scope is not None:
        raise typer.BadParameter("an administrator key has the scope admin; leave out --scope")
    body: dict[str, Any] = {"label": label} | ({} if expires is None else end_fields(expires))
    if scope is not None:
        body["scopes"] = scope.split(",")
    with connect(ctx) as client:
        answer = client.post(_keys_of(tenant), body)
    if json:
        print_json(answer)
        return
    message(f"created {_called(answer['key'])}; it is shown only once:")
    print(answer["secret"], flush=True)


@app.command("list", epilog=examples("tenantctl key list acme", "tenantctl key list --admin"))
def list_(
    ctx: typer.Context,
    tenant: Tenant = None,
    admin: Annotated[bool, typer.Option("--admin", help="List administrator keys.")] = False,
    json: Json = False,
) -> None:
    """List the keys of a tenant, or administrator keys (prefixes only)."""
    _check_whose(tenant, admin)
    with connect(ctx) as client:
        answer = client.get(_keys_of(tenant))
    if json:
        print_json(answer)
        return
    now_s = time.time()
    rows = [
        (k["id"], k["prefix"], ",".join(k["scopes"]), _end(k, now_s), _last_use(k, now_s), k["label"])
        for k in answer["keys"]
    ]
    print_table(["key", "prefix", "scopes", "expires", "last used", "label"], rows)


@app.command(
    epilog=examples("tenantctl key rotate key_xNJXWMyN6tcd", "tenantctl key rotate key_xNJXWMyN6tcd --grace 2d")
)
def rotate(
    ctx: typer.Context,
    key: KeyArgument,
    grace: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the old key keeps working; 0 revokes it at once.")
    ] = "1h",
    expires: Expires = None,
    json: Json = False,
) -> None:
    """Replace a key with a new one of the same tenant, label and scopes; it is shown only once.

    The new key lasts as long as the old one was meant to, unless you pass --expires.
    """
    grace_s = duration_s(grace, "--grace")
    if grace_s > MOST_GRACE_S:
        raise typer.BadParameter("must be at most 365d", param_hint="--grace")
    body = {"grace_s": grace_s} | ({} if expires is None else end_fields(expires))
    with connect(ctx) as client:
        answer = client.post(url("keys", key, "rotate"), body)
    if json:
        print_json(answer)
        return
    old, new = answer["replaced"], answer["key"]
    end = "is revoked" if old["revoked_micros"] is not None else f"works until {moment(old['expires_micros'])}"
    message(f"key {old['id']} {end}; created {_called(new)}, shown only once:")
    print(answer["secret"], flush=True)


@app.command(epilog=examples("tenantctl key list acme", "tenantctl key revoke key_xNJXWMyN6tcd"))
def revoke(ctx: typer.Context, key: KeyArgument, json: Json = False) -> None:
    """Revoke a key, effective immediately, and end its running requests."""
    with connect(ctx) as client:
        answer = client.delete(url("keys", key))
    if json:
        print_json(answer)
    else:
        message(f"{_called(answer['key'])} is revoked")


def _check_whose(tenant: str | None, admin: bool) -> None:
    if admin and tenant is not None:
        raise typer.BadParameter("an administrator key belongs to no tenant; pass either TENANT or --admin")
    if not admin and tenant is None:
        raise typer.BadParameter("name a tenant, or pass --admin for administrator keys")


def _keys_of(tenant: str | None) -> str:
    return url("keys") if tenant is None else url("tenants", tenant, "keys")


def _called(key: dict[str, Any]) -> str:
    return f"administrator key {key['id']}" if key["tenant"] is None else f"key {key['id']} of {key['tenant']}"


def _end(key: dict[str, Any], now_s: float) -> str:
    if key["revoked_micros"] is not None:
        return "revoked"
    if (expires_micros := key["expires_micros"]) is None:
        return "never"
    left_s = expires_micros / 1e6 - now_s
    if left_s <= 0:
        return "expired"
    return f"in {duration(left_s)}" if left_s < RECENT_S else moment(expires_micros)[:10]


def _last_use(key: dict[str, Any], now_s: float) -> str:
    if (used_micros := key["last_used_micros"]) is None:
        return NOTHING
    ago_s = now_s - used_micros / 1e6
    return f"{duration(ago_s)} ago" if 0 <= ago_s < RECENT_S else moment(used_micros)[:10]
