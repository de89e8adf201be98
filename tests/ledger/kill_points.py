"""Run by a test in a process of its own: a command on the ledger, killed at points of its work in turn.

A point is before a file is opened, linked, renamed or removed, before something is written to disk, and before each
statement of SQL. Each run begins with a copy of the folder `base`, in a folder named by the number of its point.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenantd.domain import Actor
from tenantd.events import Events
from tenantd.ledger.invoices import parse_month
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.paperwork import Paperwork
from tenantd.ledger.renewal import renew
from tenantd.ledger.restoring import compare, restore
from tenantd.ledger.row_pruning import prune_rows
from tenantd.tenancy.invoicing import Invoicing
from tests.ledger.books import BILLING
from tests.ledger.trails import entry

NOW_MICROS = 1_796_500_000_000_000  # a moment in December 2026
MOST_POINTS = 500
STEP = 3
EVENTS = {"open", "os.link", "os.rename", "os.remove", "os.utime", "sqlite3.connect"}


class Points:
    """Counts them, and kills this process at one."""

    def __init__(self, last: int, folder: Path) -> None:
        self._left = last
        self._folder = str(folder)
        self._real_fsync, self._real_connect = os.fsync, sqlite3.connect

    def install(self) -> None:
        os.fsync = self._fsync  # type: ignore[assignment]
        sqlite3.connect = self._connect  # type: ignore[assignment]
        sys.addaudithook(self._heard)

    def _pass(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def _fsync(self, fd: int) -> None:
        self._pass()
        self._real_fsync(fd)

    def _connect(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        conn = self._real_connect(*arguments, **options)
        conn.set_trace_callback(lambda _: self._pass())
        return conn

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and self._folder in str(arguments[0]):
            self._pass()


def restores(folder: Path) -> None:
    backup, ledger = folder / "backup.db", folder / "ledger.db"
    restore(backup, ledger, compare(backup, ledger), NOW_MICROS)


def renews(folder: Path) -> None:
    renew(folder / "ledger.db", "EUR", NOW_MICROS)


def prunes(folder: Path) -> None:
    async def main() -> None:
        ledger = Ledger.open(folder / "ledger.db", BILLING, lambda: NOW_MICROS)
        about = entry("administered", request_id=None, at_micros=NOW_MICROS)
        await prune_rows(ledger, "2026-12", ledger.timezone, lambda: NOW_MICROS, lambda month: about)
        await ledger.close()

    asyncio.run(main())


def finalises(folder: Path) -> None:
    async def main() -> None:
        ledger = Ledger.open(folder / "ledger.db", BILLING, lambda: NOW_MICROS)
        month = parse_month("last", ledger.timezone, NOW_MICROS)
        await Invoicing(ledger, Events(), records=True).finalize(Actor(uid=0), month, None, Paperwork())
        await ledger.close()

    asyncio.run(main())


COMMANDS: dict[str, Callable[[Path], None]] = {
    "restore": restores,
    "renew": renews,
    "prune": prunes,
    "finalise": finalises,
}


def main(name: str, folder: Path) -> int:
    """The point from which on nothing is killed. Each third one is tried."""
    for point in range(1, MOST_POINTS, STEP):
        own = folder / str(point)
        shutil.copytree(folder / "base", own)
        if (pid := os.fork()) == 0:
            try:
                Points(point, own).install()
                COMMANDS[name](own)
                os._exit(0)
            except BaseException as e:
                os.write(2, repr(e).encode())
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            return point
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"{name} failed at point {point}")
    raise SystemExit(f"{name} has too many points")


if __name__ == "__main__":
    print(main(sys.argv[1], Path(sys.argv[2])))
