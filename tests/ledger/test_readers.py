from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import pytest

from tenantd.errors import Draining, QueueFull
from tenantd.ledger.database import connect_reader
from tenantd.ledger.ledger import Lane, Ledger
from tenantd.ledger.readers import MOST_WAITING, THREADS
from tenantd.ledger.verify import verify_file
from tests.ledger.books import ledger_in


class Long:
    """A report of hours, in SQLite."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def __call__(self, conn: Connection) -> Any:
        self.begun.set()
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n LIMIT 1"
        return conn.execute(endless).fetchone()


def test_a_ledger_on_a_read_only_medium_is_read_without_a_file_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def make() -> None:
        async with ledger_in(tmp_path):
            pass

    asyncio.run(make())
    path = tmp_path / "ledger.db"
    files = sorted(tmp_path.iterdir())
    found = os.statvfs(path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result([*found[:8], found.f_flag | os.ST_RDONLY, found[9]]))
    conn = connect_reader(path, 10)
    assert conn.execute("SELECT number FROM audit_head").fetchone() == (1,)
    assert sorted(tmp_path.iterdir()) == files
    assert verify_file(path).finding is None
    conn.close()
    assert sorted(tmp_path.iterdir()) == files


def one(conn: Connection) -> int:
    return int(conn.execute("SELECT 1").fetchone()[0])


async def until_begun(report: Long) -> None:
    async with asyncio.timeout(120):
        while not report.begun.is_set():
            await asyncio.sleep(0.002)


async def begin(ledger: Ledger, count: int) -> tuple[list[Long], list[asyncio.Task[Any]]]:
    reports = [Long() for _ in range(count)]
    return reports, [asyncio.create_task(ledger.read(report, Lane.REPORTS)) for report in reports]


async def end(tasks: list[asyncio.Task[Any]]) -> None:
    for task in reversed(tasks):  # first those that wait, so that they do not begin when the others end
        task.cancel()
    await asyncio.wait(tasks)


def test_reports_without_end_keep_no_lookup_and_no_directory_waiting(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            reports, tasks = await begin(ledger, 6)
            await until_begun(reports[0])
            async with asyncio.timeout(120):
                assert await ledger.read(one) == await ledger.read(one, Lane.DIRECTORY) == 1
            assert not any(task.done() for task in tasks)
            await end(tasks)

    asyncio.run(main())


def test_a_report_that_nobody_waits_for_makes_room_for_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            reports, tasks = await begin(ledger, THREADS[Lane.REPORTS] + 1)
            await until_begun(reports[0])
            await end(tasks)
            assert not reports[-1].begun.is_set()
            async with asyncio.timeout(120):
                assert await ledger.read(one, Lane.REPORTS) == 1

    asyncio.run(main())


def test_reports_end_with_the_daemon(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            reports, tasks = await begin(ledger, 1)
            await until_begun(reports[0])
            ledger.end_reports()
            async with asyncio.timeout(120):
                with pytest.raises(Draining, match="no more reports"):
                    await tasks[0]
                with pytest.raises(Draining):
                    await ledger.read(one, Lane.REPORTS)
                assert await ledger.read(one) == 1

    asyncio.run(main())


def test_closing_the_ledger_interrupts_whatever_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            report = Long()
            task = asyncio.create_task(ledger.read(report))
            await until_begun(report)
            async with asyncio.timeout(120):
                await ledger.close(0.5)
                with pytest.raises(Draining):
                    await task

    asyncio.run(main())


def test_more_reports_than_can_wait_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            _, tasks = await begin(ledger, THREADS[Lane.REPORTS] + MOST_WAITING[Lane.REPORTS])
            await asyncio.sleep(0)
            with pytest.raises(QueueFull, match="reports are already waiting"):
                await ledger.read(one, Lane.REPORTS)
            assert await ledger.read(one) == 1
            await end(tasks)

    asyncio.run(main())
