"""The figures of tenants over a window of time: how much, how fast, what failed, and who had which share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from sqlite3 import Connection
from typing import Any, Final

import msgspec

from tenantd.domain import BudgetUnit
from tenantd.ledger.evenness import Evenness, Service, evenness
from tenantd.ledger.prices import MAX_INTEGER, divide_half_up
from tenantd.ledger.reports import cost_nanos, name_before
from tenantd.ledger.rollups import COUNTS, DURATION, ENDS, FIRST_TOKEN, SUMS, USED
from tenantd.ledger.sums import Percentiles, edges, sums, too_large, whole_hours
from tenantd.periods import Period

_CAUSES_OF_HOURS: Final = """SELECT tenant_id, cause, sum(requests) FROM causes
    WHERE hour_micros >= ? AND hour_micros < ? GROUP BY 1, 2 HAVING sum(requests) > 0"""
_CAUSES_OF_ROWS: Final = """SELECT tenant_id, cause, count(*) FROM requests
    WHERE ended_micros >= ? AND ended_micros < ? AND cause <> '' GROUP BY 1, 2"""

Causes = dict[str, int]
Total = dict[str, int]


class BudgetUse(msgspec.Struct, frozen=True, kw_only=True):
    """A budget and what was used of it since its period began, in its unit: nano-units of money, tokens, or
    microseconds of engine time. `cap` includes what was added for this period. `key_id` is None for all keys."""

    id: int
    key_id: str | None
    period: Period
    unit: BudgetUnit
    cap: int
    used: int
    resets_micros: int


class KnownTenant(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant as it is now, with its budgets. `weight` is what divides its usage."""

    tenant_id: int
    name: str
    weight: float
    is_removed: bool = False
    budgets: tuple[BudgetUse, ...] = ()


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that ended in a window; `completed` with stop or length. Unbilled requests count, but cost nothing.

    Times are None if nothing was measured; percentiles are nearest-rank. `causes` counts error codes. `error_rate` is
    the fraction that failed or were interrupted.
    """

    requests: int
    completed: int
    cancelled: int
    disconnected: int
    failed: int
    interrupted: int
    error_rate: float
    causes: Causes
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    output_tokens_per_s: float
    engine_micros: int
    energy_millijoules: int
    cost_nanos: int
    average_duration_micros: int | None
    p50_duration_micros: int | None
    p95_duration_micros: int | None
    p99_duration_micros: int | None
    average_first_token_micros: int | None
    p50_first_token_micros: int | None
    p95_first_token_micros: int | None
    p99_first_token_micros: int | None


class TenantFigures(Figures, frozen=True, kw_only=True):
    """Those of one tenant, and its budgets now. Shares are fractions of the engine time and of the tokens, in and out,
    of all tenants; None if there were none."""

    tenant: str
    tenant_id: int
    is_removed: bool
    weight: float
    engine_share: float | None
    token_share: float | None
    budgets: tuple[BudgetUse, ...] = ()


class WindowFigures(msgspec.Struct, frozen=True, kw_only=True):
    """From `since_micros` until before `until_micros`, `total` over the tenants listed.

    Percentiles are exact if `is_exact`, else within 2%.
    """

    since_micros: int
    until_micros: int
    is_exact: bool
    total: Figures
    evenness: Evenness
    tenants: list[TenantFigures]


def window_figures(
    conn: Connection,
    since_micros: int,
    until_micros: int,
    known: Mapping[int, KnownTenant],
    service: Service,
    tenant_id: int | None = None,
) -> WindowFigures:
    """Of all tenants that there are, and those removed ones that used something, by name; or of one.

    `until_micros` is not in the future. `service` is that of tokens, to compare tenants. Raises AmountTooLarge.
    """
    totals, billed = _totals(conn, since_micros, until_micros)
    percentiles = Percentiles(conn, since_micros, until_micros, tenant_id=tenant_id)
    causes = _causes(conn, since_micros, until_micros)
    window_s = max(0, until_micros - since_micros) / 1e6
    everything = _added(totals.values())
    shown = [tenant_id] if tenant_id is not None else totals.keys() | _present(known)
    tenants = []
    for number in shown:
        total, cost = totals.get(number) or _nothing(), cost_nanos(billed.get(number))
        one = known.get(number)
        tenants.append(
            TenantFigures(
                tenant=name_before(conn, number, until_micros) if one is None else one.name,
                tenant_id=number,
                is_removed=one is None or one.is_removed,
                weight=1.0 if one is None else one.weight,
                budgets=() if one is None or one.is_removed else one.budgets,
                engine_share=_share(total["engine_micros"], everything["engine_micros"]),
                token_share=_share(_tokens(total), _tokens(everything)),
                **_figures(total, cost, window_s, percentiles, number, causes.get(number, {})),
            )
        )
    together = _added(totals.get(number) or _nothing() for number in shown)
    cost = cost_nanos(_added(billed.get(number) or _nothing() for number in shown))
    all_causes = sum((Counter(causes.get(number, {})) for number in shown), Counter[str]())
    weights = {one.tenant_id: one.weight for one in known.values()}
    return WindowFigures(
        since_micros=since_micros,
        until_micros=until_micros,
        is_exact=percentiles.is_exact,
        total=Figures(**_figures(together, cost, window_s, percentiles, None, all_causes)),
        evenness=evenness(conn, since_micros, until_micros, weights, service),
        tenants=sorted(tenants, key=lambda each: (each.tenant, each.tenant_id)),
    )


def _totals(conn: Connection, since_micros: int, until_micros: int) -> tuple[dict[int, Total], dict[int, Total]]:
    """Of all requests and of those that are billed, by tenant."""
    totals: dict[int, Total] = {}
    billed: dict[int, Total] = {}
    for (number, unbilled), part in sums(conn, since_micros, until_micros, ("tenant_id", "unbilled")).items():
        for total in (totals,) if unbilled else (totals, billed):
            total[number] = _added([total.get(number, {}), part])
    return totals, billed


def _added(parts: Iterable[Total]) -> Total:
    """The sum of several. Raises AmountTooLarge."""
    total = _nothing()
    for part in parts:
        for name, value in part.items():
            total[name] += value
            if total[name] > MAX_INTEGER:
                raise too_large()
    return total


def _nothing() -> Total:
    return dict.fromkeys((*COUNTS, *SUMS), 0)


def _present(known: Mapping[int, KnownTenant]) -> set[int]:
    return {number for number, one in known.items() if not one.is_removed}


def _tokens(total: Total) -> int:
    return total["prompt_tokens"] + total["cached_tokens"] + total["completion_tokens"]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _figures(
    total: Total, cost: int, window_s: float, percentiles: Percentiles, tenant_id: int | None, causes: Causes
) -> dict[str, Any]:
    """The fields of `Figures`."""
    measured, started, ended = total["measured"], total["started"], total["requests"]
    times: dict[str, int | None] = {
        "average_duration_micros": divide_half_up(total["duration_micros"], measured) if measured else None,
        "average_first_token_micros": divide_half_up(total["first_token_micros"], started) if started else None,
    }
    for metric in (DURATION, FIRST_TOKEN):
        for percent in (50, 95, 99):
            times[f"p{percent}_{metric}_micros"] = percentiles.of(tenant_id, metric, percent)
    return {
        **{name: total[name] for name in ("requests", *ENDS, *USED)},
        **times,
        "error_rate": (total["failed"] + total["interrupted"]) / ended if ended else 0.0,
        "causes": dict(sorted(causes.items(), key=lambda each: (-each[1], each[0]))),
        "output_tokens_per_s": total["completion_tokens"] / window_s if window_s else 0.0,
        "cost_nanos": cost,
    }


def _causes(conn: Connection, since_micros: int, until_micros: int) -> dict[int, Causes]:
    """Errors by code, by tenant."""
    first, last = whole_hours(since_micros, until_micros)
    pieces = [(_CAUSES_OF_HOURS, first, last)] if first < last else []
    pieces += [(_CAUSES_OF_ROWS, since, until) for since, until in edges(since_micros, until_micros)]
    found: dict[int, Causes] = {}
    for query, since, until in pieces:
        for number, cause, requests in conn.execute(query, (since, until)):
            causes = found.setdefault(number, {})
            causes[cause] = causes.get(cause, 0) + requests
    return found
