"""`tenantctl usage`, `requests` and `cancel`: what was used, and by which requests."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import typer

from tenantctl.client import url
from tenantctl.options import Json, Month, TenantFilter, connect, examples
from tenantctl.render import message, print_json, print_table, tenant_names
from tenantctl.units import decimals, milliseconds, moment, money, seconds
from tenantd.clock import now_micros

USAGE_EXAMPLES = examples("tenantctl usage", "tenantctl usage --month last --tenant acme --json")
REQUESTS_EXAMPLES = examples("tenantctl requests", "tenantctl requests --tenant acme --limit 10")
SPARE: Final = ("kind", "engine ms", "first ms", "cost", "took s", "prompt", "output", "error", "time")
"""Columns of `requests` that are left out first on a narrow terminal."""
NAMED_MONTHS = {"this": "this month", "last": "last month"}
CANCEL_EXAMPLES = examples("tenantctl requests --limit 5", "tenantctl cancel req_0123456789abcdef0123456789abcdef")


def usage(ctx: typer.Context, month: Month = "this", tenant: TenantFilter = None, json: Json = False) -> None:
    """Show what each tenant used in a month."""
    with connect(ctx) as client:
        answer = client.get(url("usage"), month=month, tenant=tenant)
    if json:
        print_json(answer)
        return
    tenants = answer["tenants"]
    places = decimals(t["cost_nanos"] for t in tenants)
    columns = ["tenant", "requests>", "failed>", "prompt tokens>", "output tokens>", "engine s>"]
    columns += ["p50 first ms>", "p99 first ms>", "p50 s>", "p99 s>", f"{answer['currency']}>"]
    print_table(columns, [_usage_row(n, t, places) for n, t in zip(tenant_names(tenants), tenants, strict=True)])
    if not tenants:
        message(f"no usage {NAMED_MONTHS.get(month, f'in {month}')}")


def _usage_row(name: str, t: dict[str, Any], places: int) -> list[object]:
    return [
        name,
        t["requests"],
        t["failed"] + t["interrupted"],
        t["prompt_tokens"],
        t["completion_tokens"],
        seconds(t["engine_micros"]),
        milliseconds(t["p50_first_token_micros"]),
        milliseconds(t["p99_first_token_micros"]),
        seconds(t["p50_duration_micros"]),
        seconds(t["p99_duration_micros"]),
        money(t["cost_nanos"], places),
    ]


def requests(
    ctx: typer.Context,
    tenant: TenantFilter = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Show at most N requests.")] = 50,
    json: Json = False,
) -> None:
    """List recent requests, newest first."""
    with connect(ctx) as client:
        answer = client.get(url("requests"), tenant=tenant, limit=limit)
    if json:
        print_json(answer)
        return
    rows = answer["requests"]
    places = decimals(r["cost_nanos"] for r in rows)
    columns = ["request", "tenant", "kind", "state", "time", "prompt>", "output>"]
    columns += ["engine ms>", "first ms>", "took s>", "cost>", "error"]
    print_table(columns, [_request_row(r, places) for r in rows], SPARE)
    if not rows:
        message("no requests yet")


def _when(micros: int) -> str:
    """On a terminal, the time of today or the date of another day, so that a row fits into a line."""
    whole = moment(micros)
    if not sys.stdout.isatty():
        return whole
    day, _, time_of_day = whole.partition(" ")
    return time_of_day if day == moment(now_micros())[:10] else day


def _request_row(r: dict[str, Any], places: int) -> list[object]:
    return [
        r["id"],
        r["tenant"],
        r["kind"],
        r["live_state"] or r["state"],
        _when(r["created_micros"]),
        r["prompt_tokens"],
        r["completion_tokens"],
        milliseconds(r["engine_micros"]),
        milliseconds(r["first_token_micros"]),
        seconds(r["duration_micros"]),
        money(r["cost_nanos"], places),
        r["error"],
    ]


def cancel(
    ctx: typer.Context,
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="Request id, as shown by `requests`.")],
    json: Json = False,
) -> None:
    """Cancel a running or waiting request.

    Tokens generated so far are billed.
    """
    with connect(ctx) as client:
        answer = client.post(url("requests", request, "cancel"))
    if json:
        print_json(answer)
    else:
        message(f"cancelled {answer['cancelled']}")
