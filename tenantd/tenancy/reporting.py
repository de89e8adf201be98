"""Reports as administrators ask for them: a tenant is named, and meant by its id."""

from __future__ import annotations

from collections.abc import Callable
from sqlite3 import Connection
from typing import Final, TypeVar

import msgspec

from tenantd import clock
from tenantd.errors import NotFound
from tenantd.ledger.audit import read_head
from tenantd.ledger.evenness import Service
from tenantd.ledger.findings import Finding, recent_findings
from tenantd.ledger.grouped import Grouping, UsageGroup, usage_by
from tenantd.ledger.ledger import Lane, Ledger
from tenantd.ledger.reports import TenantUsage, usage_report
from tenantd.ledger.selection import FoundRequests, WantedRequests, select_requests
from tenantd.ledger.trail import MOST_ENTRIES_READ, AuditRecord, Portion, Wanted, select
from tenantd.ledger.window import WindowFigures, window_figures
from tenantd.request_ids import request_id_in
from tenantd.tenancy.audit_keys import audit_key, tenant_of_name
from tenantd.tenancy.fingerprints import of_text, of_tokens
from tenantd.tenancy.key_parts import key_meant
from tenantd.tenancy.known_tenants import known_tenants
from tenantd.tenancy.recorded import ENTERED, RESPONSE
from tenantd.tenancy.request_life import RequestLife, request_life
from tenantd.tenancy.tenants import tenant_meant

T = TypeVar("T")


MOST_MATCHES: Final = 1000


class Matches(msgspec.Struct, frozen=True, kw_only=True):
    """Entries that have a hash, oldest first. Unless `is_complete` there may be more."""

    tenant: str
    tenant_id: int
    entries: list[AuditRecord]
    is_complete: bool


class Reporting:
    """Of all tenants, or of the one that has a name, or else of the last that had it.

    All raise NotFound for a name that no tenant ever had, and what `Ledger.read` raises.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def usage(self, since_micros: int, until_micros: int, tenant: str | None) -> list[TenantUsage]:
        """Of requests that ended from `since_micros` until before `until_micros`. May take long."""
        return await self._read(
            lambda conn, number: usage_report(conn, since_micros, until_micros, number), tenant, Lane.REPORTS
        )

    async def usage_by(
        self, grouping: Grouping, since_micros: int, until_micros: int, tenant: str | None
    ) -> list[UsageGroup]:
        """The same, by day, hour, …. Raises InvalidRequest for too many hours. May take long."""
        timezone = self._ledger.timezone
        return await self._read(
            lambda conn, number: usage_by(conn, grouping, since_micros, until_micros, timezone, number),
            tenant,
            Lane.REPORTS,
        )

    async def figures(
        self, since_micros: int, until_micros: int, tenant: str | None, service: Service
    ) -> WindowFigures:
        """How much, how fast, and who had which share, until a time that is not in the future. May take long."""
        timezone = self._ledger.timezone

        def read(conn: Connection, number: int | None) -> WindowFigures:
            known = known_tenants(conn, clock.now_micros(), timezone)
            return window_figures(conn, since_micros, until_micros, known, service, number)

        return await self._read(read, tenant, Lane.REPORTS)

    async def requests(
        self, wanted: WantedRequests, tenant: str | None, most: int, after_id: str | None
    ) -> FoundRequests:
        """The newest first: those after one of them, or the first. Takes a fraction of a second; the rest has to be
        asked for. Raises NotFound for an `after_id` without a row."""

        def read(conn: Connection, number: int | None) -> FoundRequests:
            key_id = None if wanted.key_id is None else key_meant(conn, wanted.key_id)
            chosen = msgspec.structs.replace(wanted, tenant_id=number, key_id=key_id)
            return select_requests(conn, chosen, most, after_id)

        return await self._read(read, tenant)

    async def request(self, text: str) -> RequestLife:
        """All that is known of one, by its id, that of its answer, or 8 digits or more at either end of its id.

        Raises NotFound, Conflict. May take a second for an end.
        """
        lane = Lane.LOOKUPS if request_id_in(text) else Lane.REPORTS
        return await self._ledger.read(lambda conn: request_life(conn, text), lane)

    async def anomalies(self, tenant: str | None, since_micros: int, most: int) -> list[Finding]:
        """What the anomaly watch found since a time, the newest first."""
        return await self._read(lambda conn, number: recent_findings(conn, number, since_micros, most), tenant)

    async def audit(
        self,
        wanted: Wanted,
        tenant: str | None,
        tenant_id: int | None = None,
        *,
        limit: int,
        after: int | None,
        before: int | None,
    ) -> tuple[Portion, int]:
        """Entries of the audit trail after `after`, oldest first, or else those before `before`, newest first; without
        either, from the newest. Also the number of the newest when it began to look. With `tenant_id`, of that tenant,
        which has or had the name.

        Takes a fraction of a second; if it takes longer to find `limit` entries, the portion says where to go on.
        """

        def read(conn: Connection) -> tuple[Portion, int]:
            number = None if tenant is None else tenant_of_name(conn, tenant, tenant_id)
            head = read_head(conn)
            of_tenant = msgspec.structs.replace(wanted, tenant_id=number)
            is_newest_first = after is None
            found = select(conn, of_tenant, limit=limit, after=after, before=before, is_newest_first=is_newest_first)
            return found, 0 if head is None else head.number

        return await self._ledger.read(read, Lane.LOOKUPS)

    async def matches(
        self, wanted: Wanted, tenant: str, tenant_id: int | None, prompts: list[list[int]], texts: list[str]
    ) -> Matches:
        """Entries of a tenant with the hash of one of these prompts, or of one of these answers.

        It is the tenant of this name, or the last removed one, or that with `tenant_id`. Raises NotFound, also if it
        was forgotten. May take long.
        """

        def read(conn: Connection) -> Matches:
            number = tenant_of_name(conn, tenant, tenant_id)
            if (key := audit_key(conn, number)) is None:
                raise NotFound(f"tenant {tenant} (id {number}) was forgotten: its past hashes can no longer be matched")
            hashes = {of_tokens(key, prompt) for prompt in prompts} | {of_text(key, text) for text in texts}
            field, event = ("text_hmac", RESPONSE) if texts else ("prompt_hmac", ENTERED)
            of_tenant = msgspec.structs.replace(wanted, tenant_id=number, event=event)
            found: list[AuditRecord] = []
            place: int | None = 0
            while place is not None and len(found) < MOST_MATCHES:
                portion = select(conn, of_tenant, limit=MOST_ENTRIES_READ, after=place)
                found += [entry for entry in portion.entries if entry.detail.get(field) in hashes]
                place = portion.next
            return Matches(tenant=tenant, tenant_id=number, entries=found[:MOST_MATCHES], is_complete=place is None)

        return await self._ledger.read(read, Lane.REPORTS)

    async def _read(
        self, work: Callable[[Connection, int | None], T], tenant: str | None, lane: Lane = Lane.LOOKUPS
    ) -> T:
        def read(conn: Connection) -> T:
            return work(conn, None if tenant is None else tenant_meant(conn, tenant))

        return await self._ledger.read(read, lane)
