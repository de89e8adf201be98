"""A ledger that is begun anew in another currency: what it keeps, what it leaves, and when it is refused."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tenantd.config import BillingConfig
from tenantd.domain import Tenant
from tenantd.errors import ConfigError
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.price_lists import set_prices
from tenantd.ledger.prices import all_prices
from tenantd.ledger.renewal import renew
from tenantd.ledger.unsettled import FILE_NAME
from tenantd.ledger.verify import verify_file
from tenantd.tenancy.keys import create_key, list_keys
from tenantd.tenancy.tenants import add_tenant, list_tenants, remove_tenant
from tests.ledger.books import BILLING, NOW_MICROS, admission, count_rows, ledger_in, settlement

EURO = BillingConfig(currency="EUR")
BUDGETS = """INSERT INTO budgets (tenant_id, period, unit, amount, warn, set_micros)
    VALUES (1, 'monthly', 'tokens', 7, '', 0), (1, 'monthly', 'money', 8, '', 0), (2, 'daily', 'engine', 9, '', 0)"""
USES = "INSERT INTO budget_uses (budget_id, since_micros, used) VALUES (1, 0, 3), (2, 0, 4)"


def fill(conn: sqlite3.Connection) -> None:
    """Two tenants and a removed one, keys, budgets, and prices of one tenant."""
    for name in ("acme", "globex", "gone"):
        add_tenant(conn, Tenant(name=name))
        create_key(conn, name, "first", NOW_MICROS)
    remove_tenant(conn, "gone", NOW_MICROS)
    conn.execute(BUDGETS)
    conn.execute(USES)
    set_prices(conn, 1, None, {"output_nanos_per_million": 5}, NOW_MICROS)


def ledger_with_money(folder: Path) -> Path:
    async def main() -> None:
        async with ledger_in(folder) as ledger:
            await ledger.write(fill)
            await ledger.admit(admission("r1"))
            await ledger.settle(settlement("r1"))

    asyncio.run(main())
    return folder / "ledger.db"


def test_tenants_keys_and_the_trail_are_kept_and_the_money_stays_in_the_old_ledger(tmp_path: Path) -> None:
    path = ledger_with_money(tmp_path)
    with pytest.raises(ConfigError, match="tenantctl ledger renew --currency EUR"):
        Ledger.open(path, EURO, lambda: NOW_MICROS)
    renewed = renew(path, "EUR", NOW_MICROS)
    assert (renewed.tenants, renewed.keys, renewed.requests_left) == (2, 3, 1)
    assert (renewed.tenants_with_own_prices, renewed.tenants_with_money_budgets) == (["acme"], ["acme"])

    async def check() -> None:
        async with ledger_in(tmp_path, EURO) as ledger:
            assert [tenant.name for tenant in await ledger.read(list_tenants)] == ["acme", "globex"]
            assert len(await ledger.read(lambda conn: list_keys(conn, 1))) == 1
            assert await count_rows(ledger) == 0
            assert [one.currency for one in (await ledger.read(all_prices)).values()] == ["EUR"]
            uses = "budgets LEFT JOIN budget_uses ON budget_id = id ORDER BY id, since_micros"
            query = f"SELECT unit, amount, used FROM {uses}"
            kept = await ledger.read(lambda conn: conn.execute(query).fetchall())
            assert kept == [("tokens", 7, 3), ("tokens", 7, 42), ("engine", 9, None)]
            added = await ledger.write(lambda conn: add_tenant(conn, Tenant(name="new")))
            assert added.id == 4, "the id of a removed tenant is not given again"
            await ledger.admit(admission("r1"))
            await ledger.settle(settlement("r1"))

    asyncio.run(check())
    assert path.stat().st_mode & 0o777 == 0o600
    assert verify_file(path).finding is None
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT count(*) FROM audit WHERE event = 'renewed'").fetchone() == (1,)
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
    kept_path = Path(renewed.kept)
    with closing(sqlite3.connect(kept_path)) as old:
        assert old.execute("SELECT count(*) FROM requests").fetchone() == (1,)
    kept_path.rename(tmp_path / "old.db")
    Path(tmp_path / "old").mkdir()
    (tmp_path / "old.db").rename(tmp_path / "old" / "ledger.db")

    async def reopen() -> None:
        async with ledger_in(tmp_path / "old") as ledger:
            assert await count_rows(ledger) == 1

    asyncio.run(reopen())


def test_what_is_not_settled_or_in_use_or_in_this_currency_is_refused_and_untouched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        renew(tmp_path / "ledger.db", "EUR", NOW_MICROS)
    path = ledger_with_money(tmp_path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="in USD already"):
        renew(path, "USD", NOW_MICROS)
    (tmp_path / FILE_NAME).write_text("{}")
    with pytest.raises(ConfigError, match="not settled yet; start tenantd once"):
        renew(path, "EUR", NOW_MICROS)
    (tmp_path / FILE_NAME).unlink()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA user_version = 7")
        with pytest.raises(ConfigError, match="has schema 7; start this version"):
            renew(path, "EUR", NOW_MICROS)
        other.execute("PRAGMA user_version = 8")
    assert path.read_bytes()[100:] == before[100:]
    assert {file.name for file in tmp_path.iterdir()} <= {
        "ledger.db",
        "unsettled.reserve",
        "ledger.db-wal",
        "ledger.db-shm",
    }


def test_a_ledger_that_a_killed_daemon_left_must_be_settled_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path, BILLING) as ledger:
            await ledger.admit(admission("r1"))

    asyncio.run(main())
    with pytest.raises(ConfigError, match="not settled yet"):
        renew(tmp_path / "ledger.db", "EUR", NOW_MICROS)
