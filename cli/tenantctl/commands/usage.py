"""`tenantctl usage`, `requests` and `cancel`: what was used, and by which requests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from tenantctl.client import url
from tenantctl.options import Csv, Json, PeriodMonth, TenantFilter, connect, examples, one_output
from tenantctl.render import (
    TOTAL,
    message,
    print_json,
    print_table,
    print_wide_table,
    short_ids,
    short_names,
    tenant_names,
)
from tenantctl.spreadsheet import print_records
from tenantctl.times import PeriodSince, PeriodUntil, bound
from tenantctl.units import NOTHING, decimals, milliseconds, moment, money, seconds
from tenantd.clock import now_micros

USAGE_EXAMPLES = examples(
    "tenantctl usage",
    "tenantctl usage --month last --tenant acme --json",
    "tenantctl usage --by day --month",
    "tenantctl usage --by key --since 2026-11-15 --csv > keys.csv",
)
REQUESTS_EXAMPLES = examples(
    "tenantctl requests", "tenantctl requests --tenant acme --limit 10", "tenantctl requests --wide | less -S"
)
SPARE: Final = ("kind", "engine ms", "cached", "first ms", "took s", "error", "time", "output", "prompt", "cost")
"""Columns of `requests` that are left out first on a narrow terminal."""
SPARE_USAGE: Final = (
    "p50 s",
    "p50 first ms",
    "p99 s",
    "p99 first ms",
    "cached",
    "engine s",
    "failed",
    "prompt tokens",
    "requests",
)
_ENDS: Final = ("completed", "cancelled", "disconnected", "failed", "interrupted")
_USED: Final = ("prompt_tokens", "cached_tokens", "completion_tokens", "engine_micros")
_GROUP_FIELDS: Final = ("requests", *_ENDS, *_USED, "list_nanos", "free_nanos", "waived_nanos", "cost_nanos")
_TENANT_FIELDS: Final = (
    *("tenant", "tenant_id", "requests", "running", *_ENDS, "error_rate", *_USED),
    *("average_duration_micros", "p50_duration_micros", "p99_duration_micros"),
    *("p50_first_token_micros", "p99_first_token_micros", "cost_nanos"),
)
_PERCENTILES: Final = tuple(f"p{n}_{what}_micros" for what in ("duration", "first_token") for n in (50, 99))
_ADDED: Final = ("requests", "failed", "interrupted", *_USED, "cost_nanos")
"""What the row of totals has."""
NAMED_MONTHS = {"this": "this month", "last": "last month"}
CANCEL_EXAMPLES = examples(
    "tenantctl requests --limit 5",
    "tenantctl cancel 89abcdef    [dim]# the end of its id, as tables show it[/]",
    "tenantctl cancel req_0123456789abcdef0123456789abcdef",
)


class By(StrEnum):
    """What `usage` has a row for."""

    DAY = "day"
    HOUR = "hour"
    TENANT = "tenant"
    KEY = "key"
    MODEL = "model"
    ADAPTER = "adapter"


def usage(
    ctx: typer.Context,
    by: Annotated[
        By, typer.Option("--by", metavar="GROUP", help="Rows: day, hour, tenant, key, model or adapter.")
    ] = By.TENANT,
    month: PeriodMonth = None,
    since: PeriodSince = None,
    until: PeriodUntil = None,
    tenant: TenantFilter = None,
    json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Show usage in this month or another period, by tenant, day, key and more.

    Requests count when they end; by tenant, running ones count too. Prompt tokens do not include cached ones. Days and
    hours are those of the billing time zone. Percentiles over more than an hour are within 2%. JSON and CSV have all
    figures, and exact money.

    By hour, a period can have at most 100 days, or 32 if the billing time zone is not whole hours from UTC.
    """
    one_output(json, as_csv)
    if month is not None and (since or until):
        raise typer.BadParameter("use either --month or --since and --until", param_hint="--month")
    if month is None and since is until is None:
        month = "this"
    path = url("usage") if by is By.TENANT else url("usage", by)
    with connect(ctx) as client:
        answer = client.get(path, month=month, since=bound(since), until=bound(until), tenant=tenant)
    rows = answer["tenants" if by is By.TENANT else "groups"]
    if json:
        print_json(answer)
    elif as_csv:
        print_records(_TENANT_FIELDS if by is By.TENANT else _group_fields(by), _named(by, rows), answer["currency"])
    elif by is By.TENANT:
        _print_tenants(rows, answer["currency"])
    else:
        _print_groups(by, rows, answer["currency"])
    if not rows and not json:
        message(f"no usage {NAMED_MONTHS.get(month, f'in {month}') if month else 'in this period'}")


def _print_tenants(tenants: list[dict[str, Any]], currency: str) -> None:
    places = decimals(t["cost_nanos"] for t in tenants)
    columns = ["tenant", "requests>", "failed>", "prompt tokens>", "cached>", "output tokens>", "engine s>"]
    columns += ["p50 first ms>", "p99 first ms>", "p50 s>", "p99 s>", f"{currency}>"]
    names = short_names(tenant_names(tenants))
    rows = [_usage_row(n, t, places) for n, t in zip(names, tenants, strict=True)]
    if len(tenants) > 1:
        rows.append(_usage_row(TOTAL, _summed(tenants), places))
    print_table(columns, rows, SPARE_USAGE, full=("--json", "--csv"))


