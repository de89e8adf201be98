"""Adds an ended request to the sums of its hour and day, in the transaction of its row, for reports to read.

The tables are in schema.py. Hours and days are of UTC. A report over a period that does not begin or end with such an
hour adds up the rows at its edges.
"""

from __future__ import annotations

from sqlite3 import Connection
from typing import Final

from tenantd.domain import FinishReason
from tenantd.ledger.buckets import bucket_of
from tenantd.ledger.prices import MAX_INTEGER
from tenantd.ledger.records import RequestRecord
from tenantd.periods import DAY_MICROS, HOUR_MICROS

DURATION: Final = "duration"
FIRST_TOKEN: Final = "first_token"
KEYS: Final = ("hour_micros", "tenant_id", "key_id", "model", "adapter", "price_id", "unbilled", "billed_micros")
ENDS: Final = ("completed", "cancelled", "disconnected", "failed", "interrupted")
COUNTS: Final = ("requests", *ENDS, "measured", "started")
USED: Final = ("prompt_tokens", "cached_tokens", "completion_tokens", "engine_micros", "energy_millijoules")
SUMS: Final = (
    *USED,
    "input_nanos",
    "cached_nanos",
    "output_nanos",
    "engine_nanos",
    "free_nanos",
    "free_prompt_tokens",
    "free_completion_tokens",
    "waived_nanos",
    "duration_micros",
    "first_token_micros",
    "queue_micros",
    "kv_token_micros",
    "swaps",
)
"""Columns of both tables, `requests` and `hours`; NULL adds nothing."""

_ADDED: Final = ", ".join(f"{name} = min({name} + excluded.{name}, {MAX_INTEGER})" for name in (*COUNTS, *SUMS))
_ADD: Final = f"""INSERT INTO hours ({", ".join((*KEYS, *COUNTS, *SUMS))})
    VALUES ({", ".join("?" * len((*KEYS, *COUNTS, *SUMS)))})
    ON CONFLICT ({", ".join(KEYS)}) DO UPDATE SET {_ADDED}"""
_ADD_LATENCY: Final = """INSERT INTO {table} VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET requests = requests + excluded.requests"""
_ADD_LATENCIES: Final = (
    (HOUR_MICROS, _ADD_LATENCY.format(table="latencies")),
    (DAY_MICROS, _ADD_LATENCY.format(table="latency_days")),
)
_ADD_CAUSE: Final = """INSERT INTO causes VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET requests = requests + excluded.requests"""


def hour_of(micros: int) -> int:
    """When the hour of a moment begins, in microseconds since 1970."""
    return micros - micros % HOUR_MICROS


def add_row(conn: Connection, row: RequestRecord, times: int = 1) -> None:
    """Add an ended request, or take it out again with `times` -1."""
    assert row.ended_micros is not None and row.price_id is not None, "it has ended"
    hour = hour_of(row.ended_micros)
    key = (
        hour,
        row.tenant_id,
        row.key_id or "",
        row.model,
        row.adapter,
        row.price_id,
        int(row.unbilled),
        row.billed_micros or 0,
    )
    state = FinishReason(row.state)
    counts = (
        1,
        state in (FinishReason.STOP, FinishReason.LENGTH),
        state is FinishReason.CANCELLED,
        state is FinishReason.DISCONNECTED,
        state is FinishReason.FAILED,
        state is FinishReason.INTERRUPTED,
        row.duration_micros is not None,
        row.first_token_micros is not None,
    )
    values = (*counts, *((getattr(row, name) or 0) for name in SUMS))
    conn.execute(_ADD, (*key, *(times * int(value) for value in values)))
    for metric, micros in ((DURATION, row.duration_micros), (FIRST_TOKEN, row.first_token_micros)):
        if micros is not None:
            bucket = bucket_of(micros)
            for length_micros, statement in _ADD_LATENCIES:
                since_micros = row.ended_micros - row.ended_micros % length_micros
                conn.execute(statement, (since_micros, row.tenant_id, metric, bucket, times))
    if row.cause:
        conn.execute(_ADD_CAUSE, (hour, row.tenant_id, row.cause, times))
