"""A ledger that only remembers, and is slow or broken as a test wants it; and a directory to go with it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from tenantd.domain import Tenant, Usage
from tenantd.ledger.audit import Entry, MakeEntry, columns
from tenantd.ledger.readers import Lane
from tenantd.ledger.schema import SCHEMA
from tenantd.periods import UTC_ZONE
from tenantd.tenancy.directory import Directory

T = TypeVar("T")


class MemoryLedger:
    """Close a gate to hold writes up; set an error to make them fail."""

    def __init__(self) -> None:
        self.healthy = True
        self.trouble = ""
        self.wal_bytes = 0
        self.stuck_s = 0.0
        self.anchor_status = None
        self.timezone = UTC_ZONE
        self.admissions: dict[str, Any] = {}
        self.settlements: dict[str, Any] = {}
        self.checkpoints: list[dict[str, Usage]] = []
        self.entries: list[Entry] = []  # of the audit trail, made with rows
        self.admit_gate = asyncio.Event()
        self.settle_gate = asyncio.Event()
        self.admit_gate.set()
        self.settle_gate.set()
        self.admit_error: Exception | None = None
        self.settle_error: Exception | None = None

    def end_reports(self) -> None:
        """There are none."""

    async def admit(self, admission: Any, entry: MakeEntry | None = None) -> None:
        await self.admit_gate.wait()
        if self.admit_error is not None:
            raise self.admit_error
        assert admission.id not in self.admissions, "one row for each request"
        self.admissions[admission.id] = admission
        self._append(entry)

    def checkpoint(self, usages: dict[str, Usage]) -> None:
        assert usages.keys() <= self.admissions.keys() - self.settlements.keys(), "only open rows are checkpointed"
        self.checkpoints.append(usages)

    async def read(self, work: Callable[[sqlite3.Connection], T], lane: Lane = Lane.LOOKUPS) -> T:
        """What a new ledger would answer."""
        with contextlib.closing(sqlite3.connect(":memory:")) as conn:
            for statement in SCHEMA:
                conn.execute(statement)
            return work(conn)

    async def settle(self, settlement: Any, admission: Any, entry: MakeEntry | None = None, uses: Any = None) -> Any:
        await self.settle_gate.wait()
        if self.settle_error is not None:
            raise self.settle_error
        assert admission == self.admissions[settlement.id], "a settlement knows its request"
        assert settlement.id not in self.settlements, "settled once"
        self.settlements[settlement.id] = settlement
        self._append(entry)
        return None

    def _append(self, make: MakeEntry | None) -> None:
        if make is not None:
            columns(entry := make())  # it can be stored
            self.entries.append(entry)


class MemoryDirectory(Directory):
    """Tenants by name; `reload` takes over what was put in `next_tenants`."""

    def __init__(self, *tenants: Tenant) -> None:
        super().__init__()
        self.next_tenants = {tenant.name: tenant for tenant in tenants}

    async def reload(self, ledger: Any) -> dict[str, Tenant]:
        before, self.tenants = self.tenants, dict(self.next_tenants)
        return before
