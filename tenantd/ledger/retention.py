"""Prunes the audit trail from its beginning, by age, in small batches so that nobody waits for it.

First an entry announces up to which number entries are pruned, with the hash of the last of them; then they are
deleted. So a checkpoint without such an entry is a forged one, and a pruning that was interrupted is finished by the
next. What is deleted is verified, and an entry records the first of a batch that was not what had been written.

Numbers give the order, because clocks can be wrong: an entry stays if one before it stays, unless that one is from the
future.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from tenantd.errors import InvalidRequest, TenantdError
from tenantd.ledger.audit import (
    COLUMNS,
    DAMAGED,
    PRUNED,
    AuditBroken,
    Entry,
    Head,
    append,
    link,
    newest_micros,
    read_head,
)
from tenantd.ledger.invoices import parse_month
from tenantd.ledger.ledger import Lane, Ledger
from tenantd.ledger.pieces import let_go
from tenantd.ledger.prunings import Announced, newest_announced
from tenantd.periods import DAY_MICROS, EPOCH

log = logging.getLogger(__name__)

BATCH_ENTRIES: Final = 500
"""Entries deleted in one transaction, which takes some milliseconds."""
PAUSE_S: Final = 0.05
PIECE_ENTRIES: Final = 20_000
DAY_S: Final = 86_400.0
RETRY_S: Final = 3600.0

_OLDEST_RUNNING: Final = "SELECT min(created_micros) FROM requests WHERE state = 'running'"
_TIMES: Final = "SELECT number, at_micros FROM audit WHERE number > ? ORDER BY number LIMIT ?"
_BATCH: Final = f"SELECT {COLUMNS} FROM audit WHERE number > ? AND number <= ? ORDER BY number LIMIT ?"


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What was pruned: how many entries, and number and hash of the last one that is gone, in all."""

    entries: int
    through: int
    hash: str


async def prune(
    ledger: Ledger, before_micros: int, timezone: ZoneInfo, now_micros: Callable[[], int], detail: dict[str, Any]
) -> Pruned:
    """Delete all entries from before a time, and tell in `detail` of the entry who wanted that.

    Raises InvalidRequest for a time after the beginning of the oldest open month, LedgerUnavailable, AuditBroken if
    somebody deletes the head of the trail meanwhile, Draining. If it
    is cancelled or fails, the next one finishes it.
    """
    since_micros = await ledger.read(lambda conn: open_since_micros(conn, timezone, now_micros()))
    if before_micros > since_micros:
        since = (EPOCH + timedelta(microseconds=since_micros)).astimezone(timezone)
        raise InvalidRequest(
            f"before: must be {since:%Y-%m-%d} or earlier ({timezone}); a month stays until it is over and its "
            "requests have ended",
            param="before",
        )
    through = await ledger.read(lambda conn: last_prunable(conn, before_micros, now_micros()), Lane.REPORTS)
    announced = await ledger.read(left_over, Lane.REPORTS)
    if through is not None and (announced is None or through > announced.through):
        said = {**detail, "before_micros": before_micros}
        await ledger.write(lambda conn: announce(conn, through, now_micros(), said))
        announced = await ledger.read(left_over, Lane.REPORTS)
    entries = 0
    while announced is not None and (count := await ledger.write(_next_batch(announced, now_micros))):
        entries += count
        await asyncio.sleep(PAUSE_S)
    head = await ledger.read(read_head)
    if head is None:
        raise AuditBroken("the head of the audit trail (table audit_head) was deleted while old entries were pruned")
    return Pruned(entries=entries, through=head.pruned_number, hash=head.pruned_hash.hex())


async def keep_for_days(
    ledger: Ledger, keep_days: Callable[[], int], timezone: Callable[[], ZoneInfo], now_micros: Callable[[], int]
) -> None:
    """At once and then every day, prune what is older, except of open months; 0 keeps all. Runs until cancelled.

    Prunes by age only if the clock has not moved by more than half of that since the last round, or at start since the
    newest entry before: otherwise it may be wrong, and it is believed in the next round.
    """
    seen_micros = ledger.resumed_micros
    while True:
        wait_s = DAY_S
        try:
            days, now = keep_days(), now_micros()
            is_believed = seen_micros is not None and abs(now - seen_micros) <= days * DAY_MICROS // 2
            if days and not is_believed and not ledger.is_new:
                log.warning("the clock may be wrong: the audit trail is pruned by age a day from now, not before")
            await prune_older(ledger, days if is_believed else 0, timezone(), now_micros)
            seen_micros = now
        except TenantdError as e:
            log.warning("cannot prune the audit trail; trying again in an hour: %s", e.message)
            wait_s = RETRY_S
        except Exception:  # such as a file that somebody has altered; the daemon serves on
            log.exception("cannot prune the audit trail; trying again in an hour")
            wait_s = RETRY_S
        await asyncio.sleep(wait_s)


