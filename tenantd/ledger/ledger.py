"""The ledger as the daemon uses it: admit, checkpoint, settle, and transactions for administration.

Opened synchronously, used from one asyncio loop. What returns has been written to the disk.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from tenantd.config import BillingConfig
from tenantd.domain import Usage
from tenantd.errors import ConfigError, LedgerDamaged, LedgerUnavailable
from tenantd.ledger.check import BackgroundCheck, find_damage
from tenantd.ledger.database import connect_writer, unusable
from tenantd.ledger.files import LOG_SUFFIX
from tenantd.ledger.migrations import migrate
from tenantd.ledger.prices import add_prices, latest_prices
from tenantd.ledger.readers import Lane, Readers
from tenantd.ledger.records import Admitted, PriceList, RequestRecord, Settlement
from tenantd.ledger.requests import has_settled, insert_request, interrupt_running, settle_request
from tenantd.ledger.unsettled import TakenIn, Unsettled
from tenantd.ledger.writer import Writer

__all__ = ["Admitted", "Lane", "Ledger", "PriceList", "RequestRecord", "Settlement"]

log = logging.getLogger(__name__)
T = TypeVar("T")

BUSY_TIMEOUT_MS: Final = 1000
"""How long a lock of another program is waited for before it counts as trouble."""
CLOSE_TIMEOUT_S: Final = 5.0
CLOSE_GRACE_S: Final = 1.2
"""How much longer a write that is under way may take when the ledger is closed: a lock is waited for for a second."""
STUCK_S: Final = 1.0
"""A ledger that has not been written for this long when it is closed may not be written any more."""
HUNG_S: Final = 10.0
"""A write that takes longer than this is trouble, though nothing has failed yet."""
CHECKED_AT_ONCE_BYTES: Final = 64 * 1024 * 1024
"""A ledger up to this size is checked for damage before it is used; that takes a fraction of a second."""


class Ledger:
    """Owner of the file. All coroutines belong to one loop; `open`, `set_prices` and `checkpoint` need none."""

    def __init__(
        self,
        conn: sqlite3.Connection,
        path: Path,
        *,
        currency: str,
        is_new: bool,
        interrupted: int,
        taken: TakenIn,
        now_micros: Callable[[], int],
        busy_timeout_ms: int,
    ) -> None:
        """Use `open`. `conn` is the writer's from here on. Raises OSError when the file cannot be looked at."""
        self.path = path
        self.is_new = is_new  # there was no file
        self.interrupted = interrupted  # rows that a killed daemon left running, settled by `open`
        self.taken_in = taken.settled  # rows that the last daemon could not settle, settled by `open`
        self.rejected = len(taken.rejected)  # and those that could not be
        self._currency = currency
        self._now_micros = now_micros
        self._busy_timeout_ms = busy_timeout_ms
        self._writer = Writer(conn, path, busy_timeout_ms)
        self._readers = Readers(path, busy_timeout_ms, self._writer.check_files)
        self._check: BackgroundCheck | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        billing: BillingConfig,
        now_micros: Callable[[], int],
        *,
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    ) -> Ledger:
        """Open or create the file, settle what a killed daemon left running, then put the prices in force.

        A small file is checked for damage first, a large one is not: see `check_in_background`.
        What a stop had to set aside is settled too. Raises LedgerUnavailable when the file cannot be used,
        LedgerDamaged, ConfigError when it is not this program's to use or `billing` does not go with what is in it.
        """
        last_write_micros = _last_write_micros(path)
        is_new = not path.exists()
        if is_new:
            _check_for_log(path)
        conn = connect_writer(path, busy_timeout_ms)
        try:
            if not is_new and path.stat().st_size <= CHECKED_AT_ONCE_BYTES and (damage := find_damage(conn, path)):
                raise LedgerDamaged(f"cannot use the ledger: {damage}")
            migrate(conn, str(path))
            taken = TakenIn(path.parent)
            interrupted = _begin(conn, path, billing, now_micros(), last_write_micros, taken)
            taken.discard()
            return cls(
                conn,
                path,
                currency=billing.currency,
                is_new=is_new,
                interrupted=interrupted,
                taken=taken,
                now_micros=now_micros,
                busy_timeout_ms=busy_timeout_ms,
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
        """Begin to look for damage in a file that was too large to be checked when it was opened.

        Damage that is found is trouble until the daemon stops: nothing new is admitted, what runs is still settled.
        """
        if self.path.stat().st_size > CHECKED_AT_ONCE_BYTES and self._check is None:
            self._check = BackgroundCheck(self.path, self._busy_timeout_ms, self._on_damage)

    def _on_damage(self, damage: str) -> None:
        log.error("%s", damage)
        self._writer.damage = damage

    @property
    def healthy(self) -> bool:
        """The last write worked, and no damage was found."""
        return not self.trouble

    @property
    def trouble(self) -> str:
        """Why the ledger cannot be written; empty while it can."""
        if trouble := self._writer.trouble or self._writer.damage:
            return trouble
        stuck_s = self._writer.stuck_s
        return (
            "" if stuck_s < HUNG_S else f"a write to {self.path} has not returned for {stuck_s:.0f} s; check its disk"
        )

    @property
    def stuck_s(self) -> float:
        """For how long nothing could be written; 0 when all is well."""
        return self._writer.stuck_s

    @property
    def wal_bytes(self) -> int:
        """Size of the write-ahead log, as of half a second ago."""
        return self._writer.log_bytes

    # -- requests

    async def admit(self, admission: Admitted) -> None:
        """Insert the row. Raises LedgerUnavailable, Conflict (the id is taken).

        Cancelled before the writer began, nothing is written; later, the row stays.
        """
        await self.write(lambda conn: insert_request(conn, admission))

    def checkpoint(self, usages: dict[str, Usage]) -> None:
        """Note what running requests have used so far. Queued; only the latest of each request is written."""
        self._writer.checkpoint(usages)

    async def settle(self, settlement: Settlement, admission: Admitted | None = None) -> RequestRecord:
        """Close the row at the prices in force. Raises NotFound, Conflict (settled before), AmountTooLarge.

        While the ledger cannot be written it stays queued, and so it does when the caller stops waiting. Raises
        LedgerUnavailable only when the ledger is closed first. It is then set aside for the next start, together with
        `admission`: a ledger restored from a backup may not have the row.
        """
        future: asyncio.Future[RequestRecord] = asyncio.get_running_loop().create_future()
        record = Unsettled(settlement=settlement, admission=admission)
        self._writer.submit(lambda conn: settle_request(conn, settlement), future, keep=True, record=record)
        return await future  # cancelling it does not take the job off the queue

    # -- transactions

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the writer's next transaction; what it raises undoes it alone. Raises LedgerUnavailable.

        `work` runs in the writer's thread, must not commit, and holds up all other writes while it runs.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.submit(work, future, keep=False)
        return await future

    async def read(self, work: Callable[[sqlite3.Connection], T], lane: Lane = Lane.LOOKUPS) -> T:
        """Run `work` on a snapshot, in a thread, on a connection that cannot write. Ends early when cancelled.

        Reports let the snapshot go from one piece to the next (`tenantd.ledger.pieces`).

        Raises LedgerUnavailable, QueueFull when too many wait in this lane, Draining once it is closed.
        """
        return await self._readers.run(lane, work)

    def end_reports(self) -> None:
        """Interrupt the reports that run, and take no more: the daemon is stopping."""
        self._readers.end_reports()

    def set_prices(self, billing: BillingConfig) -> None:
        """Put other prices in force for what is settled from here on. Queued until it can be written.

        Raises ConfigError for another currency: amounts of two currencies cannot be added up.
        """
        if billing.currency != self._currency:
            raise ConfigError(
                f"billing.currency cannot change from {self._currency} to {billing.currency} while tenantd runs"
            )
        now_micros = self._now_micros()
        self._writer.submit(lambda conn: add_prices(conn, billing, now_micros), None, keep=True)

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is queued, retrying for at most so long, then close the file. May be called again.

        Settlements that are not written by then are set aside for the next start. When the ledger is stuck already
        that is done first: the time for a stop may be short.
        """
        self._writer.close(timeout_s)
        if self._writer.stuck_s > STUCK_S:
            await asyncio.to_thread(self._writer.set_aside)
        if self._check is not None:
            await asyncio.to_thread(self._check.stop)
        await asyncio.to_thread(self._readers.close)
        await asyncio.to_thread(self._writer.join, timeout_s + CLOSE_GRACE_S)


def _check_for_log(path: Path) -> None:
    """A log without its ledger: SQLite would delete it and begin anew. Raises ConfigError."""
    log_path = path.with_name(path.name + LOG_SUFFIX)
    if log_path.exists() and log_path.stat().st_size:
        raise ConfigError(
            f"{log_path} holds part of a ledger, but {path} is missing; put it back. To use a backup "
            f"instead, copy it to {path} and delete {log_path.name}"
        )


def _last_write_micros(path: Path) -> int:
    """When the last daemon wrote, which with anything running it did once a second; 0 when there was none."""
    files = (path, path.with_name(path.name + LOG_SUFFIX))
    return max((file.stat().st_mtime_ns // 1000 for file in files if file.exists()), default=0)


def _begin(
    conn: sqlite3.Connection,
    path: Path,
    billing: BillingConfig,
    now_micros: int,
    last_write_micros: int,
    taken: TakenIn,
) -> int:
    """Settle what was set aside, then what was left running, then put `billing` in force, in one transaction.

    What was left was used while the old prices held, so they are what it costs. Returns how many were left running.
    """
    conn.execute("BEGIN IMMEDIATE")
    try:
        before = latest_prices(conn)
        if before is not None:
            taken.settle(conn)
        interrupted = 0 if before is None else interrupt_running(conn, before, min(now_micros, last_write_micros))
        if before is not None and before.currency != billing.currency and has_settled(conn):
            raise ConfigError(
                f"billing.currency = {billing.currency!r}: {path} holds amounts in {before.currency}, and these "
                f"cannot be added; set it back to {before.currency!r}, or choose another folder (ledger.state_dir)"
            )
        add_prices(conn, billing, now_micros)
        if before is None:  # a new ledger: the only prices there are
            taken.settle(conn)
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise
    return interrupted
