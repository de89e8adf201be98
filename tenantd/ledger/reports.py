"""What tenants used in a period: functions over a reading connection."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Final

import msgspec

from tenantd.ledger.pieces import Sums, add_up, name_in, pieces
from tenantd.ledger.prices import divide_half_up
from tenantd.ledger.records import RequestRecord
from tenantd.ledger.requests import COLUMNS, as_record

MINUTE_MICROS: Final = 60_000_000
DAY_MICROS: Final = 24 * 60 * MINUTE_MICROS


class TenantUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's requests created in a period, including running ones with their usage so far (without cost yet).

    Unbilled requests count, but cost nothing. `completed` counts those that ended with stop or length. Percentiles are
    nearest-rank: a measured value, None if there is none. `error_rate` is the fraction of ended requests that
    failed or were interrupted. `tenant` is its last name in the period.
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


_TOTALS: Final = """SELECT tenant_id, count(*) AS requests,
    count(*) FILTER (WHERE state = 'running') AS running,
    count(*) FILTER (WHERE state IN ('stop', 'length')) AS completed,
    count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
    count(*) FILTER (WHERE state = 'disconnected') AS disconnected,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    count(*) FILTER (WHERE state = 'interrupted') AS interrupted,
    sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
    sum(engine_micros) AS engine_micros,
    sum(iif(unbilled, 0, input_nanos + output_nanos + engine_nanos)) AS cost_nanos,
    count(duration_micros) AS measured, sum(duration_micros) AS duration_micros
    FROM requests WHERE {where} GROUP BY tenant_id"""

# Sorting in SQLite is slower than in Python, but leaves the interpreter to running requests, and what is
# too large for memory goes to a temporary file.
_MEASURED: Final = """CREATE TEMP TABLE measured (
    tenant_id INTEGER NOT NULL, duration_micros INTEGER, first_token_micros INTEGER)"""
_COPY: Final = """INSERT INTO measured SELECT tenant_id, duration_micros, first_token_micros
    FROM requests WHERE {where} AND (duration_micros IS NOT NULL OR first_token_micros IS NOT NULL)"""


def usage_report(
    conn: Connection, since_micros: int, until_micros: int, tenant_id: int | None = None
) -> list[TenantUsage]:
    """By tenant, requests created from `since_micros` until before `until_micros`. Raises AmountTooLarge."""
    totals: Sums = {}
    conn.execute(_MEASURED)
    try:
        for where, values in pieces(conn, since_micros, until_micros, tenant_id):
            add_up(conn, _TOTALS, (where, values), ("tenant_id",), totals)
            conn.execute(_COPY.format(where=where), values)
        durations = _percentiles(conn, "duration_micros")
        first_tokens = _percentiles(conn, "first_token_micros")
    finally:
        conn.execute("DROP TABLE measured")
    report = []
    for row in totals.values():
        number, ended = row["tenant_id"], row["requests"] - row["running"]
        measured, duration_micros = row.pop("measured"), row.pop("duration_micros")
        p50_duration, p99_duration = durations.get(number, (None, None))
        p50_first, p99_first = first_tokens.get(number, (None, None))
        report.append(
            TenantUsage(
                **row,
                tenant=name_in(conn, number, since_micros, until_micros),
                average_duration_micros=divide_half_up(duration_micros, measured) if measured else None,
                p50_duration_micros=p50_duration,
                p99_duration_micros=p99_duration,
                p50_first_token_micros=p50_first,
                p99_first_token_micros=p99_first,
                error_rate=(row["failed"] + row["interrupted"]) / ended if ended else 0.0,
            )
        )
    return sorted(report, key=lambda usage: (usage.tenant, usage.tenant_id))


def recent_requests(conn: Connection, tenant_id: int | None, limit: int) -> list[RequestRecord]:
    """Recent requests, newest first, including running ones."""
    where = "true" if tenant_id is None else "tenant_id = :tenant"
    rows = conn.execute(
        f"SELECT {COLUMNS} FROM requests WHERE {where} ORDER BY created_micros DESC, number DESC LIMIT :limit",
        {"tenant": tenant_id, "limit": limit},
    )
    return [as_record(row) for row in rows]


_ENDED: Final = "coalesce(created_micros + duration_micros, interrupted_micros)"
"""Latest time at which a request can have ended; NULL while it runs."""


class RecentUsage(msgspec.Struct, frozen=True):
    """Tokens of a tenant's requests that ended about `age_s` seconds ago."""

    tenant_id: int
    age_s: float
    prompt_tokens: int
    completion_tokens: int


def recent_usage(conn: Connection, now_micros: int, period_s: float) -> list[RecentUsage]:
    """Tokens of requests created in the last `period_s`, by tenant and second of their end.

    Counts what was computed: for each answer the whole prompt, even if another choice of it was billed for it.
    """
    rows = conn.execute(
        f"""SELECT tenant_id, (:now - coalesce({_ENDED}, created_micros)) / 1000000 AS age_s,
        sum(CASE WHEN completion_tokens > 0 THEN prompt_length_tokens ELSE prompt_tokens END), sum(completion_tokens)
        FROM requests
        WHERE created_micros BETWEEN :now - :period AND :now GROUP BY tenant_id, age_s""",
        {"now": now_micros, "period": int(period_s * 1_000_000)},
    )
    return [RecentUsage(number, float(age_s), prompt, completion) for number, age_s, prompt, completion in rows]


class Booked(msgspec.Struct, frozen=True):
    """What a tenant was given `age_micros` ago: tokens of a request that ended then, or a request that started then."""

    tenant_id: int
    age_micros: int
    tokens: int
    requests: int


def last_minute(conn: Connection, now_micros: int) -> list[Booked]:
    """Oldest first. A request counts with all its tokens, even if it got some before the last minute."""
    rows = conn.execute(
        f"""SELECT tenant_id, :now - {_ENDED} AS age, prompt_tokens + completion_tokens, 0
        FROM requests WHERE created_micros > :now - :day AND {_ENDED} > :now - :minute
        UNION ALL SELECT tenant_id, :now - created_micros AS age, 0, 1
        FROM requests WHERE created_micros > :now - :minute
        ORDER BY age DESC""",
        {"now": now_micros, "minute": MINUTE_MICROS, "day": DAY_MICROS},
    )
    return [Booked(number, max(0, age), tokens, requests) for number, age, tokens, requests in rows]


def _percentiles(conn: Connection, column: str) -> dict[int, tuple[int, int]]:
    """50th and 99th percentiles of the measured values, by tenant."""
    conn.execute(f"CREATE INDEX measured_by_{column} ON measured (tenant_id, {column}) WHERE {column} IS NOT NULL")
    where = f"measured WHERE {column} IS NOT NULL"
    counts = conn.execute(f"SELECT tenant_id, count(*) FROM {where} GROUP BY tenant_id").fetchall()
    query = f"SELECT {column} FROM {where} AND tenant_id = ? ORDER BY {column} LIMIT 1 OFFSET ?"
    result = {}
    for number, count in counts:
        p50, p99 = (conn.execute(query, (number, (count * n + 99) // 100 - 1)).fetchone()[0] for n in (50, 99))
        result[number] = (p50, p99)
    conn.execute(f"DROP INDEX measured_by_{column}")
    return result
