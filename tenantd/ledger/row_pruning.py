"""Deletes the rows of requests that ended in months that are over. The sums of their hours stay (`rows_kept`).

First a row of `row_prunings` says until when; then rows are deleted in small batches, so that nobody waits for it. A
pruning that was interrupted is finished by the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from sqlite3 import Connection
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from tenantd.errors import InvalidRequest
from tenantd.ledger.audit import Entry, append
from tenantd.ledger.charging import billed_until
from tenantd.ledger.invoices import Month, parse_month
from tenantd.ledger.ledger import Lane, Ledger
from tenantd.ledger.reports import name_before
from tenantd.ledger.retention import open_since_micros
from tenantd.ledger.rollups import hour_of
from tenantd.ledger.rows_kept import is_cut
from tenantd.periods import EPOCH, HOUR_MICROS, local_date, midnight_micros

BATCH_ROWS: Final = 250
"""Rows deleted in one transaction, which takes some milliseconds."""
PAUSE_S: Final = 0.02
_ANNOUNCE: Final = "INSERT INTO row_prunings (month, timezone, until_micros, at_micros) VALUES (?, ?, ?, ?)"
_OPEN: Final = "SELECT number, timezone, until_micros FROM row_prunings WHERE NOT is_done ORDER BY number LIMIT 1"
_OLDEST: Final = "SELECT min(ended_micros) FROM requests WHERE ended_micros >= ? AND ended_micros < ?"
_DELETE: Final = """DELETE FROM requests WHERE number IN (SELECT number FROM requests
    WHERE ended_micros >= ? AND ended_micros < ? ORDER BY ended_micros LIMIT ?)"""
_KEPT: Final = "SELECT count(*) FROM requests WHERE ended_micros < ?"
_BILLED: Final = """SELECT tenant_id, max(max(hour_micros, billed_micros)) FROM hours
    WHERE hour_micros < ? AND NOT unbilled GROUP BY tenant_id"""


class PrunedRows(msgspec.Struct, frozen=True, kw_only=True):
    """What was pruned: `requests` rows of requests that ended before `until_micros`, when month `before` began.

    `kept` rows are still there, because a local day begins within their hour of UTC. `freed_bytes` of the file are free
    for new rows; the file keeps its size. `unfinalised` are the tenants without a finalised invoice for some month of
    this time: those invoices are computed from the sums of hours.
    """

    before: str
    until_micros: int
    requests: int
    kept: int
    freed_bytes: int
    unfinalised: list[str]


async def prune_rows(
    ledger: Ledger, before: str, timezone: ZoneInfo, now_micros: Callable[[], int], entry: Callable[[Month], Entry]
) -> PrunedRows:
    """Delete the rows of requests that ended before a month, such as "2026-09", in the time zone of billing.

    `entry` is appended to the audit trail before anything is deleted. Raises InvalidRequest if that month is later than
    the oldest open one, LedgerUnavailable, Draining. If it is cancelled or fails, the next one finishes it.
    """
    month = parse_month(before, timezone, now_micros())
    open_micros = await ledger.read(lambda conn: open_since_micros(conn, timezone, now_micros()))
    if month.since_micros > open_micros:
        since = (EPOCH + timedelta(microseconds=open_micros)).astimezone(timezone)
        raise InvalidRequest(
            f"before: must be {since:%Y-%m} or earlier ({timezone}); a month stays until it is over and its requests "
            "have ended",
            param="before",
        )
    free = await ledger.read(_free_bytes)
    is_new = await ledger.read(lambda conn: _has_rows(conn, month.since_micros))
    if is_new:
        await ledger.write(lambda conn: _announce(conn, month, now_micros(), entry(month)))
    requests = 0
    while (count := await ledger.write(delete_some)) is not None:
        requests += count
        await asyncio.sleep(PAUSE_S)
    kept, unfinalised = await ledger.read(lambda conn: _left(conn, month.since_micros), Lane.REPORTS)
    return PrunedRows(
        before=month.name,
        until_micros=month.since_micros,
        requests=requests,
        kept=kept,
        freed_bytes=max(0, await ledger.read(_free_bytes) - free),
        unfinalised=unfinalised,
    )


def _has_rows(conn: Connection, until_micros: int) -> bool:
    return conn.execute("SELECT 1 FROM requests WHERE ended_micros < ? LIMIT 1", (until_micros,)).fetchone() is not None


def _announce(conn: Connection, month: Month, now_micros: int, entry: Entry) -> None:
    append(conn, [entry])
    conn.execute(_ANNOUNCE, (month.name, month.timezone, month.since_micros, now_micros))


def delete_some(conn: Connection) -> int | None:
    """Delete a batch of what was announced. Returns how many rows that were; None once there is nothing left to do."""
    row = conn.execute(_OPEN).fetchone()
    if row is None:
        return None
    number, timezone, until_micros = row
    bounds = _next_period(conn, ZoneInfo(timezone), until_micros)
    count = 0 if bounds is None else conn.execute(_DELETE, (*bounds, BATCH_ROWS)).rowcount
    conn.execute(
        "UPDATE row_prunings SET requests = requests + ?, is_done = ? WHERE number = ?", (count, bounds is None, number)
    )
    return count


def _next_period(conn: Connection, timezone: ZoneInfo, until_micros: int) -> tuple[int, int] | None:
    """The oldest rows that may be deleted are in this period, all of it. None if there are none."""
    since_micros = 0
    while (oldest := conn.execute(_OLDEST, (since_micros, until_micros)).fetchone()[0]) is not None:
        hour = hour_of(oldest)
        if not is_cut(hour, timezone):
            return oldest, min(until_micros, _next_cut(hour, timezone))
        since_micros = hour + HOUR_MICROS
    return None


def _next_cut(hour_micros: int, timezone: ZoneInfo) -> int:
    """When the next hour begins that may be cut: that in which the local day ends."""
    tomorrow = local_date(hour_micros, timezone) + timedelta(days=1)
    return max(hour_of(midnight_micros(tomorrow, timezone)), hour_micros + HOUR_MICROS)


def _left(conn: Connection, until_micros: int) -> tuple[int, list[str]]:
    """How many rows are kept, and who has no finalised invoice for all of the time before."""
    (kept,) = conn.execute(_KEPT, (until_micros,)).fetchone()
    owing = [
        name_before(conn, tenant_id, until_micros)
        for tenant_id, newest in conn.execute(_BILLED, (until_micros,)).fetchall()
        if newest >= billed_until(conn, tenant_id)
    ]
    return kept, sorted(owing)


def _free_bytes(conn: Connection) -> int:
    (pages,), (size,) = conn.execute("PRAGMA freelist_count").fetchone(), conn.execute("PRAGMA page_size").fetchone()
    return int(pages * size)
