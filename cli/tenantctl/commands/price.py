"""`tenantctl price`: dated price lists, for all tenants and for one."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final

import typer

from tenantctl.client import url
from tenantctl.options import Json, TenantFilter, connect, examples, optional_tenant
from tenantctl.render import message, print_json, print_table, short_each
from tenantctl.units import NANOS, NOTHING, moment_in, money

app = typer.Typer(name="price", help="Set and show prices.", no_args_is_help=True)

MOST_UNITS: Final = 1_000_000
MOST_TOKENS: Final = 10**15
_AMOUNT: Final = re.compile(r"[0-9]{1,7}(\.[0-9]{1,9})?|\.[0-9]{1,9}")
_COUNT: Final = re.compile(r"([0-9]{1,16})([kMG]?)")
_TIMES: Final = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
MONEY: Final = {
    "input_nanos_per_million": "input per million",
    "cached_nanos_per_million": "cached per million",
    "output_nanos_per_million": "output per million",
    "engine_hour_nanos": "engine hour",
    "minimum_nanos": "minimum a month",
}
COUNTS: Final = {"free_prompt_tokens": "free input tokens", "free_completion_tokens": "free output tokens"}
_COLUMNS: Final = ["tenant", "from", "input>", "cached>", "output>", "hour>", "minimum>", "free in>", "free out>"]
_SPARE: Final = ("minimum", "hour", "cached", "free out", "free in")
"""Left out first on a narrow terminal."""


def _nanos(text: str | None) -> int | None:
    """An exact amount in billionths of the currency unit."""
    if text is None:
        return None
    if not _AMOUNT.fullmatch(text) or (amount := Decimal(text)) > MOST_UNITS:
        raise typer.BadParameter(
            f"must be an amount from 0 to {MOST_UNITS} with at most 9 decimals, such as 0.25 (got {text[:40]!r})"
        )
    return int(amount * NANOS)


def _tokens(text: str | None) -> int | None:
    """A number of tokens; k, M and G stand for thousands, millions and billions."""
    if text is None:
        return None
    found = _COUNT.fullmatch(text)
    if found is None or (count := int(found[1]) * _TIMES[found[2]]) > MOST_TOKENS:
        raise typer.BadParameter(f"must be a whole number such as 500000, 500k or 5M (got {text[:40]!r})")
    return count


def _amount(text: str | None) -> str | None:
    _nanos(text)  # here, so that an error names the option
    return text


def _count(text: str | None) -> str | None:
    _tokens(text)
    return text


def _amount_option(name: str, what: str) -> Any:
    return typer.Option(name, metavar="AMOUNT", help=what, show_default=False, callback=_amount)


def _tokens_option(name: str, what: str) -> Any:
    return typer.Option(name, metavar="N", help=what, show_default=False, callback=_count)


@app.command(
    "list",
    epilog=examples("tenantctl price list", "tenantctl price list --tenant acme", "tenantctl price list --past --json"),
)
def list_(
    ctx: typer.Context,
    tenant: TenantFilter = None,
    past: Annotated[bool, typer.Option("--past", help="Also show prices that no longer apply.")] = False,
    json: Json = False,
) -> None:
    """List current and future prices.

    Tenants that are not listed pay the general prices, shown as (all). --json always includes past prices.
    """
    with connect(ctx) as client:
        answer = client.get(url("prices"), tenant=tenant)
    if json:
        print_json(answer)
        return
    wanted = ("in_force", "future", "past", "replaced") if past else ("in_force", "future")
    timezone = answer["timezone"]
    lists = [one for one in answer["prices"] if one["state"] in wanted and not _is_over(one, past)]
    names = short_each([one["tenant"] or "(all)" for one in lists])
    print_table(_COLUMNS, [_row(name, one, timezone) for name, one in zip(names, lists, strict=True)], _SPARE)
    message(f"{answer['currency']} per million tokens or engine hour; minimum and free tokens per month")
    message(f"dates and times are in {timezone}")


def _is_over(one: dict[str, Any], past: bool) -> bool:
    """Whether it only says that a tenant has no prices of its own any more."""
    return not past and one["like_all"] and one["state"] == "in_force"


def _short(count: int) -> str:
    """A number of tokens as it can be typed: 500k, 10M. Exact."""
    for letter in ("G", "M", "k"):
        if count and not count % _TIMES[letter]:
            return f"{count // _TIMES[letter]}{letter}"
    return str(count) if count else NOTHING


def _row(tenant: str, one: dict[str, Any], timezone: str) -> list[object]:
    since = moment_in(one["effective_micros"], timezone)
    if one["state"] in ("past", "replaced"):
        since += f" {one['state']}"
    if one["like_all"]:
        return [tenant, since, *["as all"] * 3, *[NOTHING] * 4]
    return [
        tenant,
        since,
        *(money(one[name]) for name in MONEY),
        *(_short(one[name]) for name in COUNTS),
    ]


@app.command(
    "set",
    epilog=examples(
        "tenantctl price set --from 2026-12-01 --input 0.15 --output 0.60",
        "tenantctl price set --tenant acme --free-input-tokens 1M",
        "tenantctl price set --tenant acme --from 2027-01-01 --like-all",
    ),
)
def set_(
    ctx: typer.Context,
    since: Annotated[
        str, typer.Option("--from", metavar="now|DATE", help="When they take effect, in the billing time zone.")
    ] = "now",
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="NAME", help="Set prices of this tenant only.", callback=optional_tenant),
    ] = None,
    input: Annotated[str | None, _amount_option("--input", "Price of a million prompt tokens.")] = None,
    cached: Annotated[str | None, _amount_option("--cached", "Price of a million cached prompt tokens.")] = None,
    output: Annotated[str | None, _amount_option("--output", "Price of a million generated tokens.")] = None,
    engine_hour: Annotated[str | None, _amount_option("--engine-hour", "Price of an hour of engine time.")] = None,
    minimum: Annotated[str | None, _amount_option("--minimum", "Minimum charge for a month.")] = None,
    free_input: Annotated[
        str | None, _tokens_option("--free-input-tokens", "Prompt tokens a month that cost nothing.")
    ] = None,
    free_output: Annotated[
        str | None, _tokens_option("--free-output-tokens", "Generated tokens a month that cost nothing.")
    ] = None,
    like_all: Annotated[bool, typer.Option("--like-all", help="End the tenant's own prices.")] = False,
    json: Json = False,
) -> None:
    """Set prices, effective now or from a later date.

    Prices that you leave out stay as they are on that date. A request is charged at the prices in force when it ends.
    A tenant with its own prices keeps all of them when the general ones change. To replace future prices, set the same
    date again.
    """
    amounts = dict(zip(MONEY, map(_nanos, (input, cached, output, engine_hour, minimum)), strict=True))
    amounts |= dict(zip(COUNTS, map(_tokens, (free_input, free_output)), strict=True))
    given = {name: value for name, value in amounts.items() if value is not None}
    if like_all and given:
        raise typer.BadParameter("cannot be used with prices", param_hint="--like-all")
    if like_all and tenant is None:
        raise typer.BadParameter("needs --tenant NAME", param_hint="--like-all")
    if not like_all and not given:
        raise typer.BadParameter("give at least one price, such as --input 0.15", param_hint="price set")
    body = {"from": since, **given} | ({"tenant": tenant} if tenant else {}) | ({"like_all": True} if like_all else {})
    with connect(ctx) as client:
        change = client.post(url("prices"), body)
        timezone = "" if json else client.get(url("prices"), tenant=tenant)["timezone"]
    if json:
        print_json(change)
        return
    _print_change(change, tenant, timezone)


def _print_change(change: dict[str, Any], tenant: str | None, timezone: str) -> None:
    before, after = change["before"], change["after"]
    whose = tenant or "all tenants"
    if not change["is_changed"]:
        message(f"nothing to change: the prices for {whose} are already these")
        return
    until = "" if after["until_micros"] is None else f" until {moment_in(after['until_micros'], timezone)}"
    message(
        f"price list {after['id']} for {whose} applies from {moment_in(after['effective_micros'], timezone)}{until} "
        f"({timezone})"
    )
    rows = [(label, money(before[name]), money(after[name])) for name, label in MONEY.items()]
    rows += [(label, _short(before[name]), _short(after[name])) for name, label in COUNTS.items()]
    print_table([after["currency"], "before>", "from then>"], rows)
    if int(after["input_nanos_per_million"]) and not int(after["cached_nanos_per_million"]):
        message(
            "cached prompt tokens will be free, and so will tokens that prompts of one request share; --cached sets a "
            "price"
        )
    if after["like_all"]:
        message(f"from then on, {tenant} pays the general prices")
    if change["own_tenants"]:
        message(f"unchanged, because they have their own prices: {', '.join(change['own_tenants'])}")
