"""What the daemon does at its start, for a request and for lookups and short reports takes no longer in a large ledger.

Measured in instructions of SQLite's virtual machine, with few and with many requests of the same tenants from before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from sqlite3 import Connection
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

from tenantd.domain import Usage
from tenantd.errors import Conflict
from tenantd.ledger.accounted import add_up_rows
from tenantd.ledger.finalising import make_ready
from tenantd.ledger.idempotency import BATCH_KEYS, KeyedBody, keep_key, prune_keys
from tenantd.ledger.invoices import invoice, parse_month
from tenantd.ledger.lookups import own_request
from tenantd.ledger.paperwork import Paperwork
from tenantd.ledger.reports import last_minute, name_before, recent_requests, recent_usage, usage_report
from tenantd.ledger.requests import checkpoint_request, insert_request, interrupt_running, settle_request
from tenantd.ledger.resumption import resume
from tenantd.ledger.retention import open_since_micros
from tenantd.ledger.selection import WantedRequests, request_meant, select_requests
from tenantd.ledger.window import window_figures
from tenantd.tenancy.tenants import tenant_meant
from tests.ledger.bills import add_tenant
from tests.ledger.books import BILLING, add_prices, admission, memory_ledger, settlement

DAY: Final = 86_400_000_000
HOUR: Final = DAY // 24
NOW: Final = 1_793_750_000_000_000  # 3 November 2026
PAST: Final = NOW - 60 * DAY
LATEST: Final = 8
"""Requests of the last minutes."""
FEW, MANY = BATCH_KEYS, 10 * BATCH_KEYS
UTC: Final = ZoneInfo("UTC")
OCTOBER: Final = parse_month("2026-10", UTC, NOW)
LONG_AGO: Final = """WITH RECURSIVE row (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM row WHERE n + 1 < :rows)
    INSERT INTO requests (id, tenant, tenant_id, kind, model, state, created_micros, prompt_length_tokens, max_tokens,
    duration_micros, price_id, ended_micros)
    SELECT 'old_' || n, 'acme', 1, 'chat', 'tiny', 'stop', :at + n, 1, 1, 1, 1, :at + n + 1 FROM row"""


def ledger_of(rows: int) -> Connection:
    """This many requests and idempotency keys of long ago, and a few of the last minutes, one of which runs."""
    conn = memory_ledger()
    add_prices(conn, BILLING, 0)
    add_tenant(conn, 1, "acme", created_micros=PAST - DAY)
    conn.execute(LONG_AGO, {"rows": rows, "at": PAST})
    add_up_rows(conn)
    for number in range(rows):
        keep_key(conn, KeyedBody(tenant_id=1, key=f"old {number}", body_hash=bytes(32)), [], NOW - DAY + number)
    for number in range(LATEST):
        insert_request(conn, admission(f"r{number}", created_micros=NOW - (number + 1) * 20_000_000))
        if number:
            settle_request(conn, settlement(f"r{number}"))
    keep_key(conn, KeyedBody(tenant_id=1, key="k", body_hash=bytes(32)), ["r1"], NOW)
    return conn


@pytest.fixture(scope="module")
def ledgers() -> Iterator[tuple[Connection, Connection]]:
    with closing(ledger_of(FEW)) as few, closing(ledger_of(MANY)) as many:
        yield few, many


def instructions(conn: Connection, work: Callable[[Connection], object]) -> int:
    """What a piece of work takes, undone afterwards. Raises AssertionError if it does nothing."""
    count = 0

    def note() -> None:
        nonlocal count
        count += 1

    conn.execute("BEGIN")
    conn.set_progress_handler(note, 1)
    try:
        work(conn)
    finally:
        conn.set_progress_handler(None, 0)
        conn.execute("ROLLBACK")
    assert count, "it has read something"
    return count


def served(prompt_tokens: int, completion_tokens: int) -> float:
    return float(prompt_tokens + completion_tokens)


def late_tenant(conn: Connection) -> None:
    """Nothing is to be finalised for a tenant that did not exist in that month."""
    with pytest.raises(Conflict):
        make_ready(conn, parse_month("2026-08", UTC, NOW), 1, Paperwork())


def page(conn: Connection, at: str) -> None:
    assert own_request(conn, 1, at) is not None
    assert len(select_requests(conn, WantedRequests(tenant_id=1), 3, at).requests) == 3


def found(conn: Connection, count: int, **wanted: Any) -> None:
    assert len(select_requests(conn, WantedRequests(**wanted), 5).requests) == count


def begun_with(conn: Connection, digits: str) -> None:
    insert_request(conn, admission(f"req_{digits}{'f' * 24}"))
    assert request_meant(conn, f"req_{digits}").endswith("f")


WORKS: Final[dict[str, Callable[[Connection], object]]] = {
    "start: what was left running": lambda conn: interrupt_running(conn, NOW),
    "start: the last minute": lambda conn: last_minute(conn, NOW),
    "start: recent usage": lambda conn: recent_usage(conn, NOW, 600.0),
    "start: audit trail": lambda conn: resume(conn, NOW, is_on=True),
    "start: oldest open month": lambda conn: open_since_micros(conn, UTC, NOW),
    "admit": lambda conn: insert_request(conn, admission("new")),
    "checkpoint": lambda conn: checkpoint_request(conn, "r0", Usage(prompt_tokens=3)),
    "settle": lambda conn: settle_request(conn, settlement("r0")),
    "old idempotency keys": lambda conn: prune_keys(conn, NOW + DAY // 2),
    "name of a tenant": lambda conn: tenant_meant(conn, "acme"),
    "last name of a tenant": lambda conn: name_before(conn, 1, NOW),
    "newest requests": lambda conn: recent_requests(conn, None, 5),
    "newest requests of a tenant": lambda conn: recent_requests(conn, 1, 5),
    "one request": lambda conn: own_request(conn, 1, "r1"),
    "requests of a time long ago": lambda conn: found(conn, 2, since_micros=PAST + 3, until_micros=PAST + 5),
    "requests that run": lambda conn: found(conn, 1, state="running", tenant_id=1, ids=["r0", "r1"]),
    "one request by its beginning": lambda conn: begun_with(conn, "00000000"),
    "requests after the newest": lambda conn: page(conn, "r1"),
    "requests after an old one": lambda conn: page(conn, "old_50"),
    "usage": lambda conn: usage_report(conn, NOW - HOUR, NOW),
    "usage of a tenant": lambda conn: usage_report(conn, NOW - HOUR, NOW, 1),
    "figures": lambda conn: window_figures(conn, NOW - HOUR, NOW, {}, served),
    "figures of a tenant": lambda conn: window_figures(conn, NOW - DAY, NOW, {}, served, 1),
    "a month's invoice": lambda conn: invoice(conn, OCTOBER),
    "finalising for a tenant that came later": late_tenant,
}


@pytest.mark.parametrize("work", WORKS)
def test_nothing_takes_longer_for_requests_that_it_is_not_about(
    ledgers: tuple[Connection, Connection], work: str
) -> None:
    few, many = (instructions(conn, WORKS[work]) for conn in ledgers)
    assert many <= 1.5 * few + 100, f"{few} with {FEW} rows, {many} with {MANY}"
