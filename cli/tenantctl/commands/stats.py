"""`tenantctl stats`: how much each tenant was served, how fast, and what went wrong."""

from __future__ import annotations

from typing import Any, Final
from zoneinfo import ZoneInfo

import typer

from tenantctl.client import url
from tenantctl.options import Csv, Json, PeriodMonth, TenantFilter, connect, examples, one_output
from tenantctl.own_stats import show_own_stats
from tenantctl.own_view import own_view
from tenantctl.render import TOTAL, heading, message, print_fields, print_json, print_table, short_names, tenant_names
from tenantctl.spreadsheet import print_records
from tenantctl.standing import amount, limits_in_use
from tenantctl.times import PeriodSince, PeriodUntil, Window, bound
from tenantctl.units import NOTHING, count, decimals, energy, lasting, money, percent, period_in
from tenantd.periods import in_words

EXAMPLES: Final = examples(
    "tenantctl stats",
    "tenantctl stats --tenant acme --window 24h",
    "tenantctl stats --month last --csv > stats.csv",
)
SPARE: Final = (
    "avg",
    "p95",
    "1st p95",
    "1st p50",
    "cached",
    "engine",
    "in",
    "1st p99",
    "p50",
    "out",
    "errors",
    "tok/s",
)
"""Columns that are left out first on a narrow terminal."""
_TIMES: Final = [
    f"{which}_{what}_micros" for what in ("duration", "first_token") for which in ("average", "p50", "p95", "p99")
]
FIELDS: Final = (
    *("tenant", "tenant_id", "requests", "running", "paused", "waiting"),
    *("completed", "cancelled", "disconnected", "failed", "interrupted", "error_rate"),
    *(
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "output_tokens_per_s",
        "engine_micros",
        "energy_millijoules",
    ),
    *("engine_share", "token_share", "weight", *_TIMES, "cost_nanos"),
)
"""Columns of CSV."""


