"""Begins a ledger anew, in another currency: with the tenants, keys and audit trail of the present one, and without its
money. The present ledger is kept beside it.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from tenantd.domain import BudgetUnit
from tenantd.errors import ConfigError, LedgerUnavailable
from tenantd.ledger.audit import RENEWED, Entry, append
from tenantd.ledger.copies import put_in_place, sync
from tenantd.ledger.database import connect_writer, explain, truncate_log
from tenantd.ledger.files import dated
from tenantd.ledger.half_done import RENEWED as READY
from tenantd.ledger.half_done import remove_ready, undo_half_done
from tenantd.ledger.migrations import APPLICATION_ID, VERSION, migrate
from tenantd.ledger.prices import latest_prices
from tenantd.ledger.unsettled import FILE_NAME as UNSETTLED_NAME

BUSY_TIMEOUT_MS: Final = 1000
WAIT_S: Final = 2.0
_WITHOUT_MONEY: Final = f"unit <> '{BudgetUnit.MONEY.value}'"
_BUDGET_KEPT: Final = f"budget_id IN (SELECT id FROM old.budgets WHERE {_WITHOUT_MONEY})"
_KEPT: Final = {
    "tenants": "true",
    "keys": "true",
    "audit": "true",
    "anomalies": "true",
    "budgets": _WITHOUT_MONEY,
    "budget_uses": _BUDGET_KEPT,
    "budget_topups": _BUDGET_KEPT,
}
"""Tables that a renewed ledger keeps, and which of their rows."""


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """What was done. `kept` is the file of the old ledger; budgets in money were not taken over."""

    ledger: str
    kept: str
    currency_before: str
    currency: str
    tenants: int
    keys: int
    requests_left: int
    invoices_left: int
    tenants_with_own_prices: list[str]
    tenants_with_money_budgets: list[str]


def renew(ledger: Path, currency: str, now_micros: int) -> Renewed:
    """Put a new ledger in the place of this one. The caller holds the lock of the state folder.

    At every moment there is a complete ledger. Raises ConfigError if it cannot be renewed as it is, and
    LedgerUnavailable.
    """
    if not ledger.is_file():
        raise ConfigError(f"{ledger}: no such file; there is nothing to renew")
    unsettled = ledger.with_name(UNSETTLED_NAME)
    if unsettled.exists() and unsettled.stat().st_size:
        raise ConfigError(f"{unsettled} holds requests that are not settled yet; start tenantd once, and stop it again")
    kept = dated(ledger.parent, f"{ledger.name}.renewed")
    ready = ledger.with_name(ledger.name + READY)
    try:
        undo_half_done(ledger)
        with closing(connect_writer(ledger, BUSY_TIMEOUT_MS)) as old:
            before = _checked(old, ledger, currency)
            if not truncate_log(old, WAIT_S, BUSY_TIMEOUT_MS):
                raise ConfigError(f"another program reads {ledger}; close it")
        renewed = _fill(ready, ledger, kept, before, currency, now_micros)
        sync(ready)
        os.link(ledger, kept)
        put_in_place(ready, ledger)
    except sqlite3.Error as e:
        raise LedgerUnavailable(f"cannot renew the ledger: {explain(e, ledger)}") from e
    except OSError as e:
        raise ConfigError(f"cannot renew the ledger: {e.filename}: {e.strerror}") from e
    finally:
        remove_ready(ledger, READY)
    return renewed


def _checked(conn: sqlite3.Connection, ledger: Path, currency: str) -> str:
    """Its currency. Raises ConfigError."""
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise ConfigError(f"{ledger} is not a ledger of tenantd")
    if version != VERSION:
        raise ConfigError(f"{ledger} has schema {version}; start this version of tenantd once, and stop it again")
    if conn.execute("SELECT 1 FROM requests WHERE state = 'running' LIMIT 1").fetchone() is not None:
        raise ConfigError(f"{ledger} holds requests that are not settled yet; start tenantd once, and stop it again")
    prices = latest_prices(conn)
    if prices is None or prices.currency == currency:
        raise ConfigError(f"{ledger} is in {currency} already")
    return prices.currency


def _fill(ready: Path, ledger: Path, kept: Path, before: str, currency: str, now_micros: int) -> Renewed:
    """Make the new ledger. Raises sqlite3.Error."""
    with closing(connect_writer(ready, BUSY_TIMEOUT_MS)) as conn:
        migrate(conn, str(ready))
        conn.execute("ATTACH ? AS old", (str(ledger),))
        conn.execute("BEGIN IMMEDIATE")
        for table, which in _KEPT.items():
            columns = ", ".join(row[1] for row in conn.execute(f"PRAGMA table_info({table})"))
            conn.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM old.{table} WHERE {which}")
        head = "number, hash, pruned_number, pruned_hash, prunable_number"
        conn.execute(f"UPDATE main.audit_head SET ({head}) = (SELECT {head} FROM old.audit_head)")
        conn.execute("DELETE FROM main.sqlite_sequence")  # ids of tenants and budgets are never given again
        conn.execute("INSERT INTO main.sqlite_sequence SELECT * FROM old.sqlite_sequence")
        renewed = Renewed(
            ledger=str(ledger),
            kept=str(kept),
            currency_before=before,
            currency=currency,
            tenants=_count(conn, "main.tenants WHERE state <> 'removed'"),
            keys=_count(conn, "main.keys"),
            requests_left=_count(conn, "old.requests"),
            invoices_left=_count(conn, "old.invoices"),
            tenants_with_own_prices=_names(conn, "old.prices"),
            tenants_with_money_budgets=_names(conn, f"old.budgets WHERE NOT {_WITHOUT_MONEY}"),
        )
        detail = {"by": {"uid": os.getuid(), "pid": os.getpid(), "key_id": None}, **msgspec.to_builtins(renewed)}
        append(conn, [Entry(at_micros=now_micros, event=RENEWED, detail=detail)])
        conn.execute("COMMIT")
        conn.execute("DETACH old")
        truncate_log(conn, 0, BUSY_TIMEOUT_MS)
    return renewed


def _count(conn: sqlite3.Connection, rows: str) -> int:
    return int(conn.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])


def _names(conn: sqlite3.Connection, rows: str) -> list[str]:
    """Of the tenants, not removed, that these rows are of."""
    query = f"""SELECT name FROM main.tenants WHERE state <> 'removed' AND id IN (SELECT tenant_id FROM {rows})
        ORDER BY name"""
    return [str(row[0]) for row in conn.execute(query)]
