"""Opening: new files, foreign files, other versions, prices, and what a killed daemon left behind."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from decimal import Decimal
from pathlib import Path

import pytest

from tenantd.config import BillingConfig
from tenantd.domain import OnLimit, OwnLimits, Usage
from tenantd.errors import ConfigError, LedgerUnavailable
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.migrations import UPGRADES, VERSION, migrate
from tenantd.ledger.price_lists import set_prices
from tenantd.ledger.prices import all_prices
from tenantd.ledger.reports import usage_report
from tenantd.ledger.verify import verify_file
from tenantd.tenancy.tenants import list_tenants
from tests.ledger.books import BILLING, NOW_MICROS, add_prices, admission, ledger_in, open_ledger, record_of, settlement
from tests.ledger.old.kit import FOLDER
from tests.ledger.trails import tamper, trail_of

DEARER = BILLING.model_copy(update={"output_price_per_million": Decimal("0.80")})


async def price_count(ledger: Ledger) -> int:
    return len(await ledger.read(all_prices))


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"these are my notes, " * 500)
    with pytest.raises(LedgerUnavailable, match="damaged; stop tenantd and restore a backup"):
        open_ledger(path)
    assert path.read_bytes() == b"these are my notes, " * 500


def test_a_ledger_whose_pages_are_overwritten_is_refused(tmp_path: Path) -> None:
    async def make() -> None:
        async with ledger_in(tmp_path):
            pass

    asyncio.run(make())
    path = tmp_path / "ledger.db"
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 8000)
    with pytest.raises(LedgerUnavailable, match="damaged"):
        open_ledger(path)


@pytest.mark.parametrize("table", ["audit", "audit_head"])
def test_a_ledger_without_the_tables_of_its_audit_trail_is_not_used(tmp_path: Path, table: str) -> None:
    path = tmp_path / "ledger.db"

    async def make() -> None:
        async with ledger_in(tmp_path):
            pass

    asyncio.run(make())
    tamper(path, f"DROP TABLE {table}")
    with pytest.raises(ConfigError, match="restore a backup") as caught:
        open_ledger(path)
    assert caught.value.exit_code == 78


def test_a_trail_that_was_altered_while_it_is_off_is_continued_and_says_so(tmp_path: Path) -> None:
    async def main() -> list[str]:
        async with ledger_in(tmp_path):
            pass
        tamper(tmp_path / "ledger.db", "UPDATE audit_head SET hash = zeroblob(32)")
        ledger = open_ledger(tmp_path / "ledger.db", audits=False)
        events = [each.event for each in await ledger.read(trail_of)]
        await ledger.close(0.5)
        return events

    assert asyncio.run(main()) == ["begun", "continued", "switched_off"]
    finding = verify_file(tmp_path / "ledger.db").finding
    assert finding is not None and "continued" in finding.message


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE photos (name)")
    other.close()
    with pytest.raises(ConfigError, match="not one of tenantd"):
        open_ledger(path)


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async def make() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.write(lambda conn: conn.execute("PRAGMA user_version = 1000"))

    asyncio.run(make())
    with pytest.raises(ConfigError, match="newer tenantd"):
        open_ledger(tmp_path / "ledger.db")


@pytest.mark.parametrize("schema", [0, -1, -1000])
def test_a_ledger_that_says_to_have_a_schema_there_never_was_is_refused(tmp_path: Path, schema: int) -> None:
    async def make() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.write(lambda conn: conn.execute(f"PRAGMA user_version = {schema}"))

    asyncio.run(make())
    with pytest.raises(ConfigError, match=f"says that its schema is {schema} "):
        open_ledger(tmp_path / "ledger.db")


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match="No such file or directory"):
        open_ledger(tmp_path / "gone" / "ledger.db")


def test_a_ledger_that_another_program_locks_cannot_be_opened_until_it_lets_go(tmp_path: Path) -> None:
    async def make() -> None:
        async with ledger_in(tmp_path):
            pass

    asyncio.run(make())
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerUnavailable, match="another program holds a lock"):
        open_ledger(tmp_path / "ledger.db", busy_timeout_ms=10)
    other.execute("ROLLBACK")
    other.close()
    asyncio.run(make())


def test_a_migration_and_its_record_commit_together() -> None:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    version = migrate(conn, ":memory:")
    assert migrate(conn, ":memory:") == version == VERSION
    broken = [*UPGRADES, ("CREATE TABLE extra (x INTEGER) STRICT", "nonsense")]
    with pytest.raises(sqlite3.OperationalError):
        migrate(conn, ":memory:", broken)
    assert conn.execute("PRAGMA user_version").fetchone() == (version,)
    assert conn.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'extra'").fetchone() == (0,)
    assert migrate(conn, ":memory:", [*UPGRADES, ("CREATE TABLE extra (x INTEGER) STRICT",)]) == version + 1
    conn.close()


def first_ledger() -> sqlite3.Connection:
    """Of schema 1, empty."""
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.executescript((FOLDER / "first.sql").read_text("utf-8"))
    return conn


def test_tenants_of_an_earlier_schema_are_kept() -> None:
    conn = first_ledger()
    conn.execute("INSERT INTO tenants VALUES ('acme', 2.0, 'high', 'active', '[7]', '{}', 5)")
    migrate(conn, ":memory:")
    (acme,) = list_tenants(conn)
    assert (acme.name, acme.weight, acme.uids, acme.adapter, acme.created_micros) == ("acme", 2.0, (7,), "", 5)
    conn.close()


def test_limits_of_an_earlier_schema_take_the_defaults_where_there_were_none() -> None:
    conn = first_ledger()
    assert migrate(conn, ":memory:", UPGRADES[:1]) == 2
    rows = (
        ("a", '{"max_queued":null,"on_limit":"reject"}', OwnLimits()),
        ("b", '{"max_queued":3,"on_limit":"queue"}', OwnLimits(max_queued=3, on_limit=OnLimit.QUEUE)),
    )
    for name, limits, _ in rows:
        conn.execute("INSERT INTO tenants VALUES (?, 1.0, 'high', 'active', '[]', ?, 5, '')", (name, limits))
    migrate(conn, ":memory:")
    assert [tenant.own_limits for tenant in list_tenants(conn)] == [own for _, _, own in rows]
    assert not any(tenant.unbilled or tenant.allow_special for tenant in list_tenants(conn))
    conn.close()


def test_the_prices_of_the_file_are_read_only_while_there_is_no_list_and_differences_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        for billing in (BILLING, BILLING, BillingConfig()):  # what the last one does not say differs from nothing
            async with ledger_in(tmp_path, billing) as ledger:
                assert await price_count(ledger) == 1
        assert not caplog.records
        async with ledger_in(tmp_path, DEARER) as ledger:
            await ledger.admit(admission("r1"))
            assert (await ledger.settle(settlement("r1"))).output_nanos == 12_000
            assert await price_count(ledger) == 1
            [warned] = caplog.records
            assert warned.levelname == "WARNING"
            assert "output_price_per_million = 0.8, but 0.4 is in force" in warned.getMessage()
            assert warned.getMessage().endswith("tenantctl price set --output 0.8")
            await ledger.write(lambda conn: set_prices(conn, None, None, {"output_nanos_per_million": 9}, NOW_MICROS))
            ledger.reconfigure(BILLING.model_copy(update={"output_price_per_million": Decimal("0.4")}))
            await ledger.write(lambda _: None)
            assert [record.levelname for record in caplog.records[1:]] == ["INFO"], "they were changed since"
            assert caplog.records[-1].getMessage().endswith("tenantctl price set --output 0.4")
            ledger.reconfigure(BILLING.model_copy(update={"output_price_per_million": Decimal("0.000000009")}))
            await ledger.write(lambda _: None)
            assert len(caplog.records) == 2

    asyncio.run(main())


def test_a_row_keeps_the_price_it_was_settled_at(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            for name in ("r1", "r2"):
                await ledger.admit(admission(name))
            cheap = await ledger.settle(settlement("r1"))
            await ledger.write(lambda conn: add_prices(conn, DEARER, NOW_MICROS))
            dear = await ledger.settle(settlement("r2"))
            assert (cheap.price_id, cheap.output_nanos) == (1, 12_000)
            assert (dear.price_id, dear.output_nanos) == (2, 24_000)
            assert await record_of(ledger, "r1") == cheap
            prices = await ledger.read(all_prices)
            assert prices[2].effective_micros == NOW_MICROS

    asyncio.run(main())


def test_what_was_left_running_is_settled_at_the_prices_of_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            for name in ("r1", "r2", "r3"):
                await ledger.admit(admission(name))
            await ledger.settle(settlement("r1"))
            ledger.checkpoint({"r2": Usage(prompt_tokens=10, completion_tokens=20, engine_micros=3_600_000)})
            await ledger.write(lambda conn: add_prices(conn, DEARER, NOW_MICROS + 1))
        async with ledger_in(tmp_path) as ledger:
            assert ledger.interrupted == 2
            assert (await record_of(ledger, "r1")).state == "stop"
            used, unused = await record_of(ledger, "r2"), await record_of(ledger, "r3")
            assert (used.state, used.price_id) == ("interrupted", 1)
            assert used.duration_micros is None, "nobody measured it"
            (usage,) = await ledger.read(lambda conn: usage_report(conn, NOW_MICROS, NOW_MICROS + 90_001))
            assert (usage.interrupted, usage.average_duration_micros, usage.p99_duration_micros) == (2, 90_000, 90_000)
            assert (used.input_nanos, used.output_nanos, used.engine_nanos) == (1_000, 8_000, 1_500_000)
            assert (unused.state, unused.cost_nanos) == ("interrupted", 0)
        async with ledger_in(tmp_path) as ledger:
            assert ledger.interrupted == 0

    asyncio.run(main())


def test_the_currency_can_change_only_while_nothing_is_billed(tmp_path: Path) -> None:
    euro = BillingConfig(currency="EUR")

    async def main() -> None:
        async with ledger_in(tmp_path):
            pass
        async with ledger_in(tmp_path, euro) as ledger:
            assert {one.currency for one in (await ledger.read(all_prices)).values()} == {"EUR"}
            with pytest.raises(ConfigError, match="EUR to USD"):
                ledger.reconfigure(BILLING)
            await ledger.admit(admission("r1"))
            await ledger.settle(settlement("r1"))
        with pytest.raises(
            ConfigError, match=r"'EUR', or .* keeps tenants and keys: tenantctl ledger renew --currency"
        ):
            open_ledger(tmp_path / "ledger.db", BILLING)
        async with ledger_in(tmp_path, euro) as ledger:
            assert (await record_of(ledger, "r1")).state == "stop"

    asyncio.run(main())
