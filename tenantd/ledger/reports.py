"""What tenants used in a period: functions over a reading connection."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Final

import msgspec

from tenantd.ledger.prices import MAX_INTEGER, divide_half_up
from tenantd.ledger.records import RequestRecord
from tenantd.ledger.requests import COLUMNS, as_record
from tenantd.ledger.rollups import COUNTS, DURATION, ENDS, FIRST_TOKEN, SUMS
from tenantd.ledger.sums import Percentiles, billed_nanos, sums, too_large
from tenantd.periods import DAY_MICROS

MINUTE_MICROS: Final = 60_000_000


class TenantUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's requests that ended in a period, and those created in it that still run, with their usage so far
    (without cost yet).

    Unbilled requests count, but cost nothing. `completed` counts those that ended with stop or length. Percentiles are
    nearest-rank, None if nothing was measured; over more than an hour, within 2%. `error_rate` is the fraction of ended
    requests that failed or were interrupted. `tenant` is its last name in the period.
    """

    tenant: str
    tenant_id: int
    requests: int
    running: int
    completed: int
    cancelled: int
    disconnected: int
    failed: int
    interrupted: int
    prompt_tokens: int
    completion_tokens: int
    engine_micros: int
    cost_nanos: int
    average_duration_micros: int | None
    p50_duration_micros: int | None
    p99_duration_micros: int | None
    p50_first_token_micros: int | None
    p99_first_token_micros: int | None
    error_rate: float
    cached_tokens: int = 0
    energy_millijoules: int = 0


_RUNNING: Final = """SELECT tenant_id, count(*), sum(prompt_tokens), sum(completion_tokens), sum(engine_micros),
    sum(cached_tokens), sum(energy_millijoules) FROM requests
    WHERE state = 'running' AND created_micros >= :since AND created_micros < :until
    AND tenant_id = coalesce(:tenant, tenant_id) GROUP BY tenant_id"""


def usage_report(
    conn: Connection, since_micros: int, until_micros: int, tenant_id: int | None = None
) -> list[TenantUsage]:
    """By tenant, requests that ended from `since_micros` until before `until_micros`, and those created then that still
    run. Raises AmountTooLarge."""
    ended = sums(conn, since_micros, until_micros, ("tenant_id",), tenant_id=tenant_id)
    billed = sums(conn, since_micros, until_micros, ("tenant_id",), tenant_id=tenant_id, billed=True)
    percentiles = Percentiles(conn, since_micros, until_micros, tenant_id=tenant_id)
    values = {"since": since_micros, "until": until_micros, "tenant": tenant_id}
    running = {number: tuple(more) for number, *more in conn.execute(_RUNNING, values)}
    report = []
    for number in {key[0] for key in ended} | running.keys():
        total = ended.get((number,)) or dict.fromkeys((*COUNTS, *SUMS), 0)
        now, *used = running.get(number, (0,) * 6)
        prompt_tokens, completion_tokens, engine_micros, cached_tokens, energy_millijoules = used
        if not total["requests"] + now:
            continue  # all of it was taken out again
        measured = total["measured"]
        report.append(
            TenantUsage(
                tenant=name_before(conn, number, until_micros),
                tenant_id=number,
                requests=total["requests"] + now,
                running=now,
                **{name: total[name] for name in ENDS},
                prompt_tokens=total["prompt_tokens"] + prompt_tokens,
                completion_tokens=total["completion_tokens"] + completion_tokens,
                cached_tokens=total["cached_tokens"] + cached_tokens,
                engine_micros=total["engine_micros"] + engine_micros,
                energy_millijoules=total["energy_millijoules"] + energy_millijoules,
                cost_nanos=cost_nanos(billed.get((number,))),
                average_duration_micros=divide_half_up(total["duration_micros"], measured) if measured else None,
                p50_duration_micros=percentiles.of(number, DURATION, 50),
                p99_duration_micros=percentiles.of(number, DURATION, 99),
                p50_first_token_micros=percentiles.of(number, FIRST_TOKEN, 50),
                p99_first_token_micros=percentiles.of(number, FIRST_TOKEN, 99),
                error_rate=(total["failed"] + total["interrupted"]) / total["requests"] if total["requests"] else 0.0,
            )
        )
    return sorted(report, key=lambda usage: (usage.tenant, usage.tenant_id))


def cost_nanos(total: dict[str, int] | None) -> int:
    """What is billed for sums of billed requests. Raises AmountTooLarge."""
    if total is None:
        return 0
    if (billed := billed_nanos(total)) > MAX_INTEGER:
        raise too_large()
    return billed


def name_before(conn: Connection, tenant_id: int, until_micros: int) -> str:
    """The name of a tenant at its last request before a moment, or else its present or last name."""
    row = conn.execute(
        """SELECT tenant FROM requests WHERE tenant_id = ? AND created_micros < ?
        ORDER BY created_micros DESC, number DESC LIMIT 1""",
        (tenant_id, until_micros),
    ).fetchone()
    row = row or conn.execute("SELECT name FROM tenants WHERE id = ?", (tenant_id,)).fetchone()
    return str(row[0]) if row is not None else f"tenant {tenant_id}"


def recent_requests(conn: Connection, tenant_id: int | None, limit: int) -> list[RequestRecord]:
    """Recent requests, newest first, including running ones."""
    where = "true" if tenant_id is None else "tenant_id = :tenant"
    rows = conn.execute(
        f"SELECT {COLUMNS} FROM requests WHERE {where} ORDER BY created_micros DESC, number DESC LIMIT :limit",
        {"tenant": tenant_id, "limit": limit},
    )
    return [as_record(row) for row in rows]


class RecentUsage(msgspec.Struct, frozen=True):
    """Tokens of a tenant's requests that ended about `age_s` seconds ago."""

    tenant_id: int
    age_s: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


def recent_usage(conn: Connection, now_micros: int, period_s: float) -> list[RecentUsage]:
    """Tokens of requests created in the last `period_s`, by tenant and second of their end.

    An answer whose prompt was billed with another choice shared it with that one, as if it had been cached.
    """
    rows = conn.execute(
        """SELECT tenant_id, (:now - coalesce(ended_micros, created_micros)) / 1000000 AS age_s,
        sum(prompt_tokens), sum(iif(completion_tokens > 0, prompt_length_tokens - prompt_tokens, cached_tokens)),
        sum(completion_tokens)
        FROM requests
        WHERE created_micros BETWEEN :now - :period AND :now GROUP BY tenant_id, age_s""",
        {"now": now_micros, "period": int(period_s * 1_000_000)},
    )
    return [RecentUsage(number, float(age_s), *tokens) for number, age_s, *tokens in rows]


class Booked(msgspec.Struct, frozen=True):
    """What a tenant was given `age_micros` ago: tokens of a request that ended then, or a request that started then."""

    tenant_id: int
    age_micros: int
    tokens: int
    requests: int


def last_minute(conn: Connection, now_micros: int) -> list[Booked]:
    """Oldest first. A request counts with all its tokens, even if it got some before the last minute."""
    rows = conn.execute(
        """SELECT tenant_id, :now - ended_micros AS age, prompt_tokens + completion_tokens, 0 FROM requests
        WHERE ended_micros > :now - :minute AND +created_micros > :now - :day
        UNION ALL SELECT tenant_id, :now - created_micros AS age, 0, 1
        FROM requests WHERE created_micros > :now - :minute
        ORDER BY age DESC""",
        {"now": now_micros, "minute": MINUTE_MICROS, "day": DAY_MICROS},
    )
    return [Booked(number, max(0, age), tokens, requests) for number, age, tokens, requests in rows]
