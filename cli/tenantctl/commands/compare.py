"""`tenantctl compare`: all tenants side by side, and how evenly they were served."""

from __future__ import annotations

import sys
from typing import Any, Final

import typer

from tenantctl.client import url
from tenantctl.options import Csv, Json, connect, examples, one_output
from tenantctl.render import heading, message, print_json, print_table, short_names, tenant_names, terminal_width
from tenantctl.spreadsheet import print_records
from tenantctl.standing import budgets_in_use, fullest, limits_in_use
from tenantctl.times import Window
from tenantctl.units import NOTHING, duration, lasting, percent

EXAMPLES: Final = examples("tenantctl compare", "tenantctl compare --window 7d", "tenantctl compare --window 1h --csv")
SPARE: Final = ("which budget", "which limit", "weight", "p50", "errors", "1st p99", "limit", "budget")
"""Columns that are left out first on a narrow terminal."""
FIELDS: Final = (
    *("tenant", "tenant_id", "weight", "engine_micros", "engine_share"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "token_share", "requests", "error_rate"),
    *(
        "p50_duration_micros",
        "p99_duration_micros",
        "p99_first_token_micros",
        "limit",
        "limit_used",
        "budget",
        "budget_used",
        "cost_nanos",
    ),
)
"""Columns of CSV."""
WIDE: Final = 110
"""Columns of a terminal from which on bars are long."""


def compare(ctx: typer.Context, window: Window = "24h", json: Json = False, as_csv: Csv = False) -> None:
    """Compare tenants: shares of engine time and tokens, latency, limits and budgets in use now.

    Shows the limit and the budget that each tenant has used most of. Percentiles are exact for windows of up to an
    hour, and otherwise within 2%.

    Jain's index shows how evenly service was shared: 1 if all got the same, 1/N if one of N got everything. Service is
    what a tenant's tokens cost in the scheduler's usage, divided by its weight. Only busy tenants count, because a
    tenant that asks for little gets little. A tenant is busy in a clock hour (UTC) if its requests took at least an
    hour in total, waiting included. The index is the mean over the hours in which at least two tenants were busy.
    """
    one_output(json, as_csv)
    with connect(ctx) as client:
        answer = client.get(url("stats"), window=window)
    tenants = sorted(answer["tenants"], key=lambda t: (-(t["engine_share"] or 0), t["tenant"], t["tenant_id"]))
    if json:
        print_json({**answer, "tenants": tenants})
    elif as_csv:
        print_records(FIELDS, [_with_limit(t) for t in tenants], answer["currency"])
    else:
        _print(tenants, answer["evenness"])


def _with_limit(t: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, use in (("limit", fullest(limits_in_use(t))), ("budget", fullest(budgets_in_use(t)))):
        found |= {kind: use.what.replace(" ", "_") if use else None, f"{kind}_used": use.fraction if use else None}
    return {**t, **found}


def _print(tenants: list[dict[str, Any]], evenness: dict[str, Any]) -> None:
    columns = ["tenant", "weight>", "engine time", "tokens", "errors>", "p50>", "p99>", "1st p99>", "limit>"]
    columns += ["budget>", "which limit", "which budget"]
    length = 20 if sys.stdout.isatty() and terminal_width() >= WIDE else 6
    names = short_names(tenant_names(tenants))
    print_table(
        columns,
        [_row(name, t, length) for name, t in zip(names, tenants, strict=True)],
        SPARE,
        full=("--json", "--csv"),
    )
    if not tenants:
        message("no tenants yet")
    elif evenness["index"] is None:
        heading("Jain's index: - (no hour had two busy tenants)")
    else:
        shared = duration(evenness["shared_micros"] / 1e6)
        heading(f"Jain's index: {evenness['index']:.3f} ({evenness['tenants']} busy tenants, {shared})")


def _row(name: str, t: dict[str, Any], length: int) -> list[object]:
    limit, budget = fullest(limits_in_use(t)), fullest(budgets_in_use(t))
    return [
        name,
        f"{t['weight']:g}",
        share(t["engine_share"], length),
        share(t["token_share"], length),
        percent(t["error_rate"]) if t["requests"] else None,
        lasting(t["p50_duration_micros"]),
        lasting(t["p99_duration_micros"]),
        lasting(t["p99_first_token_micros"]),
        percent(limit.fraction) if limit else None,
        percent(min(1.0, budget.fraction)) if budget else None,  # as in other tables, all of it is used up
        limit.what if limit else None,
        budget.what if budget else None,
    ]


def share(fraction: float | None, length: int) -> str:
    """A bar and a percentage, always as wide."""
    if fraction is None:
        return NOTHING
    eighths = round(fraction * length * 8)
    if "utf" in (sys.stdout.encoding or "").lower():
        bar = "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
    else:
        bar = "#" * round(eighths / 8)
    return f"{percent(fraction):>6} {bar:<{length}}"