def _summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums of what adds up. Percentiles do not."""
    return dict.fromkeys(_PERCENTILES) | {name: sum(row[name] for row in rows) for name in _ADDED}


def _print_groups(by: By, groups: list[dict[str, Any]], currency: str) -> None:
    places = decimals(g["cost_nanos"] for g in groups)
    names = [g["name"] for g in groups]
    if by in (By.MODEL, By.ADAPTER):
        names = short_names(names)
    columns, rows = [by.value], [[name] for name in names]
    if by is By.KEY:
        columns += ["tenant", "label"]
        owners = {group["tenant_id"]: group for group in groups}
        owned_by = dict(zip(owners, short_names(tenant_names(list(owners.values()))), strict=True))
        for row, group in zip(rows, groups, strict=True):
            row += [owned_by[group["tenant_id"]], group["label"]]
    columns += ["requests>", "failed>", "prompt tokens>", "cached>", "output tokens>", "engine s>", f"{currency}>"]
    if len(groups) > 1:
        rows.append([TOTAL, *[NOTHING] * (len(rows[0]) - 1)])
        groups = [*groups, _summed(groups)]
    for row, group in zip(rows, groups, strict=True):
        row += [
            group["requests"],
            group["failed"] + group["interrupted"],
            group["prompt_tokens"],
            group["cached_tokens"],
            group["completion_tokens"],
            seconds(group["engine_micros"]),
            money(group["cost_nanos"], places),
        ]
    spare = ("cached", "failed", "label", "engine s", "prompt tokens", "requests")
    print_table(columns, rows, spare, full=("--json", "--csv"))


def _group_fields(by: By) -> tuple[str, ...]:
    """Columns of CSV. The first is called as what it is."""
    own = {
        By.KEY: ("key", "label", "tenant", "tenant_id"),
        By.DAY: ("day", "since_micros", "until_micros"),
        By.HOUR: ("hour", "since_micros", "until_micros"),
    }
    return (*own.get(by, (by.value,)), *_GROUP_FIELDS)


def _named(by: By, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows if by is By.TENANT else [{**row, by.value: row["name"]} for row in rows]


def _usage_row(name: str, t: dict[str, Any], places: int) -> list[object]:
    return [
        name,
        t["requests"],
        t["failed"] + t["interrupted"],
        t["prompt_tokens"],
        t["cached_tokens"],
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
    wide: Annotated[
        bool, typer.Option("--wide", help="Show whole ids and all columns, in lines of any length.")
    ] = False,
    json: Json = False,
) -> None:
    """List recent requests, newest first.

    Prompt tokens do not include cached ones. On a terminal, ids are cut to their last 8 digits, which `cancel` and
    `audit log --request` also accept, and columns that do not fit are left out.
    """
    with connect(ctx) as client:
        answer = client.get(url("requests"), tenant=tenant, limit=limit)
    if json:
        print_json(answer)
        return
    rows = answer["requests"]
    places = decimals(r["cost_nanos"] for r in rows)
    ids, names = [r["id"] for r in rows], [r["tenant"] for r in rows]
    if not wide:
        owners = sorted(set(names))
        shown = dict(zip(owners, short_names(owners), strict=True))
        ids, names = short_ids(ids), [shown[name] for name in names]
    columns = ["request", "tenant", "kind", "state", "time", "prompt>", "cached>", "output>"]
    columns += ["engine ms>", "first ms>", "took s>", "cost>", "error"]
    when = moment if wide else _when
    cells = [
        [request, name, *_request_cells(r, when, places)] for request, name, r in zip(ids, names, rows, strict=True)
    ]
    if wide:
        print_wide_table(columns, cells)
    else:
        print_table(columns, cells, SPARE, full=("--wide", "--json"))
    if not rows:
        message("no requests yet")


def _when(micros: int) -> str:
    """On a terminal, the time of today or the date of another day, so that a row fits into a line."""
    whole = moment(micros)
    if not sys.stdout.isatty():
        return whole
    day, _, time_of_day = whole.partition(" ")
    return time_of_day if day == moment(now_micros())[:10] else day


def _request_cells(r: dict[str, Any], when: Callable[[int], str], places: int) -> list[object]:
    return [
        r["kind"],
        r["live_state"] or r["state"],
        when(r["created_micros"]),
        r["prompt_tokens"],
        r["cached_tokens"],
        r["completion_tokens"],
        milliseconds(r["engine_micros"]),
        milliseconds(r["first_token_micros"]),
        seconds(r["duration_micros"]),
        money(r["cost_nanos"], places),
        r["error"],
    ]


def cancel(
    ctx: typer.Context,
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="Request id, or at least 8 digits at either end.")],
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
