"""The ledger as the daemon uses it: admit, checkpoint, settle, and transactions for administration.

Opened synchronously, used from one asyncio loop. When a call returns, its data is on disk.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

from tenantd.config import BillingConfig, SecurityConfig
from tenantd.domain import Usage
from tenantd.errors import ConfigError, LedgerDamaged, LedgerUnavailable
from tenantd.ledger.anchor import Anchor
from tenantd.ledger.audit import INTERRUPTED, Entry, MakeEntry, about_request, append, columns, made
from tenantd.ledger.check import BackgroundCheck, find_damage
from tenantd.ledger.configured import add_prices, change_currency, has_money, name_differences
from tenantd.ledger.copies import copy_before_upgrade
from tenantd.ledger.database import connect_writer, unusable
from tenantd.ledger.files import LOG_SUFFIX
from tenantd.ledger.half_done import undo_half_done
from tenantd.ledger.idempotency import KeyedBody, keep_key
from tenantd.ledger.migrations import migrate, needs_upgrade
from tenantd.ledger.prices import latest_prices
from tenantd.ledger.readers import Lane, Readers
from tenantd.ledger.records import Admitted, PriceList, RequestRecord, Settlement
from tenantd.ledger.requests import insert_request, interrupt_running, settle_request
from tenantd.ledger.resumption import before_start_micros, resume
from tenantd.ledger.spending import Use
from tenantd.ledger.unsettled import TakenIn, Unsettled, keep_reserve
from tenantd.ledger.writer import Writer

__all__ = ["Admitted", "Entry", "Lane", "Ledger", "PriceList", "RequestRecord", "Settlement"]

log = logging.getLogger(__name__)
T = TypeVar("T")

BUSY_TIMEOUT_MS: Final = 1000
"""How long to wait for another program's lock before it counts as trouble."""
CLOSE_TIMEOUT_S: Final = 5.0
CLOSE_GRACE_S: Final = 1.2
"""Additional time for a write in progress when the ledger is closed; waiting for a lock takes up to a second."""
ANCHOR_TIMEOUT_S: Final = 0.5
"""How long the close waits for the last anchor."""
STUCK_S: Final = 1.0
"""If nothing could be written for this long before the close, writing may no longer be possible."""
HUNG_S: Final = 10.0
"""A write that takes longer counts as trouble, even if nothing has failed yet."""
CHECKED_AT_ONCE_BYTES: Final = 64 * 1024 * 1024
"""Ledgers up to this size are checked for damage before use, which takes a fraction of a second."""


