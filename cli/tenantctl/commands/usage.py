"""`tenantctl usage`: what was used, by whom and when."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from tenantctl.client import Client, url
from tenantctl.options import Csv, Json, PeriodMonth, TenantFilter, connect, examples, one_output
from tenantctl.own_view import OwnView, own_view
from tenantctl.render import (
    TOTAL,
    message,
    print_json,
    print_table,
    short_names,
    tenant_names,
)
from tenantctl.spreadsheet import print_records
from tenantctl.times import PeriodSince, PeriodUntil, bound
from tenantctl.units import NOTHING, decimals, milliseconds, money, plural, seconds, watt_hours

USAGE_EXAMPLES = examples(
    "tenantctl usage",
    "tenantctl usage --month last --tenant acme --json",
    "tenantctl usage --by day --month",
    "tenantctl usage --by key --since 2026-11-15 --csv > keys.csv",
)
SPARE_USAGE: Final = (
    "p50 s",
    "p50 first ms",
    "p99 s",
    "p99 first ms",
    "cached",
    "energy Wh",
    "engine s",
    "failed",
    "prompt tokens",
    "requests",
)
_ENDS: Final = ("completed", "cancelled", "disconnected", "failed", "interrupted")
_USED: Final = ("prompt_tokens", "cached_tokens", "completion_tokens", "engine_micros", "energy_millijoules")
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

    By hour, a period can be at most 100 days, or 32 if the billing time zone is not whole hours from UTC. Tenants see
    their own usage.
    """
    one_output(json, as_csv)
    if month is not None and (since or until):
        raise typer.BadParameter("use either --month or --since and --until", param_hint="--month")
    if month is None and since is until is None:
        month = "this"
    period = {"month": month, "since": bound(since, "--since"), "until": bound(until, "--until")}
    with connect(ctx) as client:
        if (own := own_view(client, tenant)) is not None:
            answer, rows = _own(own, by, period)
        else:
            path = url("usage") if by is By.TENANT else url("usage", by)
            answer = client.get(path, **period, tenant=tenant)
            rows = answer["tenants" if by is By.TENANT else "groups"]
        is_table = not json and not as_csv
        running = _running(client, own, period, tenant) if is_table and by is not By.TENANT else 0
    if json:
        print_json(answer)
    elif as_csv:
        print_records(_TENANT_FIELDS if by is By.TENANT else _group_fields(by), _named(by, rows), answer["currency"])
    elif by is By.TENANT:
        _print_tenants(rows, answer["currency"])
    else:
        _print_groups(by, rows, answer["currency"])
    if running:
        message(f"without {plural(running, 'running request')}, counted at the end; `tenantctl usage` includes them")
    if not rows and not json:
        message(f"no usage {NAMED_MONTHS.get(month, f'in {month}') if month else 'in this period'}")


def _running(client: Client, own: OwnView | None, period: dict[str, str | None], tenant: str | None) -> int:
    """Requests of the period that run: they are in the rows of tenants and in no others."""
    if own is not None:
        return int(own.get("/v1/usage", **period)["total"]["running"])
    return sum(row["running"] for row in client.get(url("usage"), **period, tenant=tenant)["tenants"])


def _own(own: OwnView, by: By, period: dict[str, str | None]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The answer for a tenant, and rows as administrators have them."""
    whose = {"tenant": own.tenant, "tenant_id": None}
    if by is By.TENANT:
        answer = own.get("/v1/usage", **period)
        return answer, [answer["total"] | whose] if answer["total"]["requests"] else []
    answer = own.get(f"/v1/usage/{by.value}", **period)
    return answer, [group | whose for group in answer["groups"]]


def _print_tenants(tenants: list[dict[str, Any]], currency: str) -> None:
    places = decimals(t["cost_nanos"] for t in tenants)
    columns = ["tenant", "requests>", "failed>", "prompt tokens>", "cached>", "output tokens>", "engine s>"]
    has_energy = any(t["energy_millijoules"] for t in tenants)
    columns += [*(["energy Wh>"] if has_energy else []), "p50 first ms>", "p99 first ms>", "p50 s>", "p99 s>"]
    columns += [f"{currency}>"]
    names = short_names(tenant_names(tenants))
    rows = [_usage_row(n, t, places, has_energy=has_energy) for n, t in zip(names, tenants, strict=True)]
    if len(tenants) > 1:
        rows.append(_usage_row(TOTAL, _summed(tenants), places, has_energy=has_energy))
    print_table(columns, rows, SPARE_USAGE, full=("--json", "--csv"))


def _summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums of what adds up. Percentiles do not."""
    return dict.fromkeys(_PERCENTILES) | {name: sum(row[name] for row in rows) for name in _ADDED}


def _print_groups(by: By, groups: list[dict[str, Any]], currency: str) -> None:
    places = decimals(g["cost_nanos"] for g in groups)
    names = [g["name"] for g in groups]
    if by in (By.MODEL, By.ADAPTER):
        names = short_names(names)
    elif by is By.HOUR:
        names = [_hour(name) for name in names]
    columns, rows = [by.value], [[name] for name in names]
    if by is By.KEY:
        columns += ["tenant", "label"]
        owners = {group["tenant_id"]: group for group in groups}
        owned_by = dict(zip(owners, short_names(tenant_names(list(owners.values()))), strict=True))
        for row, group in zip(rows, groups, strict=True):
            row += [owned_by[group["tenant_id"]], group["label"]]
    has_energy = any(group["energy_millijoules"] for group in groups)
    columns += ["requests>", "failed>", "prompt tokens>", "cached>", "output tokens>", "engine s>"]
    columns += [*(["energy Wh>"] if has_energy else []), f"{currency}>"]
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
            *([watt_hours(group["energy_millijoules"])] if has_energy else []),
            money(group["cost_nanos"], places),
        ]
    spare = ("cached", "failed", "label", "energy Wh", "engine s", "prompt tokens", "requests")
    print_table(columns, rows, spare, full=("--json", "--csv"))


def _hour(name: str) -> str:
    """As people write it: "2026-11-29 14:00 UTC", "2026-11-29 14:00 UTC+01:00"; clocks can show an hour twice."""
    day, time = name[:10], name[11:16]
    return f"{day} {time} UTC{name[16:].replace('+00:00', '')}"


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


def _usage_row(name: str, t: dict[str, Any], places: int, *, has_energy: bool) -> list[object]:
    return [
        name,
        t["requests"],
        t["failed"] + t["interrupted"],
        t["prompt_tokens"],
        t["cached_tokens"],
        t["completion_tokens"],
        seconds(t["engine_micros"]),
        *([watt_hours(t["energy_millijoules"])] if has_energy else []),
        milliseconds(t["p50_first_token_micros"]),
        milliseconds(t["p99_first_token_micros"]),
        seconds(t["p50_duration_micros"]),
        seconds(t["p99_duration_micros"]),
        money(t["cost_nanos"], places),
    ]
