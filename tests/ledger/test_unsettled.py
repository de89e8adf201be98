"""What a stop could not settle is set aside, and settled by the next start: once, whatever happens in between."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tenantd.domain import Tenant
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.records import RequestRecord
from tenantd.ledger.reports import recent_requests
from tenantd.ledger.unsettled import FILE_NAME, REJECTED_NAME, Unsettled, set_aside
from tenantd.tenancy.tenants import add_tenant, list_tenants, tenant_meant
from tests.ledger.books import BILLING, admission, ledger_in, open_ledger, record_of, settlement, until, writer_held

ROOT = Path(__file__).parents[2]
DEARER = BILLING.model_copy(update={"output_price_per_million": Decimal("0.80")})
RECORDS = [Unsettled(settlement=settlement(name), admission=admission(name)) for name in ("r1", "r2", "r3")]


def leave(folder: Path) -> None:
    """r1 has a running row, r2 is settled, r3 has no row; all three are set aside."""

    async def main() -> None:
        async with ledger_in(folder) as ledger:
            await ledger.admit(admission("r1"))
            await ledger.admit(admission("r2"))
            await ledger.settle(settlement("r2"))

    asyncio.run(main())
    set_aside(folder, RECORDS)


def rows_after_start(folder: Path) -> tuple[Ledger, list[RequestRecord]]:
    async def main() -> tuple[Ledger, list[RequestRecord]]:
        async with ledger_in(folder, DEARER) as ledger:
            return ledger, await ledger.read(lambda conn: recent_requests(conn, None, 100))

    return asyncio.run(main())


def check_all_are_settled_once(rows: list[RequestRecord]) -> None:
    assert sorted(row.id for row in rows) == ["r1", "r2", "r3"]
    for row in rows:
        assert (row.state, row.completion_tokens, row.duration_micros) == ("stop", 30, 90_000)
        assert (row.price_id, row.output_nanos) == (1, 12_000), "at the prices they ran under"


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


@pytest.mark.parametrize("die_in", ["add_prices", "TakenIn.discard"])
def test_a_start_killed_while_it_takes_them_in_leaves_them_to_the_next(tmp_path: Path, die_in: str) -> None:
    leave(tmp_path)
    script = (
        "import os, sys, pathlib, tenantd.ledger.ledger as module\n"
        "from tests.ledger.books import open_ledger\n"
        f"module.{die_in} = lambda *_: os.kill(os.getpid(), 9)\n"
        "open_ledger(pathlib.Path(sys.argv[1]) / 'ledger.db')\n"
    )
    child = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, timeout=60, check=False)
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
    set_aside(tmp_path, [stray])
    ledger, rows = rows_after_start(tmp_path)
    assert (ledger.taken_in, ledger.rejected) == (2, 2)
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
        set_aside(tmp_path, RECORDS)
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
            await asyncio.wait_for(ledger.close(0.1), 5)
            settling.cancel()
            left = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-left"))  # had the process ended here
        ledger._writer._thread.join(10)
        for folder, taken_in in ((left, 1), (tmp_path, 0)):  # in the second it has landed after all
            async with ledger_in(folder) as again:
                assert (again.taken_in, again.interrupted) == (taken_in, 0)
                assert (await record_of(again, "r1")).state == "stop"

    asyncio.run(main())
