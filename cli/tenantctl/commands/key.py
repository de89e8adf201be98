"""`tenantctl key`: the API keys of a tenant's clients."""

from __future__ import annotations

from typing import Annotated

import typer

from tenantctl.client import url
from tenantctl.options import Json, TenantArgument, connect, examples
from tenantctl.render import message, print_json, print_table
from tenantctl.units import moment

app = typer.Typer(name="key", help="Manage the API keys of a tenant.", no_args_is_help=True)


@app.command(
    epilog=examples("tenantctl key create acme --label laptop", "export TENANTD_API_KEY=$(tenantctl key create acme)")
)
def create(
    ctx: typer.Context,
    tenant: TenantArgument,
    label: Annotated[str, typer.Option(metavar="TEXT", help="Note what the key is for.")] = "",
    json: Json = False,
) -> None:
    """Create a key; it is shown only once."""
    with connect(ctx) as client:
        answer = client.post(url("tenants", tenant, "keys"), {"label": label})
    if json:
        print_json(answer)
        return
    message(f"created key {answer['key']['id']} of {tenant}; it is shown only once:")
    print(answer["secret"], flush=True)


@app.command("list", epilog=examples("tenantctl key list acme"))
def list_(ctx: typer.Context, tenant: TenantArgument, json: Json = False) -> None:
    """List the keys of a tenant (prefixes only)."""
    with connect(ctx) as client:
        answer = client.get(url("tenants", tenant, "keys"))
    if json:
        print_json(answer)
        return
    rows = [
        (k["id"], k["prefix"], moment(k["created_micros"]), moment(k["revoked_micros"]), k["label"])
        for k in answer["keys"]
    ]
    print_table(["key", "prefix", "created", "revoked", "label"], rows)


@app.command(epilog=examples("tenantctl key list acme", "tenantctl key revoke key_xNJXWMyN6tcd"))
def revoke(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Key id, as shown by `key list`.")],
    json: Json = False,
) -> None:
    """Revoke a key, effective immediately, and end its running requests."""
    with connect(ctx) as client:
        answer = client.delete(url("keys", key))
    if json:
        print_json(answer)
    else:
        message(f"key {answer['key']['id']} of {answer['key']['tenant']} is revoked")
