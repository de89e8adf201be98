"""What tenants used in a period. Pure functions over a connection that reads."""

from __future__ import annotations

from sqlite3 import Connection, OperationalError
from typing import Any, Final

import msgspec

from tenantd.ledger.prices import AmountTooLarge
from tenantd.ledger.records import RequestRecord
from tenantd.ledger.store import COLUMNS, as_record

MINUTE_MICROS: Final = 60_000_000
DAY_MICROS: Final = 24 * 60 * MINUTE_MICROS


class TenantUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's requests created in a period, running ones with what they used so far (they cost nothing yet).

    Unbilled requests count, and cost nothing. `completed` ended by themselves or at their length. Percentiles are
    nearest-rank: a value that was measured, None when none was. `error_rate` is the part of the ended requests that
    failed or were interrupted.
    """

    tenant: str
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


_TOTALS: Final = """SELECT tenant, count(*) AS requests,
    count(*) FILTER (WHERE state = 'running') AS running,
    count(*) FILTER (WHERE state IN ('stop', 'length')) AS completed,
    count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
    count(*) FILTER (WHERE state = 'disconnected') AS disconnected,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    count(*) FILTER (WHERE state = 'interrupted') AS interrupted,
    sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
    sum(engine_micros) AS engine_micros,
    sum(iif(unbilled, 0, input_nanos + output_nanos + engine_nanos)) AS cost_nanos,
    CAST(round(avg(duration_micros)) AS INTEGER) AS average_duration_micros
    FROM requests WHERE {where} GROUP BY tenant ORDER BY tenant"""

# Sorting in SQLite is slower than in Python, but leaves the interpreter to the requests that run meanwhile, and needs
# no memory for the rows: a million take it some seconds.
_PERCENTILES: Final = """WITH
    places AS MATERIALIZED (
        SELECT tenant, (count({column}) * 50 + 99) / 100 AS p50, (count({column}) * 99 + 99) / 100 AS p99
        FROM requests WHERE {where} GROUP BY tenant),
    ranked AS (
        SELECT tenant, {column} AS value, row_number() OVER (PARTITION BY tenant ORDER BY {column}) AS place
        FROM requests WHERE {where} AND {column} IS NOT NULL)
    SELECT tenant, max(value) FILTER (WHERE place = p50), max(value) FILTER (WHERE place = p99)
    FROM ranked JOIN places USING (tenant) WHERE place IN (p50, p99) GROUP BY tenant"""


def usage_report(
    conn: Connection, since_micros: int, until_micros: int, tenant: str | None = None
) -> list[TenantUsage]:
    """Per tenant, by name: requests created from `since_micros` until before `until_micros`. Raises AmountTooLarge."""
    where, values = _where(since_micros, until_micros, tenant)
    durations = _percentiles(conn, "duration_micros", where, values)
    first_tokens = _percentiles(conn, "first_token_micros", where, values)
    report = []
    for row in sums(conn, _TOTALS.format(where=where), values):
        name, ended = row["tenant"], row["requests"] - row["running"]
        p50_duration, p99_duration = durations.get(name, (None, None))
        p50_first, p99_first = first_tokens.get(name, (None, None))
        report.append(
            TenantUsage(
                **row,
                p50_duration_micros=p50_duration,
                p99_duration_micros=p99_duration,
                p50_first_token_micros=p50_first,
                p99_first_token_micros=p99_first,
                error_rate=(row["failed"] + row["interrupted"]) / ended if ended else 0.0,
            )
        )
    return report


def recent_requests(conn: Connection, tenant: str | None, limit: int) -> list[RequestRecord]:
    """The newest first, running ones included."""
    where, values = ("tenant = :tenant", {"tenant": tenant}) if tenant is not None else ("true", {})
    rows = conn.execute(
        f"SELECT {COLUMNS} FROM requests WHERE {where} ORDER BY created_micros DESC, number DESC LIMIT :limit",
        {**values, "limit": limit},
    )
    return [as_record(row) for row in rows]


class RecentUsage(msgspec.Struct, frozen=True):
    """Tokens of one tenant that ended about `age_s` seconds ago."""

    tenant: str
    age_s: float
    prompt_tokens: int
    completion_tokens: int


def recent_usage(conn: Connection, now_micros: int, period_s: float) -> list[RecentUsage]:
    """Tokens of requests created in the last `period_s`, summed up by tenant and second of their end.

    What was computed counts: with any answer the whole prompt, though another choice of it may have been billed for it.
    """
    rows = conn.execute(
        """SELECT tenant, (:now - created_micros - coalesce(duration_micros, 0)) / 1000000 AS age_s,
        sum(CASE WHEN completion_tokens > 0 THEN prompt_length_tokens ELSE prompt_tokens END), sum(completion_tokens)
        FROM requests
        WHERE created_micros BETWEEN :now - :period AND :now GROUP BY tenant, age_s""",
        {"now": now_micros, "period": int(period_s * 1_000_000)},
    )
    return [RecentUsage(tenant, float(age_s), prompt, completion) for tenant, age_s, prompt, completion in rows]


class Booked(msgspec.Struct, frozen=True):
    """What one tenant was given `age_micros` ago: tokens of a request that ended then, or a request that began then."""

    tenant: str
    age_micros: int
    tokens: int
    requests: int


def last_minute(conn: Connection, now_micros: int) -> list[Booked]:
    """The oldest first. A request counts with all its tokens, though it may have had some before this minute."""
    rows = conn.execute(
        """SELECT tenant, :now - created_micros - duration_micros AS age, prompt_tokens + completion_tokens, 0
        FROM requests WHERE created_micros > :now - :day AND created_micros + duration_micros > :now - :minute
        UNION ALL SELECT tenant, :now - created_micros AS age, 0, 1
        FROM requests WHERE created_micros > :now - :minute
        ORDER BY age DESC""",
        {"now": now_micros, "minute": MINUTE_MICROS, "day": DAY_MICROS},
    )
    return [Booked(tenant, max(0, age), tokens, requests) for tenant, age, tokens, requests in rows]


def sums(conn: Connection, query: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a query that adds up, by column name. Raises AmountTooLarge where SQLite says a sum overflows."""
    from sqlite_utils import Database  # imported for reports only: it takes a sixth of a second

    try:
        return list(Database(conn, recursive_triggers=False, execute_plugins=False).query(query, values))
    except OperationalError as e:
        if "integer overflow" not in str(e):
            raise
        raise AmountTooLarge("the sum over this period is more than 64 bits hold; ask for a shorter one") from e


def _where(since_micros: int, until_micros: int, tenant: str | None) -> tuple[str, dict[str, Any]]:
    where = "created_micros >= :since AND created_micros < :until"
    values: dict[str, Any] = {"since": since_micros, "until": until_micros}
    if tenant is None:
        return where, values
    return f"tenant = :tenant AND {where}", {**values, "tenant": tenant}


def _percentiles(conn: Connection, column: str, where: str, values: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """50th and 99th by tenant."""
    rows = conn.execute(_PERCENTILES.format(column=column, where=where), values)
    return {tenant: (p50, p99) for tenant, p50, p99 in rows}
