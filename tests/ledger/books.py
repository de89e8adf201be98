"""Ledgers and their contents for tests."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from tenantd.config import BillingConfig
from tenantd.domain import FinishReason, Usage
from tenantd.ledger.configured import list_of
from tenantd.ledger.ledger import Admitted, Ledger, RequestRecord, Settlement
from tenantd.ledger.migrations import migrate
from tenantd.ledger.price_lists import AMOUNTS
from tenantd.ledger.prices import insert_prices, latest_prices
from tenantd.ledger.requests import get_request

NOW_MICROS = 1_790_000_000_000_000  # a moment in September 2026
BILLING = BillingConfig(engine_hour_price=Decimal("1.5"))


def open_ledger(path: Path, billing: BillingConfig = BILLING, **options: Any) -> Ledger:
    return Ledger.open(path, billing, lambda: NOW_MICROS, **options)


@asynccontextmanager
async def ledger_in(folder: Path, billing: BillingConfig = BILLING) -> AsyncIterator[Ledger]:
    """A ledger that gives up on a lock at once, and is closed."""
    ledger = open_ledger(folder / "ledger.db", billing, busy_timeout_ms=10)
    try:
        yield ledger
    finally:
        await ledger.close(0.5)


def memory_ledger() -> sqlite3.Connection:
    """The schema without a file or a thread."""
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.execute("PRAGMA foreign_keys = ON")
    migrate(conn, ":memory:")
    return conn


def add_prices(conn: sqlite3.Connection, billing: BillingConfig, at_micros: int) -> None:
    """Prices of all tenants from a moment on, unless the last list has the same."""
    prices, latest = list_of(billing, at_micros), latest_prices(conn)
    if latest is None or any(getattr(prices, name) != getattr(latest, name) for name in AMOUNTS):
        insert_prices(conn, prices)


TENANT_IDS = {"acme": 1, "globex": 2}


def admission(request_id: str, **changes: Any) -> Admitted:
    name = changes.get("tenant", "acme")
    defaults: dict[str, Any] = {
        "tenant": name,
        "tenant_id": TENANT_IDS.setdefault(name, len(TENANT_IDS) + 1),
        "kind": "chat",
        "model": "tiny",
        "created_micros": NOW_MICROS,
        "prompt_length_tokens": 12,
        "max_tokens": 64,
    }
    return Admitted(id=request_id, **{**defaults, **changes})


def settlement(request_id: str, usage: Usage | None = None, **changes: Any) -> Settlement:
    defaults: dict[str, Any] = {
        "state": FinishReason.STOP,
        "usage": usage or Usage(prompt_tokens=12, completion_tokens=30, engine_micros=40_000),
        "first_token_micros": 15_000,
        "duration_micros": 90_000,
    }
    return Settlement(id=request_id, **{**defaults, **changes})


async def record_of(ledger: Ledger, request_id: str) -> RequestRecord:
    return await ledger.read(lambda conn: get_request(conn, request_id))


async def count_rows(ledger: Ledger) -> int:
    return await ledger.read(lambda conn: int(conn.execute("SELECT count(*) FROM requests").fetchone()[0]))


async def until(fact: Callable[[], bool], timeout_s: float = 120) -> None:
    """Raises TimeoutError when it does not come true."""
    async with asyncio.timeout(timeout_s):
        while not fact():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def writer_held(ledger: Ledger) -> AsyncIterator[None]:
    """Everything asked of the writer inside waits until the end, and is then taken at once."""
    begun, may_end = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        begun.set()
        assert may_end.wait(120)

    holding = asyncio.create_task(ledger.write(hold))
    await until(begun.is_set)
    try:
        yield
    finally:
        may_end.set()
        await holding
