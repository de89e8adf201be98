"""A tenant's own figures of a period, as `tenantctl stats` shows them to it."""

from __future__ import annotations

import time
from typing import Any, Final

from tenantctl.own_view import OwnView
from tenantctl.render import heading, print_fields, print_json, print_table
from tenantctl.spreadsheet import print_records
from tenantctl.times import duration_s
from tenantctl.units import energy, lasting, money, percent, period_in

USUAL_WINDOW: Final = "1h"
_ENDS: Final = ("completed", "cancelled", "disconnected", "failed", "interrupted")
_TIMES: Final = (
    *("average_duration_micros", "p50_duration_micros", "p99_duration_micros"),
    *("p50_first_token_micros", "p99_first_token_micros"),
)
FIELDS: Final = (
    *("tenant", "requests", "running", *_ENDS, "error_rate"),
    *(
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "engine_micros",
        "energy_millijoules",
        *_TIMES,
        "cost_nanos",
    ),
)
"""Columns of CSV."""


def show_own_stats(own: OwnView, period: dict[str, str | None], *, json: bool, as_csv: bool) -> None:
    """`period` has what was given of window, month, since and until; by default it is the last hour."""
    asked = dict(period)
    window = asked.pop("window")
    if window is not None or not any(asked.values()):
        now_micros = time.time_ns() // 1000
        since_micros = max(0, now_micros - duration_s(window or USUAL_WINDOW) * 1_000_000)
        asked = {"since": str(since_micros), "until": str(now_micros)}
    answer = own.get("/v1/usage", **asked)
    if json:
        print_json(answer)
    elif as_csv:
        print_records(FIELDS, [{"tenant": own.tenant, **answer["total"]}], answer["currency"])
    else:
        _print(own.tenant, answer)


def _print(tenant: str, answer: dict[str, Any]) -> None:
    total = answer["total"]
    ends = [f"{total[end]:,} {end}" for end in (*_ENDS, "running") if total[end]]
    heading(tenant)
    print_fields(
        {
            "window": period_in(answer["since_micros"], answer["until_micros"], answer["timezone"]),
            "requests": f"{total['requests']:,}" + (f" ({', '.join(ends)})" if ends else ""),
            "errors": percent(total["error_rate"]) if total["requests"] else None,
            "tokens in": f"{total['prompt_tokens']:,} computed, {total['cached_tokens']:,} cached",
            "tokens out": f"{total['completion_tokens']:,}",
            "engine time": lasting(total["engine_micros"]),
            **({"energy": energy(total["energy_millijoules"])} if total["energy_millijoules"] else {}),
            "cost": f"{answer['currency']} {money(total['cost_nanos'])}",
        }
    )
    print()
    whole = [lasting(total[f"{which}_duration_micros"]) for which in ("average", "p50", "p99")]
    first = [None, *(lasting(total[f"{which}_first_token_micros"]) for which in ("p50", "p99"))]
    print_table(["time", "average>", "p50>", "p99>"], [["whole request", *whole], ["first token", *first]])