class Ledger:
    """The open ledger. All coroutines belong to one loop; `open`, `reconfigure` and `checkpoint` need none."""

    def __init__(
        self,
        conn: sqlite3.Connection,
        path: Path,
        *,
        billing: BillingConfig,
        is_new: bool,
        interrupted: int,
        taken: TakenIn,
        resumed_micros: int | None,
        now_micros: Callable[[], int],
        busy_timeout_ms: int,
        audits: bool,
    ) -> None:
        """Use `open` instead. `conn` belongs to the writer from now on. Raises OSError if the file cannot be
        accessed."""
        self.path = path
        self.is_new = is_new  # the file did not exist
        self.interrupted = interrupted  # rows that a killed daemon left running, settled by `open`
        self.taken_in = taken.settled  # rows that the last daemon could not settle, settled by `open`
        self.rejected = len(taken.rejected)  # lines that could not be used
        self.resumed_micros = resumed_micros  # the time of the newest entry of the audit trail before this start
        self._billing = billing
        self._now_micros = now_micros
        self._busy_timeout_ms = busy_timeout_ms
        self._audits = audits
        self._writer = Writer(conn, path, busy_timeout_ms)
        self._readers = Readers(path, busy_timeout_ms, self._writer.check_files)
        self._check: BackgroundCheck | None = None
        self._anchor: Anchor | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        billing: BillingConfig,
        now_micros: Callable[[], int],
        *,
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
        audits: bool = True,
        copies: bool = False,
    ) -> Ledger:
        """Open or create the file, settle what a killed daemon left running; a new one begins with `billing`'s prices.

        Without `audits`, nothing is recorded in the audit trail except that it was switched off.
        Checks a small file for damage first; for large ones see `check_in_background`. With `copies`, the file is
        copied before it is upgraded.
        Also settles what a shutdown had to set aside. Raises LedgerUnavailable if the file cannot be used,
        LedgerDamaged, ConfigError if it is not a ledger of this program or `billing` does not match its content.
        """
        try:
            undo_half_done(path)
        except OSError as e:
            raise LedgerUnavailable(f"cannot open the ledger {path}: {e.strerror}") from e
        last_write_micros = _last_write_micros(path)
        is_new = not path.exists()
        if is_new:
            _check_for_log(path)
        conn = connect_writer(path, busy_timeout_ms)
        try:
            if not is_new and path.stat().st_size <= CHECKED_AT_ONCE_BYTES and (damage := find_damage(conn, path)):
                raise LedgerDamaged(f"cannot use the ledger: {damage}")
            if copies and (version := needs_upgrade(conn)):
                copy_before_upgrade(conn, path, version)
            migrate(conn, str(path))
            taken = TakenIn(path.parent, audits=audits)
            resumed_micros = before_start_micros(conn)
            interrupted = _begin(conn, path, billing, now_micros(), last_write_micros, taken, audits=audits)
            taken.discard()
            keep_reserve(path.parent)
            return cls(
                conn,
                path,
                billing=billing,
                is_new=is_new,
                interrupted=interrupted,
                taken=taken,
                resumed_micros=resumed_micros,
                now_micros=now_micros,
                busy_timeout_ms=busy_timeout_ms,
                audits=audits,
            )
        except sqlite3.Error as e:
            conn.close()
            raise unusable(e, path) from e
        except OSError as e:
            conn.close()
            raise LedgerUnavailable(f"cannot open the ledger {path}: {e.strerror}") from e
        except BaseException:
            conn.close()
            raise

    def check_in_background(self) -> None:
        """Start checking a file that was too large to be checked when it was opened.

        Damage counts as trouble until the daemon stops: new requests are refused, running ones are still settled.
        """
        if self.path.stat().st_size > CHECKED_AT_ONCE_BYTES and self._check is None:
            self._check = BackgroundCheck(self.path, self._busy_timeout_ms, self._on_damage)

    def anchor(self, security: Callable[[], SecurityConfig]) -> None:
        """Start anchoring the head of the audit trail as `security` says at the time, until the ledger is closed."""
        self._anchor = Anchor(self.path, security, self._now_micros, busy_timeout_ms=self._busy_timeout_ms)

    @property
    def anchor_status(self) -> dict[str, Any] | None:
        """How the anchor does; None without one."""
        return None if self._anchor is None else self._anchor.status()

    def _on_damage(self, damage: str) -> None:
        log.error("%s", damage)
        self._writer.damage = damage

    @property
    def timezone(self) -> ZoneInfo:
        """Of billing periods."""
        return ZoneInfo(self._billing.timezone)

    @property
    def healthy(self) -> bool:
        """Whether the last write worked and no damage was found."""
        return not self.trouble

    @property
    def trouble(self) -> str:
        """Why the ledger cannot be written; "" if it can."""
        if trouble := self._writer.trouble or self._writer.damage:
            return trouble
        stuck_s = self._writer.stuck_s
        return (
            "" if stuck_s < HUNG_S else f"a write to {self.path} has not returned for {stuck_s:.0f} s; check its disk"
        )

    @property
    def stuck_s(self) -> float:
        """For how long nothing could be written; 0 if all is well."""
        return self._writer.stuck_s

    @property
    def wal_bytes(self) -> int:
        """Size of the write-ahead log, as of half a second ago."""
        return self._writer.log_bytes

    @property
    def only_logged(self) -> int:
        """Once it is closed: how many settlements are neither written nor set aside, only in the log."""
        return self._writer.only_logged

    # -- requests

    async def admit(self, admission: Admitted, entry: MakeEntry | None = None) -> None:
        """Insert a request's row and its entry of the audit trail. Raises LedgerUnavailable, Conflict (the id is
        taken).

        If cancelled before the writer starts, nothing is written; later, the row stays.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        adds = self._made(entry, admission.id)
        self._writer.submit(lambda conn: insert_request(conn, admission), future, keep=False, adds=adds)
        await future

    async def admit_keyed(
        self, keyed: KeyedBody, admissions: Sequence[Admitted], entries: Sequence[MakeEntry | None]
    ) -> None:
        """Like `admit`, for all rows of one client's request and its `Idempotency-Key`: all are written, or nothing.

        Raises also Conflict if the key stands for another request.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pairs = zip(entries, admissions, strict=True)
        makes = [make for entry, row in pairs if (make := self._made(entry, row.id)) is not None]

        def insert(conn: sqlite3.Connection) -> None:
            keep_key(conn, keyed, [row.id for row in admissions], self._now_micros())
            for row in admissions:
                insert_request(conn, row)

        def adds() -> list[Entry]:
            return [entry for make in makes for entry in make()]

        self._writer.submit(insert, future, keep=False, adds=adds if makes else None)
        await future

    def checkpoint(self, usages: dict[str, Usage]) -> None:
        """Record what running requests have used so far. Queued; only the latest usage of each is written."""
        self._writer.checkpoint(usages)

    async def settle(
        self,
        settlement: Settlement,
        admission: Admitted | None = None,
        entry: MakeEntry | None = None,
        uses: list[Use] | None = None,
    ) -> RequestRecord:
        """Close a row at the prices in force at its end, and append its entry to the audit trail. What it uses of
        budgets is put in `uses`. Raises NotFound, Conflict (already settled), AmountTooLarge.

        While the ledger cannot be written, it stays queued, even if the caller stops waiting. Raises
        LedgerUnavailable only if the ledger is closed first. Then it is set aside for the next start, together with
        the entry and `admission`, because a ledger restored from a backup may lack the row.
        """
        future: asyncio.Future[RequestRecord] = asyncio.get_running_loop().create_future()

        adds = self._made(entry, settlement.id)

        def record() -> Unsettled:
            return Unsettled(settlement=settlement, admission=admission, entry=None if adds is None else adds()[0])

        def settle(conn: sqlite3.Connection) -> RequestRecord:
            if uses is not None:
                uses.clear()  # of a transaction that was undone
            return settle_request(conn, settlement, timezone=self.timezone, uses=uses)

        self._writer.submit(settle, future, keep=True, record=record, adds=adds)
        return await future  # cancelling this does not remove the job from the queue

    def _made(self, entry: MakeEntry | None, request_id: str) -> Callable[[], list[Entry]] | None:
        """What makes the entry that goes with a row; None if there is none."""
        if entry is None or not self._audits:
            return None
        return lambda: [made(entry, request_id, self._now_micros())]

    def audit(self, entries: Iterable[Entry]) -> None:
        """Append entries to the audit trail in the writer's next transaction. Any thread may call it.

        While the ledger cannot be written they stay queued, up to a number; further ones are counted, and the count
        is recorded. Raises TypeError, ValueError for entries that cannot be stored; then none is queued.
        """
        if self._audits and (checked := [entry for entry in entries if columns(entry)]):
            self._writer.audit(checked)

    # -- transactions

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the writer's next transaction. If it raises, only its own changes are undone. Raises
        LedgerUnavailable.

        `work` runs in the writer's thread, must not commit, and delays all other writes while it runs.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.submit(work, future, keep=False)
        return await future

    async def read(self, work: Callable[[sqlite3.Connection], T], lane: Lane = Lane.LOOKUPS) -> T:
        """Run `work` on a snapshot, in a thread, with a read-only connection. Ends early if cancelled.

        Reads of many rows release the snapshot between pieces (`tenantd.ledger.pieces`).

        Raises LedgerUnavailable, QueueFull if too many wait in this lane, Draining once it is closed.
        """
        return await self._readers.run(lane, work)

    def end_reports(self) -> None:
        """Interrupt running reports and refuse new ones, because the daemon is stopping."""
        self._readers.end_reports()

    def reconfigure(self, billing: BillingConfig) -> None:
        """Use another time zone from now on, and log which prices differ from those in force.

        Raises ConfigError for another currency, because amounts of two currencies cannot be added.
        """
        if billing.currency != self._billing.currency:
            raise ConfigError(
                f"billing.currency cannot change from {self._billing.currency} to {billing.currency} while tenantd runs"
            )
        self._billing = billing
        now_micros = self._now_micros()
        self._writer.submit(lambda conn: name_differences(conn, billing, now_micros), None, keep=True)

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is queued, retrying for at most `timeout_s`, then close the file. Safe to call again.

        Settlements that are not written by then are set aside for the next start. If the ledger is already stuck,
        that happens first, because the time for a shutdown may be short.
        """
        self._writer.close(timeout_s)
        if self._writer.stuck_s > STUCK_S:
            await asyncio.to_thread(self._writer.set_aside)
        if self._check is not None:
            await asyncio.to_thread(self._check.stop)
        await asyncio.to_thread(self._readers.close)
        await asyncio.to_thread(self._writer.join, timeout_s + CLOSE_GRACE_S)
        if self._anchor is not None:
            await asyncio.to_thread(self._anchor.close, ANCHOR_TIMEOUT_S)


def _check_for_log(path: Path) -> None:
    """Raises ConfigError for a log without its ledger, which SQLite would delete."""
    log_path = path.with_name(path.name + LOG_SUFFIX)
    if log_path.exists() and log_path.stat().st_size:
        raise ConfigError(
            f"{log_path} holds part of a ledger, but {path} is missing; put it back. To use a backup "
            f"instead, copy it to {path} and delete {log_path.name}"
        )


def _last_write_micros(path: Path) -> int:
    """When the last daemon wrote (once a second while anything ran); 0 if there was none."""
    files = (path, path.with_name(path.name + LOG_SUFFIX))
    return max((file.stat().st_mtime_ns // 1000 for file in files if file.exists()), default=0)


def _begin(
    conn: sqlite3.Connection,
    path: Path,
    billing: BillingConfig,
    now_micros: int,
    last_write_micros: int,
    taken: TakenIn,
    *,
    audits: bool,
) -> int:
    """Settle what was set aside, then what was left running, in one transaction. A new ledger gets `billing`'s prices.

    What was left running is charged at the prices in force when it ended. Returns how many were left running.
    """
    conn.execute("BEGIN IMMEDIATE")
    try:
        resume(conn, now_micros, is_on=audits)
        before, timezone = latest_prices(conn), ZoneInfo(billing.timezone)
        if before is not None:
            taken.settle(conn, now_micros, timezone)
        ended_micros = min(now_micros, last_write_micros)
        interrupted = [] if before is None else interrupt_running(conn, ended_micros, timezone)
        if audits:
            append(conn, [about_request(INTERRUPTED, row, now_micros) for row in interrupted])
        if before is not None and before.currency != billing.currency:
            if has_money(conn):
                raise ConfigError(
                    f"billing.currency = {billing.currency!r}: {path} holds amounts in {before.currency}, and the two "
                    f"cannot be added; set it back to {before.currency!r}, or begin a ledger in the new currency that "
                    f"keeps tenants and keys: tenantctl ledger renew --currency {billing.currency}"
                )
            change_currency(conn, billing.currency)
        add_prices(conn, billing, now_micros)
        if before is None:  # a new ledger has no other prices
            taken.settle(conn, now_micros, timezone)
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise
    return len(interrupted)
