"""Reports that a tenant asks for about itself, by its id. In a lane of their own, so that they delay no others.

Raise QueueFull if the tenant has too many under way, and what `Ledger.read` raises.
"""

from __future__ import annotations

from collections.abc import Callable
from sqlite3 import Connection
from typing import TypeVar

import msgspec

from tenantd.errors import NotFound
from tenantd.ledger.grouped import Grouping, UsageGroup, usage_by
from tenantd.ledger.invoices import Invoice, Month, invoice
from tenantd.ledger.ledger import Lane, Ledger
from tenantd.ledger.lookups import own_request
from tenantd.ledger.paperwork import Paperwork
from tenantd.ledger.records import RequestRecord
from tenantd.ledger.reports import TenantUsage, usage_report
from tenantd.ledger.selection import FoundRequests, WantedRequests, request_meant, select_requests
from tenantd.tenancy.key_parts import key_meant
from tenantd.tenancy.turns import Turns

T = TypeVar("T")


class OwnReports:
    """What the ledger has of one tenant. A tenant that asks for much waits for itself."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._turns = Turns()

    async def usage(self, tenant_id: int, since_micros: int, until_micros: int) -> TenantUsage | None:
        """Of requests that ended from `since_micros` until before `until_micros`; None if there were none."""

        def read(conn: Connection) -> TenantUsage | None:
            return next(iter(usage_report(conn, since_micros, until_micros, tenant_id)), None)

        return await self._read(tenant_id, read)

    async def usage_by(
        self, tenant_id: int, grouping: Grouping, since_micros: int, until_micros: int
    ) -> list[UsageGroup]:
        """The same in groups; see `tenantd.ledger.grouped`."""
        timezone = self._ledger.timezone

        def read(conn: Connection) -> list[UsageGroup]:
            return usage_by(conn, grouping, since_micros, until_micros, timezone, tenant_id)

        return await self._read(tenant_id, read)

    async def requests(self, tenant_id: int, wanted: WantedRequests, limit: int, after_id: str | None) -> FoundRequests:
        """The newest first: those after one of its requests, or the first. Raises NotFound for another id, Conflict if
        several of its keys have the part of an id that is wanted."""

        def read(conn: Connection) -> FoundRequests:
            key_id = None if wanted.key_id is None else key_meant(conn, wanted.key_id, tenant_id)
            of_tenant = msgspec.structs.replace(wanted, tenant_id=tenant_id, key_id=key_id)
            if after_id is not None:
                _found(own_request(conn, tenant_id, after_id), "after")
            return select_requests(conn, of_tenant, limit, after_id)

        return await self._read(tenant_id, read)

    async def request(self, tenant_id: int, text: str) -> RequestRecord:
        """One request, by its id, that of its answer, or, if it is a recent one, 8 digits or more at either end of its
        id. Raises NotFound, the same for another's as for one that never was; Conflict if several have the digits."""

        def read(conn: Connection) -> RequestRecord:
            return _found(own_request(conn, tenant_id, request_meant(conn, text, tenant_id)))

        return await self._read(tenant_id, read)

    async def invoice(self, tenant_id: int, month: Month, papers: Paperwork) -> Invoice:
        """What it owes for one month."""
        return await self._read(tenant_id, lambda conn: invoice(conn, month, tenant_id, papers))

    async def _read(self, tenant_id: int, work: Callable[[Connection], T]) -> T:
        async with self._turns.turn(tenant_id):
            return await self._ledger.read(work, Lane.TENANTS)


def _found(record: RequestRecord | None, param: str | None = None) -> RequestRecord:
    if record is None:
        raise NotFound("this tenant has no request with this id", param=param)
    return record