async def prune_older(ledger: Ledger, days: int, timezone: ZoneInfo, now_micros: Callable[[], int]) -> None:
    """Prune what is older than `days`, if they are not 0, and finish what was begun. Raises like `prune`."""
    before_micros = await ledger.read(lambda conn: open_since_micros(conn, timezone, now_micros()))
    before_micros = min(before_micros, now_micros() - days * DAY_MICROS) if days else -(2**62)
    pruned = await prune(ledger, before_micros, timezone, now_micros, {"keep_days": days})
    if pruned.entries:
        log.info("pruned %d entries of the audit trail, up to number %d", pruned.entries, pruned.through)


def open_since_micros(conn: sqlite3.Connection, timezone: ZoneInfo, now_micros: int) -> int:
    """When the oldest month began whose invoice can still change.

    The month of the newest entry counts, too: a clock that is far ahead does not end it.
    """
    times = [conn.execute(_OLDEST_RUNNING).fetchone()[0], newest_micros(conn)]
    moment_micros = min([now_micros, *(each for each in times if each is not None)])
    return parse_month("this", timezone, moment_micros).since_micros


def last_prunable(conn: sqlite3.Connection, before_micros: int, now_micros: int) -> int | None:
    """Up to which number entries are from before a time, not counting those from the future. None if there is none."""
    head, last = read_head(conn), None
    number = 0 if head is None else head.pruned_number
    while rows := conn.execute(_TIMES, (number, PIECE_ENTRIES)).fetchall():
        for number, at_micros in rows:
            if at_micros < before_micros:
                last = number
            elif at_micros <= now_micros:
                return last
        let_go(conn)
    return last


def left_over(conn: sqlite3.Connection) -> Announced | None:
    """What was announced and is not deleted yet. The head alone is not believed, only an entry that says so."""
    head = read_head(conn)
    if head is None or head.prunable_number <= head.pruned_number:
        return None
    announced = newest_announced(conn, head.pruned_number, head.number)
    if announced is None:
        log.error("table audit_head says that entries up to %d may be pruned, but no entry does", head.prunable_number)
    return announced


def announce(conn: sqlite3.Connection, through: int, now_micros: int, detail: dict[str, Any]) -> None:
    """Record that entries up to `through` are pruned. Raises like `append`."""
    (digest,) = conn.execute("SELECT hash FROM audit WHERE number = ?", (through,)).fetchone()
    said = {**detail, "hash": digest.hex(), "through": through}
    append(conn, [Entry(at_micros=now_micros, event=PRUNED, detail=said)])
    conn.execute("UPDATE audit_head SET prunable_number = ?", (through,))


def _next_batch(announced: Announced, now_micros: Callable[[], int]) -> Callable[[sqlite3.Connection], int]:
    return lambda conn: delete_some(conn, announced, now_micros())


def delete_some(conn: sqlite3.Connection, announced: Announced, now_micros: int) -> int:
    """Delete a batch of what was announced, and move the checkpoint. Returns how many entries that were, 0 at the end.

    Raises like `append`.
    """
    head = read_head(conn)
    if head is None or head.pruned_number >= announced.through:
        return 0
    rows, bad = _read_batch(conn, head, announced.through)
    old = next((i for i, row in enumerate(rows) if not announced.covers(row[1])), len(rows))
    if old < len(rows):
        log.error("entry %d of the audit trail stays: it is younger than an entry about pruning says", rows[old][0])
        if old == 0:
            return 0
        rows, bad = rows[:old], bad if bad is not None and bad <= rows[old - 1][0] else None
    number, digest = (rows[-1][0], rows[-1][7]) if rows else (announced.through, announced.hash)
    if bad is not None or not rows:
        log.error("the audit trail was altered at entry %s, which is now pruned", bad or number)
        append(conn, [Entry(at_micros=now_micros, event=DAMAGED, detail={"number": bad or number})])
    conn.execute("UPDATE audit_head SET pruned_number = ?, pruned_hash = ?", (number, digest))
    conn.execute("DELETE FROM audit WHERE number > ? AND number <= ?", (head.pruned_number, number))
    return max(1, len(rows))


def _read_batch(conn: sqlite3.Connection, head: Head, through: int) -> tuple[list[tuple[Any, ...]], int | None]:
    """The next entries to prune, and the first number among them that is missing or does not follow."""
    usual = conn.text_factory
    conn.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")  # what was altered may not be text
    try:
        rows = conn.execute(_BATCH, (head.pruned_number, through, BATCH_ENTRIES)).fetchall()
    finally:
        conn.text_factory = usual
    number, last = head.pruned_number, head.pruned_hash
    for row in rows:
        number += 1
        if row[0] != number or not _follows(row, last):
            return rows, number
        last = row[7]
    return rows, None


def _follows(row: tuple[Any, ...], last: bytes) -> bool:
    try:
        return bool(link(last, row[:7]) == row[7])
    except UnicodeEncodeError:
        return False
