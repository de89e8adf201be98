"""The upgrade to schema 8: months by the end of requests, roll-ups, budgets, dated prices, finalised invoices."""

from __future__ import annotations

import logging
import time
from sqlite3 import Connection
from typing import Final

from tenantd.ledger.buckets import bucket_of
from tenantd.ledger.prices import MAX_INTEGER
from tenantd.ledger.schema import (
    BUDGETS,
    FREE_USES,
    IDEMPOTENCY,
    INVOICES,
    PRICES_BY_TENANT,
    REQUESTS_BY_BILL,
    REQUESTS_BY_END,
    ROLL_UPS,
    ROW_PRUNINGS,
)

log = logging.getLogger(__name__)

BATCH_ROWS: Final = 20_000
PROGRESS_INTERVAL_S: Final = 5.0
CACHE_KIB: Final = 64 * 1024

# As schema 8 had it; later upgrades lead on from here.
_HOURS_TABLE: Final = """CREATE TABLE hours (
    hour_micros        INTEGER NOT NULL,
    tenant_id          INTEGER NOT NULL,
    key_id             TEXT NOT NULL,
    model              TEXT NOT NULL,
    adapter            TEXT NOT NULL,
    price_id           INTEGER NOT NULL REFERENCES prices (id),
    unbilled           INTEGER NOT NULL,
    billed_micros      INTEGER NOT NULL,
    requests           INTEGER NOT NULL,
    completed          INTEGER NOT NULL,
    cancelled          INTEGER NOT NULL,
    disconnected       INTEGER NOT NULL,
    failed             INTEGER NOT NULL,
    interrupted        INTEGER NOT NULL,
    prompt_tokens      INTEGER NOT NULL,
    cached_tokens      INTEGER NOT NULL,
    completion_tokens  INTEGER NOT NULL,
    engine_micros      INTEGER NOT NULL,
    input_nanos        INTEGER NOT NULL,
    cached_nanos       INTEGER NOT NULL,
    output_nanos       INTEGER NOT NULL,
    engine_nanos       INTEGER NOT NULL,
    free_nanos         INTEGER NOT NULL,
    free_prompt_tokens INTEGER NOT NULL,
    free_completion_tokens INTEGER NOT NULL,
    waived_nanos       INTEGER NOT NULL,
    measured           INTEGER NOT NULL,
    duration_micros    INTEGER NOT NULL,
    started            INTEGER NOT NULL,
    first_token_micros INTEGER NOT NULL,
    queue_micros       INTEGER NOT NULL,
    kv_token_micros    INTEGER NOT NULL,
    swaps              INTEGER NOT NULL,
    PRIMARY KEY (hour_micros, tenant_id, key_id, model, adapter, price_id, unbilled, billed_micros)
) STRICT, WITHOUT ROWID"""
_COLUMNS: Final = {
    "requests": (
        "adapter              TEXT NOT NULL DEFAULT ''",
        "ended_micros         INTEGER",
        "queue_micros         INTEGER",
        "prefill_micros       INTEGER",
        "cached_tokens        INTEGER NOT NULL DEFAULT 0",
        "kv_token_micros      INTEGER NOT NULL DEFAULT 0",
        "swaps                INTEGER NOT NULL DEFAULT 0",
        "cached_nanos         INTEGER NOT NULL DEFAULT 0",
        "free_nanos           INTEGER NOT NULL DEFAULT 0",
        "waived_nanos         INTEGER NOT NULL DEFAULT 0",
        "cause                TEXT NOT NULL DEFAULT ''",
        "free_prompt_tokens   INTEGER NOT NULL DEFAULT 0",
        "free_completion_tokens INTEGER NOT NULL DEFAULT 0",
        "billed_micros        INTEGER",
    ),
    "prices": (
        "cached_nanos_per_million INTEGER NOT NULL DEFAULT 0",
        "minimum_nanos            INTEGER NOT NULL DEFAULT 0",
        "free_prompt_tokens       INTEGER NOT NULL DEFAULT 0",
        "free_completion_tokens   INTEGER NOT NULL DEFAULT 0",
        "tenant_id                INTEGER",
        "follows_general          INTEGER NOT NULL DEFAULT 0",
        "is_configured            INTEGER NOT NULL DEFAULT 0",
        "set_micros               INTEGER NOT NULL DEFAULT 0",
    ),
    "tenants": (
        "billing        TEXT NOT NULL DEFAULT '{}'",
        "cache          TEXT NOT NULL DEFAULT 'default'",
    ),
}
_ENDED: Final = """UPDATE requests SET ended_micros = coalesce(created_micros + duration_micros, interrupted_micros,
    created_micros), cause = iif(state = 'interrupted', 'interrupted', '')
    WHERE number BETWEEN ? AND ? AND state <> 'running'"""
