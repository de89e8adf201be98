"""Finalising by several administrators at once, and on a disk that is full."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tenantd.domain import Actor, Tenant
from tenantd.errors import LedgerUnavailable
from tenantd.events import Events
from tenantd.ledger.inspection import inspect_file
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.paperwork import Paperwork
from tenantd.tenancy.invoicing import Invoicing
from tenantd.tenancy.tenants import add_tenant
from tests.ledger.bills import DAY, NOVEMBER, NOW, SECOND
from tests.ledger.books import BILLING, admission, settlement, until


def test_each_tenant_gets_one_invoice_and_each_number_is_given_once(tmp_path: Path) -> None:
    async def main() -> None:
        ledger = Ledger.open(tmp_path / "ledger.db", BILLING, lambda: NOW)
        for name in ("acme", "globex"):
            await ledger.write(lambda conn, name=name: add_tenant(conn, Tenant(name=name)))  # type: ignore[misc]
            for n in range(5):
                row = admission(f"{name}{n}", tenant=name, created_micros=NOVEMBER.since_micros + n * DAY)
                await ledger.admit(row)
                await ledger.settle(settlement(row.id, duration_micros=SECOND))
        invoicing = Invoicing(ledger, Events(), records=True)
        whose = [None, "acme", None, "globex", None, "acme"]
        bills = await asyncio.gather(
            *(invoicing.finalize(Actor(uid=n), NOVEMBER, tenant, Paperwork()) for n, tenant in enumerate(whose))
        )
        listed = await invoicing.list_issued(None, None)
        numbers = {one.tenant: one.number for one in listed}
        assert sorted(numbers.values()) == ["000001", "000002"] and len(listed) == 2
        for bill in bills:
            assert all(part.number == numbers[part.tenant] for part in bill.tenants)
        assert len({bill.total_nanos for bill, tenant in zip(bills, whose, strict=True) if tenant is None}) == 1
        await ledger.close()

    asyncio.run(main())
    assert inspect_file(tmp_path / "ledger.db").breaches == []


@pytest.mark.parametrize("room_pages", [0, 3, 12])
def test_a_disk_that_fills_up_between_two_invoices_leaves_none_and_the_numbers_begin_at_one(
    tmp_path: Path, room_pages: int
) -> None:
    tenants = 40

    async def main() -> None:
        ledger = Ledger.open(tmp_path / "ledger.db", BILLING, lambda: NOW)
        for n in range(tenants):
            await ledger.write(lambda conn, n=n: add_tenant(conn, Tenant(name=f"t{n}")))  # type: ignore[misc]
            row = admission(f"r{n}", tenant=f"t{n}", tenant_id=n + 1, created_micros=NOVEMBER.since_micros + DAY)
            await ledger.admit(row)
            await ledger.settle(settlement(row.id, duration_micros=SECOND))
        invoicing = Invoicing(ledger, Events(), records=True)
        writing = ledger._writer._conn
        (used,) = writing.execute("PRAGMA page_count").fetchone()
        writing.execute(f"PRAGMA max_page_count = {used + room_pages}")
        with pytest.raises(LedgerUnavailable, match="no space left"):
            await invoicing.finalize(Actor(uid=1), NOVEMBER, None, Paperwork())
        assert await invoicing.list_issued(None, None) == []
        writing.execute("PRAGMA max_page_count = 1000000")
        await until(lambda: ledger.healthy)
        bill = await invoicing.finalize(Actor(uid=1), NOVEMBER, None, Paperwork())
        assert sorted(part.number or "" for part in bill.tenants) == [f"{n:06}" for n in range(1, tenants + 1)]
        await ledger.close()

    asyncio.run(main())
    assert inspect_file(tmp_path / "ledger.db").breaches == []
