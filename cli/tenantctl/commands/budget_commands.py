"""`tenantctl budget`: hard limits on what a tenant or a key may use in a day, week or month."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import typer

from tenantctl.budget_options import levels, name_of, names, with_amounts
from tenantctl.budget_table import SPARE, rows, sentence, with_unit
from tenantctl.client import url
from tenantctl.confirming import confirm
from tenantctl.options import Json, TenantArgument, TenantFilter, connect, examples, words
from tenantctl.render import message, note, print_json, print_table
from tenantctl.units import moment
from tenantd.errors import NotFound, TenantdError

app = typer.Typer(
    name="budget", help="Manage budgets: hard limits on money, tokens and engine time.", no_args_is_help=True
)

Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help="Budgets of this key of the tenant: its id, or at least 4 characters of its start or end.",
        show_default=False,
    ),
]
WHICH: Final = "Budget, such as monthly or --daily-tokens. Default: all of them."


@app.command(
    "set",
    epilog=examples(
        "tenantctl budget set acme --monthly 100 --daily-tokens 2M",
        "tenantctl budget set acme --monthly 250.50 --warn 50,80,100",
        "tenantctl budget set acme --key key_0123456789ab --daily-engine-seconds 600",
        "tenantctl budget set acme --daily-tokens none       [dim]# remove this budget[/]",
    ),
)
@with_amounts(none=True)
def set_(
    ctx: typer.Context,
    tenant: TenantArgument,
    key: Key = None,
    warn: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT,…|none",
            help="Warn when this much is used. Default for a new budget: 80,100.",
            show_default=False,
        ),
    ] = None,
    *,
    amounts: list[dict[str, Any]],
    json: Json = False,
) -> None:
    """Set or change budgets of a tenant, or of one of its keys.

    Several can apply at once; the tightest decides. Days, weeks (from Monday) and months begin at midnight in the
    billing time zone; earlier usage in the same period counts. When a budget is used up, running requests end with the
    finish reason length, and new ones are refused until it resets. 0 blocks, `none` removes a budget.
    """
    body: dict[str, Any] = {"key_id": key, "budgets": amounts}
    if (wanted := levels(warn)) is not None:
        body["warn"] = wanted
    if not amounts and wanted is None:
        raise typer.BadParameter("nothing to change; pass at least one option, such as --monthly 100")
    with connect(ctx) as client:
        answer = client.patch(url("tenants", tenant, "budgets"), body)
    _report(answer, json)
    if not json and not answer["budgets"] and not answer["removed"]:
        message(f"nothing changed: {key or tenant} has no such budget; to list them: {words(ctx)} budget list")


@app.command("list", epilog=examples("tenantctl budget list", "tenantctl budget list --tenant acme --json"))
def list_(ctx: typer.Context, tenant: TenantFilter = None, json: Json = False) -> None:
    """List budgets with what is used, held by running requests, and left."""
    with connect(ctx) as client:
        answer = client.get(url("budgets") if tenant is None else url("tenants", tenant, "budgets"))
    if json:
        print_json(answer)
        return
    columns, cells = rows(answer["budgets"], answer["currency"])
    print_table(columns, cells, [name for name in SPARE if name in {each.rstrip(">") for each in columns}])
    for one in answer["budgets"]:
        for topup in one["topups"]:
            note(_topup_line(one, topup, answer["currency"]))
    if not answer["budgets"]:
        message(f"no budgets yet; set one: {words(ctx)} budget set {tenant or 'TENANT'} --monthly AMOUNT")


@app.command(
    epilog=examples(
        'tenantctl budget topup acme --monthly 20 --reason "paid in advance"',
        'tenantctl budget topup acme --key key_0123456789ab --daily-tokens 50k --reason "demo today"',
    )
)
@with_amounts(none=False)
def topup(
    ctx: typer.Context,
    tenant: TenantArgument,
    key: Key = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Reason, listed with the budget.")] = "",
    *,
    amounts: list[dict[str, Any]],
    json: Json = False,
) -> None:
    """Add to one budget for the current period only.

    The next period has the usual amount again. Date, reason and who did it are listed with the budget.
    """
    if len(amounts) != 1:
        raise typer.BadParameter("pass one amount, such as --monthly 20")
    with connect(ctx) as client:
        body = {"key_id": key, **amounts[0], "reason": reason}
        answer = client.post(url("tenants", tenant, "budgets", "topup"), body)
    _report(answer, json)


@app.command(
    context_settings={"ignore_unknown_options": True},  # --monthly names a budget, as it does for `set`
    epilog=examples(
        "tenantctl budget remove acme",
        "tenantctl budget remove acme --monthly --daily-tokens --yes",
        "tenantctl budget remove acme --key key_0123456789ab --yes",
    ),
)
def remove(
    ctx: typer.Context,
    tenant: TenantArgument,
    budgets: Annotated[
        list[str] | None,
        typer.Argument(metavar="BUDGET", help=WHICH, show_default=False),
    ] = None,
    key: Key = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json: Json = False,
) -> None:
    """Remove budgets of a tenant, or of one of its keys, effective immediately.

    Without --key, budgets of the tenant's keys stay.
    """
    which = [_which(name) for name in budgets or ()]
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("not a terminal; pass --yes to confirm")
    with connect(ctx) as client:
        there = client.get(url("tenants", tenant, "budgets"))["budgets"]
        found = [(each["period"], each["unit"]) for each in there if each["key_id"] == key]
        going = [name_of(*each) for each in found if not which or each in which]
        if key is None and (keys := sorted({each["key_id"] for each in there if each["key_id"]})):
            message(f"budgets of its keys stay; to remove them, pass --key: {', '.join(keys)}")
        if not going:
            raise NotFound(f"{key or tenant} has no such budget; to list them: {words(ctx)} budget list")
        if not yes and not confirm(f"Remove budgets of {key or tenant} ({', '.join(going)})?"):
            raise TenantdError("nothing was removed")
        if which:
            gone = [{"period": period, "unit": unit, "amount": None} for period, unit in which]
            answer = client.patch(url("tenants", tenant, "budgets"), {"key_id": key, "budgets": gone})
        else:
            query = "" if key is None else f"?{urlencode({'key': key})}"
            answer = client.delete(url("tenants", tenant, "budgets") + query)
    _report(answer, json)


def _which(name: str) -> tuple[str, str]:
    """Period and unit. Raises BadParameter."""
    if (found := names().get(name.removeprefix("--"))) is None:
        raise typer.BadParameter(f"unknown budget {name!r}; choose from {', '.join(names())}")
    return found


def _report(answer: dict[str, Any], json: bool) -> None:
    if json:
        print_json(answer)
        return
    for one in answer["budgets"]:
        message(sentence(one, answer["currency"]))
    for one in answer["removed"]:
        whose = one["tenant"] if one["key_id"] is None else f"{one['tenant']} ({one['key_id']})"
        message(f"{whose}: {name_of(one['period'], one['unit'])} budget removed")


def _topup_line(one: dict[str, Any], topup: dict[str, Any], currency: str) -> str:
    whose = one["tenant"] if one["key_id"] is None else f"{one['tenant']} ({one['key_id']})"
    amount = with_unit(one["unit"], topup["amount"], currency)
    reason = f": {topup['reason']}" if topup["reason"] else ""
    name = name_of(one["period"], one["unit"])
    return f"  {whose} {name}: +{amount} on {moment(topup['at_micros'])} by {topup['actor']}{reason}"
