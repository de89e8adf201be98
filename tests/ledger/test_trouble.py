"""The file cannot be written: nothing that was accepted is lost, nothing new is accepted, and it recovers by itself."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tenantd.config import BillingConfig
from tenantd.domain import Usage
from tenantd.errors import LedgerUnavailable
from tenantd.ledger.ledger import Ledger
from tests.ledger.books import NOW_MICROS, add_prices, admission, count_rows, ledger_in, record_of, settlement, until

LARGE = 100_000  # an error text of so many characters needs new pages
ROOT = Path(__file__).parents[2]


class Full:
    """No more pages, as on a full disk."""

    says = "no space left"

    def __init__(self, ledger: Ledger) -> None:
        self._conn = ledger._writer._conn

    def begin(self) -> None:
        (pages,) = self._conn.execute("PRAGMA page_count").fetchone()
        self._conn.execute(f"PRAGMA max_page_count = {pages}")

    def end(self) -> None:
        self._conn.execute("PRAGMA max_page_count = 1000000")


class ReadOnly:
    """Every write is answered with SQLITE_READONLY."""

    says = "for writing; check the permissions"

    def __init__(self, ledger: Ledger) -> None:
        self._conn = ledger._writer._conn

    def begin(self) -> None:
        self._conn.execute("PRAGMA query_only = ON")

    def end(self) -> None:
        self._conn.execute("PRAGMA query_only = OFF")


class Locked:
    """Another program is in the middle of a transaction."""

    says = "another program holds a lock"

    def __init__(self, ledger: Ledger) -> None:
        self._conn = sqlite3.connect(ledger.path, isolation_level=None)

    def begin(self) -> None:
        self._conn.execute("BEGIN EXCLUSIVE")

    def end(self) -> None:
        self._conn.execute("ROLLBACK")
        self._conn.close()


Trouble = Callable[[Ledger], Full | ReadOnly | Locked]


@pytest.mark.parametrize("trouble", [Full, ReadOnly, Locked])
def test_settlements_wait_new_requests_are_refused_and_all_lands_when_it_has_passed(
    tmp_path: Path, trouble: Trouble
) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            for name in ("r1", "r2", "r3", "r4"):
                await ledger.admit(admission(name))
            cause = trouble(ledger)
            cause.begin()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ledger.settle(settlement("r1", error="x" * LARGE)), 0.05)
            await until(lambda: not ledger.healthy)
            assert cause.says in ledger.trouble and str(ledger.path) in ledger.trouble
            waiting = asyncio.create_task(ledger.settle(settlement("r2")))
            ledger.checkpoint({"r3": Usage(prompt_tokens=1)})
            ledger.checkpoint({"r3": Usage(prompt_tokens=2)})
            refused = [
                asyncio.create_task(ledger.admit(admission("r5"))),
                asyncio.create_task(ledger.write(lambda conn: None)),
            ]
            await asyncio.sleep(0)
            for task in refused:
                assert task.done(), "it does not wait for the next try"
                with pytest.raises(LedgerUnavailable, match=cause.says):
                    await task
            assert (await record_of(ledger, "r1")).state == "running"
            assert not waiting.done()

            cause.end()
            assert (await waiting).state == "stop"
            await until(lambda: ledger.healthy)
            assert ledger.trouble == ""
            assert len((await record_of(ledger, "r1")).error) == LARGE
            assert (await record_of(ledger, "r3")).prompt_tokens == 2
            await ledger.admit(admission("r5"))
            assert await count_rows(ledger) == 5

    asyncio.run(main())


def watch_failures(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None] | None = None
) -> list[bool]:
    """Grows with each transaction that fails: is it still open after? `meanwhile` runs as the first fails."""
    writer, failures = ledger._writer, list[bool]()
    undo, put_back = writer._undo, writer._put_back

    def watched_undo() -> None:
        if meanwhile is not None and not failures:
            meanwhile()
        undo()

    def watched_put_back(*what: Any) -> None:
        is_open = writer._conn.in_transaction
        put_back(*what)
        failures.append(is_open)

    monkeypatch.setattr(writer, "_undo", watched_undo)
    monkeypatch.setattr(writer, "_put_back", watched_put_back)
    return failures


@pytest.mark.parametrize("trouble", [Full, ReadOnly, Locked])
def test_a_transaction_that_failed_is_rolled_back_before_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            failures = watch_failures(ledger, monkeypatch)
            cause = trouble(ledger)
            cause.begin()
            settling = asyncio.create_task(ledger.settle(settlement("r1", error="x" * LARGE)))
            await until(lambda: len(failures) >= 2)
            cause.end()
            await settling
            assert not any(failures)

    asyncio.run(main())


def test_a_checkpoint_that_failed_does_not_replace_one_that_came_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            cause = ReadOnly(ledger)
            cause.begin()
            newer = {"r1": Usage(prompt_tokens=2)}
            failures = watch_failures(ledger, monkeypatch, meanwhile=lambda: ledger.checkpoint(newer))
            ledger.checkpoint({"r1": Usage(prompt_tokens=1)})
            await until(lambda: len(failures) >= 1)
            cause.end()
            await until(lambda: ledger.healthy)
            assert (await record_of(ledger, "r1")).prompt_tokens == 2

    asyncio.run(main())


@pytest.mark.parametrize("trouble", [Full, ReadOnly, Locked])
def test_it_recovers_with_nothing_queued_and_not_before_it_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            failures = watch_failures(ledger, monkeypatch)
            cause = trouble(ledger)
            cause.begin()
            with pytest.raises(LedgerUnavailable, match=cause.says):
                await ledger.write(lambda conn: conn.execute("INSERT INTO probe VALUES (zeroblob(100000))"))
            await until(lambda: len(failures) >= 3)
            assert not ledger.healthy
            cause.end()
            await until(lambda: ledger.healthy)
            await ledger.admit(admission("r1"))
            assert await count_rows(ledger) == 1

    asyncio.run(main())


def test_a_settlement_that_waited_has_the_prices_of_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            await ledger.admit(admission("r2"))
            dearer = BillingConfig(input_price_per_million=Decimal(5))
            await ledger.write(lambda conn: add_prices(conn, dearer, NOW_MICROS + 90_001))
            cause = ReadOnly(ledger)
            cause.begin()
            failures = watch_failures(ledger, monkeypatch)
            later = asyncio.create_task(ledger.settle(settlement("r2", duration_micros=90_001)))
            await until(lambda: len(failures) >= 1)
            earlier = asyncio.create_task(ledger.settle(settlement("r1", duration_micros=90_000)))
            await asyncio.sleep(0)
            cause.end()
            assert ((await earlier).price_id, (await later).price_id) == (1, 2)

    asyncio.run(main())


def test_closing_in_trouble_gives_up_in_time_and_the_next_start_settles(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            cause = Locked(ledger)
            cause.begin()
            waiting = asyncio.create_task(ledger.settle(settlement("r1")))
            await until(lambda: not ledger.healthy)
            await ledger.close(0.05)
            with pytest.raises(LedgerUnavailable, match="another program holds a lock"):
                await waiting
            cause.end()
        async with ledger_in(tmp_path) as ledger:
            assert (ledger.interrupted, ledger.taken_in) == (0, 1)
            assert (await record_of(ledger, "r1")).state == "stop"

    asyncio.run(main())


def test_a_bug_in_the_writer_is_told_to_whoever_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            monkeypatch.setattr(ledger._writer, "_run_job", lambda job: 1 / 0)
            with pytest.raises(LedgerUnavailable, match="its writer has stopped"):
                await ledger.admit(admission("r1"))
            assert not ledger.healthy
            with pytest.raises(LedgerUnavailable):
                await ledger.admit(admission("r2"))

    asyncio.run(main())
    assert "ZeroDivisionError" in caplog.text


def test_a_write_that_the_disk_cuts_off_at_commit_is_undone_and_repeated_once(tmp_path: Path) -> None:
    """The kernel lets no file of the process grow: writing the log fails in the middle, as on a full disk."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.ledger.cut_off", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    facts = json.loads(child.stdout)
    assert "input/output error" in facts["trouble"] or "no space left" in facts["trouble"]
    assert facts["refused"] == ["LedgerUnavailable"] * 2
    assert facts["states"] == {"r0": "stop", "r1": "stop", "r2": "running", "after": "running"}
    assert facts["checkpointed"] == 9
    assert facts["integrity"] == "ok"
