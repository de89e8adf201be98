"""The write-ahead log stays short, whoever reads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from tenantd.ledger.ledger import Lane
from tenantd.ledger.row_rules import broken_rows
from tests.ledger.books import admission, ledger_in, settlement, until

LARGE = 100_000  # bytes of an error text, and about as many in the log
WRITES = 250
MOST_BYTES = 20 * LARGE
"""Of a log that was emptied while the report still ran: it had some hundred times as much to hold."""
ROWS = 6000


def fill(conn: sqlite3.Connection) -> None:
    """Old rows to report on."""
    conn.executemany(
        "INSERT INTO requests (id, tenant, kind, model, state, created_micros, prompt_length_tokens, max_tokens, "
        "tenant_id) VALUES (?, 'acme', 'chat', 'tiny', 'running', ?, 1, 1, 1)",
        [(f"old-{n}", n) for n in range(ROWS)],
    )


def wal_bytes(folder: Path) -> int:
    return (folder / "ledger.db-wal").stat().st_size


def test_a_report_that_takes_long_does_not_make_the_log_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, begun = threading.Event(), threading.Event()

    def slowly(done: int, of: int) -> None:
        begun.set()
        written.wait(0.02)

    def check(conn: sqlite3.Connection) -> int:
        return sum(count for count, _, _ in broken_rows(conn, slowly))

    monkeypatch.setattr("tenantd.ledger.row_rules.PIECE_ROWS", 1)

    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.write(fill)
            report = asyncio.create_task(ledger.read(check, Lane.REPORTS))
            await until(begun.is_set)
            for n in range(WRITES):
                await ledger.admit(admission(f"r{n}"))
                await ledger.settle(settlement(f"r{n}", error="x" * LARGE))
            await until(lambda: wal_bytes(tmp_path) < MOST_BYTES)
            assert not report.done(), "it ran all the time"
            written.set()
            assert await report == ROWS + WRITES

    asyncio.run(main())


def test_the_log_is_emptied_when_nothing_is_written_for_a_while(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            assert wal_bytes(tmp_path) > 0
            await until(lambda: wal_bytes(tmp_path) == 0)
            assert ledger.healthy

    asyncio.run(main())


def test_a_program_that_keeps_a_transaction_open_holds_up_no_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantd.ledger.upkeep.LONG_LOG_BYTES", 12_000_000)

    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            other = sqlite3.connect(ledger.path, isolation_level=None)
            other.execute("BEGIN")
            other.execute("SELECT * FROM tenants").fetchall()
            for n in range(150):
                await ledger.admit(admission(f"r{n}"))
                async with asyncio.timeout(120):
                    await ledger.settle(settlement(f"r{n}", error="x" * LARGE))
            await until(lambda: "holds a transaction open on the ledger" in caplog.text)
            other.execute("COMMIT")
            other.close()

    asyncio.run(main())