def stats(
    ctx: typer.Context,
    tenant: TenantFilter = None,
    window: Window = None,
    month: PeriodMonth = None,
    since: PeriodSince = None,
    until: PeriodUntil = None,
    json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Show tenants' requests, tokens, times and errors in the last hour or another period.

    Without --tenant, each tenant has a row. Requests count when they end, with all their tokens. Percentiles are exact
    for windows of up to an hour, and otherwise within 2%. tok/s is output tokens divided by the length of the window.
    JSON and CSV have all figures, and exact money. Tenants see their own.
    """
    one_output(json, as_csv)
    if (month is not None) + (window is not None) + bool(since or until) > 1:
        raise typer.BadParameter("use one of --window, --month, and --since and --until", param_hint="--window")
    period = {"window": window, "month": month, "since": bound(since, "--since"), "until": bound(until, "--until")}
    with connect(ctx) as client:
        if (own := own_view(client, tenant)) is not None:
            show_own_stats(own, period, json=json, as_csv=as_csv)
            return
        answer = client.get(url("stats"), tenant=tenant, **period)
    if json:
        print_json(answer)
    elif as_csv:
        print_records(FIELDS, answer["tenants"], answer["currency"])
    elif tenant is not None:
        _print_one(answer, answer["tenants"][0])
    else:
        _print_all(answer)


def _print_all(answer: dict[str, Any]) -> None:
    tenants, currency = answer["tenants"], answer["currency"]
    places = decimals(t["cost_nanos"] for t in tenants)
    columns = ["tenant", "requests>", "errors>", "in>", "cached>", "out>", "tok/s>", "avg>", "p50>", "p95>", "p99>"]
    columns += ["1st p50>", "1st p95>", "1st p99>", "engine>", f"{currency}>"]
    names = short_names(tenant_names(tenants))
    rows = [_row(name, t, places) for name, t in zip(names, tenants, strict=True)]
    if len(tenants) > 1:
        rows.append(_row(TOTAL, answer["total"], places))
    print_table(columns, rows, (*SPARE, currency), full=("--json", "--csv"))
    if not tenants:
        message("no tenants yet")


def _row(name: str, t: dict[str, Any], places: int) -> list[object]:
    return [
        name,
        count(t["requests"]),
        percent(t["error_rate"]) if t["requests"] else None,
        count(t["prompt_tokens"]),
        count(t["cached_tokens"]),
        count(t["completion_tokens"]),
        rate(t["output_tokens_per_s"]),
        *(lasting(t[name]) for name in _TIMES if name != "average_first_token_micros"),
        lasting(t["engine_micros"]),
        money(t["cost_nanos"], places),
    ]


def rate(per_s: float) -> str:
    """Tokens a second."""
    return f"{per_s:.1f}" if per_s < 1000 else count(round(per_s))


def _print_one(answer: dict[str, Any], t: dict[str, Any]) -> None:
    """A page about one tenant."""
    removed = " (removed)" if t["is_removed"] else ""
    heading(f"{t['tenant']}{removed}")
    ends = [
        f"{t[end]:,} {end}" for end in ("completed", "cancelled", "disconnected", "failed", "interrupted") if t[end]
    ]
    print_fields(
        {
            "window": period_in(answer["since_micros"], answer["until_micros"], answer["timezone"]),
            "requests": f"{t['requests']:,}" + (f" ({', '.join(ends)})" if ends else ""),
            "now": f"{t['running']} running, {t['paused']} paused, {t['waiting']} waiting",
            "errors": _errors(t),
            "tokens in": f"{t['prompt_tokens']:,} computed, {t['cached_tokens']:,} cached",
            "tokens out": f"{t['completion_tokens']:,} ({rate(t['output_tokens_per_s'])} a second)",
            "engine time": f"{lasting(t['engine_micros'])} ({percent(t['engine_share'])} of all)",
            **({"energy": energy(t["energy_millijoules"])} if t["energy_millijoules"] else {}),
            "cost": f"{answer['currency']} {money(t['cost_nanos'])}",
            **({"refused": _counts(t["refused"]) + " since the daemon started"} if t["refused"] else {}),
        }
    )
    print()
    times = [
        [text, *(lasting(t[f"{which}_{what}_micros"]) for which in ("average", "p50", "p95", "p99"))]
        for text, what in (("whole request", "duration"), ("first token", "first_token"))
    ]
    print_table(["time" if answer["is_exact"] else "time (±2%)", "average>", "p50>", "p95>", "p99>"], times)
    _print_use(t, ZoneInfo(answer["timezone"]))


def _print_use(t: dict[str, Any], timezone: ZoneInfo) -> None:
    """Limits in force, and budgets."""
    used = {use.what: use.used for use in limits_in_use(t)}
    limits = [
        [name.replace("_", " "), used.get(name.replace("_", " "), NOTHING), value]
        for name, value in (t["limits"] or {}).items()
        if value is not None
    ]
    if limits:
        print()
        print_table(["limit", "used now>", "allowed>"], limits)
    budgets = [
        [
            f"{one['period']} {one['unit'].replace('_', ' ')}",
            one["key_id"] or "all",
            amount(one["used"], one["unit"]),
            amount(one["cap"], one["unit"]),
            percent(one["used"] / one["cap"]) if one["cap"] else None,
            in_words(one["resets_micros"], timezone),
        ]
        for one in t["budgets"]
    ]
    if budgets:
        print()
        print_table(["budget", "key", "used>", "of>", "%>", "resets"], budgets, ("resets", "%"))


def _errors(t: dict[str, Any]) -> str:
    causes = f": {_counts(t['causes'])}" if t["causes"] else ""
    return (percent(t["error_rate"]) if t["requests"] else NOTHING) + causes


def _counts(counts: dict[str, int]) -> str:
    """Each cause and how often."""
    return ", ".join(f"{number:,} {cause}" for cause, number in counts.items())