_SUMMED: Final = ("prompt_tokens", "completion_tokens", "engine_micros", "input_nanos", "output_nanos", "engine_nanos")
_TIMES: Final = ("duration_micros", "first_token_micros")
_HOURS: Final = """INSERT INTO hours (hour_micros, tenant_id, key_id, model, adapter, price_id, unbilled, requests,
    completed, cancelled, disconnected, failed, interrupted, measured, started, cached_tokens, cached_nanos, free_nanos,
    free_prompt_tokens, free_completion_tokens, waived_nanos, queue_micros, kv_token_micros, swaps, billed_micros,
    {names})
    SELECT ended_micros - ended_micros % 3600000000, tenant_id, coalesce(key_id, ''), model, adapter, price_id,
    unbilled, count(*), count(*) FILTER (WHERE state IN ('stop', 'length')),
    count(*) FILTER (WHERE state = 'cancelled'), count(*) FILTER (WHERE state = 'disconnected'),
    count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'interrupted'),
    count(duration_micros), count(first_token_micros), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {sums}
    FROM requests WHERE ended_micros IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7"""
_LATENCIES: Final = """INSERT INTO latencies
    SELECT ended_micros - ended_micros % 3600000000, tenant_id, '{metric}', bucket_of({metric}_micros), count(*)
    FROM requests WHERE ended_micros IS NOT NULL AND {metric}_micros IS NOT NULL GROUP BY 1, 2, 4"""
_LATENCY_DAYS: Final = """INSERT INTO latency_days
    SELECT hour_micros - hour_micros % 86400000000, tenant_id, metric, bucket, sum(requests)
    FROM latencies GROUP BY 1, 2, 3, 4"""
_CAUSES: Final = """INSERT INTO causes
    SELECT ended_micros - ended_micros % 3600000000, tenant_id, cause, count(*)
    FROM requests WHERE ended_micros IS NOT NULL AND cause <> '' GROUP BY 1, 2, 3"""


def add_accounts(conn: Connection) -> None:
    """Inside the transaction of the upgrade. Logs how far it is, every few seconds."""
    conn.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    for table, columns in _COLUMNS.items():
        for column in columns:
            conn.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    _date_prices(conn)
    _fill(conn)
    for statement in (
        PRICES_BY_TENANT,
        REQUESTS_BY_END,
        REQUESTS_BY_BILL,
        _HOURS_TABLE,
        *ROLL_UPS[1:],
        FREE_USES,
        *BUDGETS,
        *INVOICES,
        *IDEMPOTENCY,
        ROW_PRUNINGS,
    ):
        conn.execute(statement)
    log.info("upgrading the ledger: adding up hours and days")
    add_up_rows(conn)
    conn.execute("PRAGMA cache_size = -2000")  # SQLite's default


def add_up_rows(conn: Connection) -> None:
    """Make the roll-ups of all rows, which have nothing yet that schema 8 added. There are none before."""
    conn.execute(_HOURS.format(names=", ".join((*_SUMMED, *_TIMES)), sums=_sums(conn)))
    conn.create_function("bucket_of", 1, bucket_of, deterministic=True)
    for metric in ("duration", "first_token"):
        conn.execute(_LATENCIES.format(metric=metric))
    conn.execute(_LATENCY_DAYS)
    conn.execute(_CAUSES)


def _date_prices(conn: Connection) -> None:
    """Until now the newest list was in force. If a clock that went back gave it an earlier date than others have, it is
    repeated at theirs."""
    conn.execute("UPDATE prices SET is_configured = 1, set_micros = effective_micros")
    same = "currency, input_nanos_per_million, output_nanos_per_million, engine_hour_nanos, is_configured"
    conn.execute(
        f"""INSERT INTO prices ({same}, effective_micros, set_micros)
        SELECT {same}, later.at_micros, later.at_micros FROM (SELECT * FROM prices ORDER BY id DESC LIMIT 1) AS newest,
        (SELECT DISTINCT effective_micros AS at_micros FROM prices) AS later
        WHERE later.at_micros > newest.effective_micros"""
    )


def _fill(conn: Connection) -> None:
    """Give every request that has ended the time of its end."""
    (last,) = conn.execute("SELECT coalesce(max(number), 0) FROM requests").fetchone()
    said_s = time.monotonic()
    for first in range(1, last + 1, BATCH_ROWS):
        conn.execute(_ENDED, (first, first + BATCH_ROWS - 1))
        if time.monotonic() - said_s >= PROGRESS_INTERVAL_S:
            said_s = time.monotonic()
            log.info("upgrading the ledger: %d of %d requests", min(first + BATCH_ROWS - 1, last), last)


def _sums(conn: Connection) -> str:
    """How to add up each column. SQLite's own sum fails where it overflows, so a slower one is used if that may be."""
    totals = conn.execute(f"SELECT {', '.join(f'total({name})' for name in (*_SUMMED, *_TIMES))} FROM requests")
    may_overflow = max(totals.fetchone()) > MAX_INTEGER / 2
    conn.create_aggregate("capped_sum", 1, _CappedSum)
    add_up = "capped_sum" if may_overflow else "sum"
    return ", ".join(f"coalesce({add_up}({name}), 0)" for name in (*_SUMMED, *_TIMES))


class _CappedSum:
    """A sum that stops at the largest integer."""

    def __init__(self) -> None:
        self._sum = 0

    def step(self, value: int | None) -> None:
        self._sum += value or 0

    def finalize(self) -> int:
        return min(self._sum, MAX_INTEGER)
