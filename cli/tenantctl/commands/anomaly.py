"""`tenantctl anomalies`: tenants that may be copying the model, and why."""

from __future__ import annotations

from typing import Any, Final

import typer

from tenantctl.client import url
from tenantctl.options import Json, TenantArgument, TenantFilter, connect, examples, words
from tenantctl.render import message, print_json
from tenantctl.times import Since, moment_of
from tenantctl.units import moment
from tenantd.printable import printable

EXAMPLES: Final = examples(
    "tenantctl anomalies",
    "tenantctl anomalies --tenant acme --since 7d --json",
    "tenantctl anomalies clear acme     [dim]# these requests are harmless[/]",
)
_DONE: Final = {"log": "only logged", "throttle": "throttled", "suspend": "suspended"}
app = typer.Typer(name="anomalies", help="Show tenants that may be copying the model.", epilog=EXAMPLES)


@app.callback(invoke_without_command=True)
def show(
    ctx: typer.Context,
    tenant: TenantFilter = None,
    since: Since = None,
    json: Json = False,
) -> None:
    """Show tenants that may be copying the model, newest first.

    A tenant is compared with its own past, so it can only be judged after 14 half-days with at least 10 prompts in
    each. `tenant set --on-anomaly` sets what happens to it.
    """
    if ctx.invoked_subcommand is not None:
        return
    with connect(ctx) as client:
        answer = client.get(
            url("anomalies"), tenant=tenant, since=None if since is None else moment_of(since, "--since")
        )
    if json:
        print_json(answer)
        return
    for one in answer["anomalies"]:
        print(printable(_line(one)))
        for reason in one["reasons"]:
            print(f"    {printable(reason)}")
    if not answer["anomalies"]:
        message("no anomalies")


def _line(one: dict[str, Any]) -> str:
    done = "cleared" if one["cleared_micros"] else _DONE[one["action"]]
    return f"{moment(one['at_micros'])}  {one['tenant']}  {done}  (score {one['score']:.1f} ≥ {one['threshold']:.1f})"


def _cleared(tenant: str, count: int) -> str:
    if not count:
        return f"{tenant} had no anomalies to clear"
    return f"cleared {count} {'anomaly' if count == 1 else 'anomalies'} of {tenant}"


@app.command(epilog=examples("tenantctl anomalies clear acme"))
def clear(ctx: typer.Context, tenant: TenantArgument, json: Json = False) -> None:
    """Mark a tenant's anomalies as harmless.

    Ends its throttling, and counts what it does in the next 12 to 24 hours as normal. It is not judged during that
    time. A suspended tenant stays suspended.
    """
    with connect(ctx) as client:
        answer = client.post(url("tenants", tenant, "anomalies", "clear"))
    if json:
        print_json(answer)
        return
    is_suspended = answer["tenant"]["state"] == "suspended"
    message(_cleared(tenant, answer["cleared"]) + ("" if is_suspended else "; it has its full weight again"))
    message("what it sends in the next 12 to 24 hours counts as normal; it is not judged during that time")
    if is_suspended:
        message(f"it is still suspended; let it send requests: {words(ctx)} tenant resume {tenant}")
