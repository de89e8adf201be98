"""What a stop could not settle is set aside, and settled by the next start: once, whatever happens in between."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tenantd.domain import FinishReason, Tenant
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.records import RequestRecord
from tenantd.ledger.reports import recent_requests
from tenantd.ledger.unsettled import (
    FILE_NAME,
    REJECTED_NAME,
    RESERVE_BYTES,
    RESERVE_NAME,
    Unsettled,
    keep_reserve,
    set_aside,
    set_entries_aside,
)
from tenantd.tenancy.tenants import add_tenant, list_tenants, tenant_meant
from tests.ledger.books import (
    BILLING,
    NOW_MICROS,
    add_prices,
    admission,
    ledger_in,
    open_ledger,
    record_of,
    settlement,
    until,
    writer_held,
)
from tests.ledger.trails import entry, trail_of

ROOT = Path(__file__).parents[2]
DEARER = BILLING.model_copy(update={"output_price_per_million": Decimal("0.80")})
AFTER_MICROS = NOW_MICROS + 90_001
"""Just after requests of `settlement` have ended."""
RECORDS = [Unsettled(settlement=settlement(name), admission=admission(name)) for name in ("r1", "r2", "r3")]


def leave(folder: Path) -> None:
    """r1 has a running row, r2 is settled, r3 has no row; all three are set aside."""

    async def main() -> None:
        async with ledger_in(folder) as ledger:
            await ledger.admit(admission("r1"))
            await ledger.admit(admission("r2"))
            await ledger.settle(settlement("r2"))
            await ledger.write(lambda conn: add_prices(conn, DEARER, AFTER_MICROS))

    asyncio.run(main())
    set_aside(folder, RECORDS)


def lines_of(folder: Path) -> int:
    path = folder / FILE_NAME
    return sum(bool(line) for line in path.read_bytes().splitlines()) if path.exists() else 0


def rows_after_start(folder: Path) -> tuple[Ledger, list[RequestRecord]]:
    async def main() -> tuple[Ledger, list[RequestRecord]]:
        async with ledger_in(folder) as ledger:
            return ledger, await ledger.read(lambda conn: recent_requests(conn, None, 100))

    return asyncio.run(main())


def check_all_are_settled_once(rows: list[RequestRecord]) -> None:
    assert sorted(row.id for row in rows) == ["r1", "r2", "r3"]
    for row in rows:
        assert (row.state, row.completion_tokens, row.duration_micros) == ("stop", 30, 90_000)
        assert (row.price_id, row.output_nanos) == (1, 12_000), "at the prices of their end"


def test_the_next_start_settles_what_is_set_aside_with_a_row_or_without(tmp_path: Path) -> None:
    leave(tmp_path)
    ledger, rows = rows_after_start(tmp_path)
    assert (ledger.taken_in, ledger.rejected, ledger.interrupted) == (2, 0, 0)
    check_all_are_settled_once(rows)
    assert not (tmp_path / FILE_NAME).exists()


def test_a_request_whose_tenant_a_restored_ledger_lacks_is_on_nobody_elses_bill(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.write(lambda conn: add_tenant(conn, Tenant(name="globex")))  # it has the id 1 in this ledger
        set_aside(tmp_path, [Unsettled(settlement=settlement("r3"), admission=admission("r3"))])
        async with ledger_in(tmp_path) as ledger:
            (row,) = await ledger.read(lambda conn: recent_requests(conn, None, 10))
            assert (row.tenant, row.tenant_id) == ("acme", 2)
            assert await ledger.read(lambda conn: tenant_meant(conn, "acme")) == 2
            assert [tenant.id for tenant in await ledger.read(list_tenants)] == [1], "it counts as removed"

    asyncio.run(main())


def aside(request: int, tenant: str, tenant_id: int) -> Unsettled:
    name = f"r{request}"
    return Unsettled(settlement=settlement(name), admission=admission(name, tenant=tenant, tenant_id=tenant_id))


async def tenants_of_rows(ledger: Ledger) -> list[tuple[int, str, int]]:
    """Id, name and number of requests of each tenant that has requests."""
    query = """SELECT tenants.id, name, count(*) FROM requests JOIN tenants ON tenants.id = tenant_id
        WHERE tenants.state = 'removed' GROUP BY tenants.id"""
    return await ledger.read(lambda conn: conn.execute(query).fetchall())


def test_lines_of_tenants_that_a_restored_ledger_lacks_keep_their_ids_one_tenant_for_each(tmp_path: Path) -> None:
    lines = [aside(n, *(("initech", 3), ("hooli", 2))[n % 2]) for n in range(6)]

    async def main() -> None:
        async with ledger_in(tmp_path):
            pass
        set_aside(tmp_path, [*lines, aside(6, "hooli-renamed", 2)])
        async with ledger_in(tmp_path) as ledger:
            assert await tenants_of_rows(ledger) == [(2, "hooli", 4), (3, "initech", 3)]
        set_aside(tmp_path, [aside(7, "initech", 3)])
        async with ledger_in(tmp_path) as ledger:
            assert await tenants_of_rows(ledger) == [(2, "hooli", 4), (3, "initech", 4)], "by a later start, too"
            await ledger.write(lambda conn: add_tenant(conn, Tenant(name="new")))
            assert await ledger.read(lambda conn: tenant_meant(conn, "new")) == 4

    asyncio.run(main())


def test_lines_never_go_to_another_tenant_that_has_the_id_or_the_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            for name in ("globex", "hooli"):  # 1 and 2
                await ledger.write(lambda conn, name=name: add_tenant(conn, Tenant(name=name)))
        stray = Unsettled(settlement=settlement("x" * 9, state="poem"), admission=aside(9, "lost", 1).admission)
        (tmp_path / FILE_NAME).write_bytes(msgspec.json.encode(stray))  # undone, with the tenant made for it
        set_aside(tmp_path, [aside(n, "initech", 1) for n in range(3)] + [aside(n, "hooli", 7) for n in range(3, 5)])
        set_aside(tmp_path, [aside(n, "odd", 2**63 - 1) for n in range(5, 7)])
        async with ledger_in(tmp_path) as ledger:
            assert ledger.rejected == 1
            assert await tenants_of_rows(ledger) == [(3, "initech", 3), (7, "hooli", 2), (8, "odd", 2)]
            assert [tenant.id for tenant in await ledger.read(list_tenants)] == [1, 2]

    asyncio.run(main())


def test_a_line_settles_a_request_that_a_start_has_interrupted_meanwhile_once_and_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            for name in ("r1", "r2"):
                await ledger.admit(admission(name))
            await ledger.settle(settlement("r2"))
            await ledger.write(lambda conn: add_prices(conn, DEARER, AFTER_MICROS))
        async with ledger_in(tmp_path) as ledger:
            assert ledger.interrupted == 1
            row = await record_of(ledger, "r1")
            assert (row.state, row.completion_tokens) == ("interrupted", 0)
        late = [Unsettled(settlement=settlement(name, state=FinishReason.LENGTH)) for name in ("r1", "r2")]
        set_aside(tmp_path, late)
        async with ledger_in(tmp_path) as ledger:
            assert (ledger.taken_in, ledger.rejected, ledger.interrupted) == (1, 0, 0)
            row = await record_of(ledger, "r1")
            assert (row.state, row.completion_tokens, row.duration_micros) == ("length", 30, 90_000)
            assert (row.price_id, row.output_nanos, row.error) == (1, 12_000, ""), "at the prices of its end"
            query = "SELECT interrupted_micros FROM requests WHERE id = 'r1'"
            assert await ledger.read(lambda conn: conn.execute(query).fetchone()) == (None,)
            other = await record_of(ledger, "r2")
            assert other.state == "stop"
        set_aside(tmp_path, [Unsettled(settlement=settlement("r1"))])
        async with ledger_in(tmp_path) as ledger:
            assert (ledger.taken_in, ledger.rejected) == (0, 0)
            assert (await record_of(ledger, "r1"), await record_of(ledger, "r2")) == (row, other)

    asyncio.run(main())


def test_on_a_full_disk_lines_use_the_room_that_was_kept_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def full(path: Any, *rest: Any, **options: Any) -> int:
        """A disk that has room for lines only once the reserve is gone."""
        if Path(path).name == FILE_NAME and reserve.exists() and reserve.stat().st_blocks * 512 >= RESERVE_BYTES:
            raise OSError(28, "No space left on device")
        return real(path, *rest, **options)

    reserve = tmp_path / RESERVE_NAME
    leave(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    keep_reserve(tmp_path)
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES, "it must be allocated, not sparse"
    monkeypatch.setattr(os, "open", full)
    assert set_aside(tmp_path, RECORDS) == 0
    assert not reserve.exists()
    _, rows = rows_after_start(tmp_path)
    check_all_are_settled_once(rows)
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES, "for the next stop"


def test_a_start_without_room_for_the_reserve_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    leave(tmp_path)
    assert "No space left on device; a stop needs them if the disk is full" in caplog.text
    _, rows = rows_after_start(tmp_path)
    check_all_are_settled_once(rows)


@pytest.mark.parametrize("die_in", ["add_prices", "TakenIn.discard"])
def test_a_start_killed_while_it_takes_them_in_leaves_them_to_the_next(tmp_path: Path, die_in: str) -> None:
    leave(tmp_path)
    script = (
        "import os, sys, pathlib, tenantd.ledger.ledger as module\n"
        "from tests.ledger.books import open_ledger\n"
        f"module.{die_in} = lambda *_: os.kill(os.getpid(), 9)\n"
        "open_ledger(pathlib.Path(sys.argv[1]) / 'ledger.db')\n"
    )
    child = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, timeout=300, check=False)
    assert child.returncode == -9
    assert (tmp_path / FILE_NAME).exists()
    _, rows = rows_after_start(tmp_path)
    check_all_are_settled_once(rows)
    assert not (tmp_path / FILE_NAME).exists()


def test_a_line_that_is_no_use_is_kept_apart_and_the_others_are_settled(tmp_path: Path) -> None:
    leave(tmp_path)
    stray = Unsettled(settlement=settlement("unknown"))  # no row, and nothing to make one from
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b'{"settlement": {"id": "cut o')
        file.write(b'\n{"entry": {"detail": ' + b"[" * 200_000 + b"]" * 200_000 + b"}}\n")
        file.write(b'{"settlement": ' + b'{"a":' * 200_000 + b"\n")
    set_aside(tmp_path, [stray])
    ledger, rows = rows_after_start(tmp_path)
    assert (ledger.taken_in, ledger.rejected) == (2, 4)
    check_all_are_settled_once(rows)
    assert b"cut o" in (tmp_path / REJECTED_NAME).read_bytes()
    assert b"unknown" in (tmp_path / REJECTED_NAME).read_bytes()
    assert (tmp_path / REJECTED_NAME).stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_set_aside_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    leave(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        assert set_aside(tmp_path, RECORDS) == 3
    (tmp_path / FILE_NAME).unlink()
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("{")]
    (tmp_path / FILE_NAME).write_text("\n".join(lines))
    _, rows = rows_after_start(tmp_path)
    check_all_are_settled_once(rows)


def test_a_stuck_ledger_sets_aside_before_it_waits_and_what_then_lands_is_settled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantd.ledger.ledger.STUCK_S", 0.0)

    async def main() -> None:
        ledger = open_ledger(tmp_path / "ledger.db", busy_timeout_ms=10)
        await ledger.admit(admission("r1"))
        async with writer_held(ledger):
            settling = asyncio.create_task(ledger.settle(settlement("r1"), admission("r1")))
            await asyncio.sleep(0)
            closing = asyncio.create_task(ledger.close(5))
            await until((tmp_path / FILE_NAME).exists)
            assert not closing.done()
        await closing
        assert (await settling).state == "stop"
        async with ledger_in(tmp_path) as again:
            assert (again.taken_in, again.interrupted, again.rejected) == (0, 0, 0)
            assert not (tmp_path / FILE_NAME).exists()

    asyncio.run(main())


def test_a_write_that_hangs_does_not_keep_the_close_waiting_and_is_settled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantd.ledger.ledger.CLOSE_GRACE_S", 0.1)
    monkeypatch.setattr("tenantd.ledger.ledger.HUNG_S", 0.05)

    async def main() -> None:
        ledger = open_ledger(tmp_path / "ledger.db", busy_timeout_ms=10)
        await ledger.admit(admission("r1"))
        async with writer_held(ledger):
            settling = asyncio.create_task(ledger.settle(settlement("r1"), admission("r1")))
            await until(lambda: not ledger.healthy)
            assert "has not returned" in ledger.trouble
            await asyncio.wait_for(ledger.close(0.1), 60)
            settling.cancel()
            left = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-left"))  # had the process ended here
        ledger._writer._thread.join(120)
        for folder, taken_in in ((left, 1), (tmp_path, 0)):  # in the second it has landed after all
            async with ledger_in(folder) as again:
                assert (again.taken_in, again.interrupted) == (taken_in, 0)
                assert (await record_of(again, "r1")).state == "stop"

    asyncio.run(main())


def test_an_entry_that_was_set_aside_and_then_written_after_all_is_in_the_trail_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantd.ledger.ledger.STUCK_S", 0.0)
    twice = entry("refused", tenant="acme", detail={"count": 7, "share": 0.1})  # two alike are two

    async def main() -> None:
        ledger = open_ledger(tmp_path / "ledger.db", busy_timeout_ms=10)
        async with writer_held(ledger):
            ledger.audit([twice, twice, entry("missed")])
            closing = asyncio.create_task(ledger.close(5))
            await until(lambda: lines_of(tmp_path) == 3)
            left = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-left"))  # had the process ended here
        await closing
        for folder in (tmp_path, left):
            async with ledger_in(folder) as again:
                events = [each.event for each in await again.read(trail_of)]
                assert sorted(events) == ["begun", "missed", "refused", "refused"]
                assert again.rejected == 0 and lines_of(folder) == 0

    asyncio.run(main())


def test_a_start_killed_before_it_deletes_the_file_leaves_each_entry_once(tmp_path: Path) -> None:
    leave(tmp_path)
    odd = entry("odd", detail={"text": "\ud800"})  # JSON has no such character
    set_entries_aside(tmp_path, [entry("refused"), entry("refused"), odd])
    lines = (tmp_path / FILE_NAME).read_bytes()
    for _ in range(3):
        (tmp_path / FILE_NAME).write_bytes(lines)
        rows_after_start(tmp_path)
    with sqlite3.connect(tmp_path / "ledger.db") as conn:
        events = [each.event for each in trail_of(conn)]
    conn.close()
    assert (events.count("refused"), events.count("odd")) == (2, 1)
