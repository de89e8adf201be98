"""Ledgers with ended requests, for tests of invoices."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from tenantd.domain import Usage
from tenantd.ledger.invoices import Month, parse_month
from tenantd.ledger.prices import insert_prices
from tenantd.ledger.records import PriceList
from tenantd.ledger.requests import insert_request, settle_request
from tenantd.periods import EPOCH
from tests.ledger.books import admission, memory_ledger, settlement

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
USED = Usage(prompt_tokens=12, completion_tokens=30, engine_micros=40_000)


def at(text: str) -> int:
    """Microseconds since 1970 of a time in UTC."""
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


NOW = at("2026-12-05 12:00")
UTC_ZONE = ZoneInfo("UTC")


def month(text: str, zone: str = "UTC", now_micros: int = NOW) -> Month:
    return parse_month(text, ZoneInfo(zone), now_micros)


NOVEMBER = month("2026-11")


def price_list(**changes: Any) -> PriceList:
    defaults = {
        "id": 0,
        "currency": "USD",
        "input_nanos_per_million": 100_000_000,
        "output_nanos_per_million": 400_000_000,
        "engine_hour_nanos": 1_500_000_000,
        "effective_micros": 0,
    }
    return PriceList(**{**defaults, **changes})


@contextmanager
def ledger(*lists: PriceList) -> Iterator[sqlite3.Connection]:
    """A ledger with these price lists, or one."""
    with closing(memory_ledger()) as conn:
        for one in lists or (price_list(),):
            insert_prices(conn, one)
        yield conn


def add_tenant(conn: sqlite3.Connection, tenant_id: int, name: str, **columns: Any) -> None:
    defaults = {"weight": 1, "priority": "standard", "state": "active", "uids": "[]", "limits": "{}"}
    values = {"id": tenant_id, "name": name, "created_micros": 0, **defaults, **columns}
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    conn.execute(f"INSERT INTO tenants ({names}) VALUES ({marks})", list(values.values()))


def add(conn: sqlite3.Connection, name: str, ended: int | str, usage: Usage = USED, **changes: Any) -> None:
    """A request that took a second, or `lasted` microseconds, and ended then."""
    ended_micros = at(ended) if isinstance(ended, str) else ended
    lasted = changes.pop("lasted", SECOND)
    insert_request(conn, admission(name, created_micros=ended_micros - lasted, **changes))
    settle_request(conn, settlement(name, usage, duration_micros=lasted))


def no_record(document: Any, sha256: str) -> None:
    """There is no audit trail."""
    return
