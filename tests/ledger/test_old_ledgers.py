"""Ledgers of earlier schemas: brought up to date, they say what they said."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tenantd.errors import ConfigError
from tenantd.ledger import tenant_ids
from tenantd.ledger.buckets import RELATIVE_ERROR
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.migrations import UPGRADES, VERSION, migrate
from tenantd.ledger.prices import all_prices, prices_at
from tenantd.ledger.reports import recent_requests
from tests.ledger.books import memory_ledger
from tests.ledger.old.kit import FOLDER, NOW_MICROS, ledger_of, said, without_new
from tests.ledger.old.make import PRICES

SCHEMAS = sorted(int(path.stem.removeprefix("schema_")) for path in FOLDER.glob("schema_*.sql"))
ROOT = Path(__file__).parents[2]
PERCENTILE = re.compile(r"p\d+_\w+_micros")
GROW = """INSERT INTO requests (id, tenant, kind, model, state, created_micros, prompt_length_tokens, max_tokens,
    prompt_tokens, completion_tokens, engine_micros, first_token_micros, duration_micros, price_id, input_nanos,
    output_nanos, engine_nanos, error, unbilled, interrupted_micros)
    SELECT requests.id || '-' || n.value, tenant, kind, model, state, created_micros, prompt_length_tokens, max_tokens,
    prompt_tokens, completion_tokens, engine_micros, first_token_micros, duration_micros, price_id, input_nanos,
    output_nanos, engine_nanos, error, unbilled, interrupted_micros
    FROM requests, json_each(?) AS n WHERE state <> 'running'"""


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA foreign_keys = ON")
        yield conn


def tables(conn: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """Every table and index, however its definition is spaced."""
    rows = conn.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")
    return [(*row[:3], " ".join((row[3] or "").split()).replace(" )", ")").replace(" ,", ",")) for row in rows]


def old_rows(conn: sqlite3.Connection) -> list[list[tuple[Any, ...]]]:
    """All that schema 5 had in its tables."""
    requests = ", ".join(row[1] for row in conn.execute("PRAGMA table_info(requests)") if row[1] not in NEW)
    return [
        conn.execute(f"SELECT {requests} FROM requests ORDER BY number").fetchall(),
        conn.execute(
            """SELECT id, currency, input_nanos_per_million, output_nanos_per_million, engine_hour_nanos,
            effective_micros FROM prices ORDER BY id"""
        ).fetchall(),
        conn.execute(
            """SELECT name, weight, priority, state, uids, limits, created_micros, adapter, unbilled, allow_special
            FROM tenants ORDER BY name"""
        ).fetchall(),
        conn.execute(
            "SELECT id, tenant, hash, prefix, label, created_micros, revoked_micros FROM keys ORDER BY id"
        ).fetchall(),
    ]


NEW = (
    *("tenant_id", "key_id", "uid", "adapter", "ended_micros", "queue_micros", "prefill_micros", "cached_tokens"),
    *("kv_token_micros", "swaps", "cached_nanos", "free_nanos", "waived_nanos", "cause"),
    *("free_prompt_tokens", "free_completion_tokens", "billed_micros", "energy_millijoules"),
)
"""Columns of requests that schemas after 5 added."""


@pytest.mark.parametrize("schema", SCHEMAS)
def test_reports_are_what_they_were(schema: int, tmp_path: Path) -> None:
    before = json.loads((FOLDER / f"said_{schema}.json").read_text("utf-8"))
    assert {row["state"] for row in before["requests"]} >= {"running", "interrupted", "stop", "failed"}
    with opened(ledger_of(schema, tmp_path)) as conn:
        migrate(conn, "ledger.db")
        now = said(conn)
    assert now.keys() == before.keys()
    for what, each in before.items():
        if what.startswith("invoices"):
            continue  # their months are now those of the ends: test_old_invoices.py
        assert without_new(each, now[what]) == within_error(each, now[what]), what


def within_error(before: Any, now: Any, name: str = "") -> Any:
    """`before`, where percentiles that are as close as buckets are have the value that they have in `now`.

    They were exact before schema 8; over more than an hour they come from buckets.
    """
    if isinstance(before, dict):
        return {key: within_error(value, now[key], key) for key, value in before.items()}
    if isinstance(before, list) and len(before) == len(now):
        return [within_error(*pair) for pair in zip(before, now, strict=True)]
    if PERCENTILE.fullmatch(name) and before is not None and now is not None:
        return now if abs(now - before) <= before * RELATIVE_ERROR + 1 else before
    return before


def test_every_row_is_kept_and_the_tables_are_those_of_a_new_ledger(tmp_path: Path) -> None:
    with opened(ledger_of(5, tmp_path)) as conn, closing(memory_ledger()) as new:
        before = old_rows(conn)
        assert migrate(conn, "ledger.db") == VERSION
        assert old_rows(conn) == before
        assert tables(conn) == tables(new)
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
        whose = "SELECT count(*) FROM requests JOIN tenants ON tenants.id = tenant_id AND tenants.name = tenant"
        assert conn.execute(whose).fetchone()[0] == len(before[0])
        assert {row.tenant_id for row in recent_requests(conn, None, 1000)} == {1, 2, 3, 4, 5}
        conn.execute("UPDATE requests SET kind = 'poem', state = 'sung' WHERE number = 1")  # checked by the program


def test_the_work_of_an_upgrade_does_not_grow_with_requests_times_tenants(tmp_path: Path) -> None:
    with opened(ledger_of(5, tmp_path)) as conn:
        conn.execute(GROW, (json.dumps(list(range(10))),))
        conn.execute(
            """INSERT INTO tenants (name, weight, priority, state, uids, limits, created_micros)
            SELECT 'many-' || value, 1, 'standard', 'active', '[]', '{}', 5 FROM json_each(?)""",
            (json.dumps(list(range(2000))),),
        )
        (requests,) = conn.execute("SELECT count(*) FROM requests").fetchone()
        assert requests > 1000
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        conn.set_progress_handler(count, 1000)
        migrate(conn, "ledger.db")
        assert steps < (requests + 2000) * 250 / 1000, "instructions of SQLite, in thousands"


ALTERED = (
    ("ALTER TABLE requests ADD COLUMN note TEXT", "requests (unexpected note TEXT)", True),
    ("ALTER TABLE requests ADD COLUMN twice INTEGER AS (2 * max_tokens)", "requests (unexpected twice INTEGER)", True),
    ("ALTER TABLE tenants ADD COLUMN owner TEXT", "tenants (unexpected owner TEXT)", True),
    ("ALTER TABLE keys ADD COLUMN used INTEGER", "keys (unexpected used INTEGER)", True),
    ("ALTER TABLE requests DROP COLUMN interrupted_micros", "requests (missing interrupted_micros INTEGER)", False),
    ("ALTER TABLE keys RENAME COLUMN label TO name", "keys (unexpected name TEXT; missing label TEXT)", False),
)


@pytest.mark.parametrize(("statement", "says", "can_be_mended"), ALTERED)
def test_a_ledger_whose_columns_were_altered_is_refused_untouched_with_what_to_do(
    tmp_path: Path, statement: str, says: str, can_be_mended: bool
) -> None:
    path = ledger_of(5, tmp_path)
    with opened(path) as conn:
        conn.execute(statement)
        conn.execute("PRAGMA journal_mode = WAL")
    before = path.read_bytes()
    with pytest.raises(ConfigError) as refused:
        Ledger.open(path, PRICES[2], lambda: NOW_MICROS)
    assert f"{path} cannot be upgraded" in refused.value.message and says in refused.value.message
    assert path.read_bytes() == before
    told = re.findall("'(.*)'", refused.value.message)
    assert bool(told) == can_be_mended
    if can_be_mended:
        with opened(path) as conn:
            conn.executescript(told[0])
            assert migrate(conn, str(path)) == VERSION
            assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_an_altered_ledger_of_an_earlier_schema_is_refused_before_its_first_upgrade() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        conn.executescript((FOLDER / "first.sql").read_text("utf-8"))
        conn.execute("ALTER TABLE requests ADD COLUMN unbilled INTEGER")  # as a later schema has it
        with pytest.raises(ConfigError, match=r"requests \(unexpected unbilled INTEGER\)"):
            migrate(conn, "ledger.db")
        assert conn.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_connection_that_was_open_reads_the_new_tables(tmp_path: Path) -> None:
    path = ledger_of(5, tmp_path)
    with opened(path) as other:
        assert len(other.execute("SELECT * FROM requests").fetchone()) == 21  # it has read the schema
        with opened(path) as conn:
            migrate(conn, "ledger.db")
        other.execute("UPDATE requests SET kind = 'poem' WHERE number = 1")
        assert len(other.execute("SELECT * FROM requests").fetchone()) == 39
    with opened(path) as conn, pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
        conn.execute("UPDATE requests SET tenant_id = NULL")


def test_requests_of_a_tenant_that_is_not_in_the_ledger_are_a_removed_tenants(tmp_path: Path) -> None:
    with opened(ledger_of(5, tmp_path)) as conn:
        conn.execute("PRAGMA foreign_keys = OFF")
        conn.execute("DELETE FROM tenants WHERE name = 'umbrella'")
        conn.execute("DELETE FROM keys WHERE tenant = 'umbrella'")
        migrate(conn, "ledger.db")
        ids = {row.tenant: row.tenant_id for row in recent_requests(conn, None, 1000)}
        query = "SELECT name, state FROM tenants WHERE id = ?"
        assert conn.execute(query, (ids["umbrella"],)).fetchone() == ("umbrella", "removed")
        assert sorted(ids.values()) == [1, 2, 3, 4, 5]


def test_a_start_settles_what_the_old_program_had_set_aside(tmp_path: Path) -> None:
    async def main() -> None:
        ledger = Ledger.open(ledger_of(5, tmp_path), PRICES[2], lambda: NOW_MICROS)
        assert (ledger.taken_in, ledger.rejected, ledger.interrupted) == (3, 0, 2)
        rows = await ledger.read(lambda conn: recent_requests(conn, None, 1000))
        await ledger.close()
        lost = {row.tenant: (row.tenant_id, row.state) for row in rows if row.id.endswith(("0c9", "0cb"))}
        assert lost == {"globex": (2, "length"), "hooli": (5, "length")}, "hooli was removed since"

    asyncio.run(main())


@pytest.mark.parametrize("start", [7, 8])
def test_an_upgrade_that_fails_leaves_the_ledger_as_it_was(start: int, tmp_path: Path) -> None:
    with opened(ledger_of(start, tmp_path)) as conn:
        before, schema = old_rows(conn), tables(conn)
        broken = [*UPGRADES[: start - 1], (*UPGRADES[start - 1], "nonsense")]
        with pytest.raises(sqlite3.OperationalError, match="nonsense"):
            migrate(conn, "ledger.db", broken)
        assert (old_rows(conn), tables(conn)) == (before, schema)
        assert conn.execute("PRAGMA user_version").fetchone() == (start,)
        assert migrate(conn, "ledger.db") == VERSION
        assert old_rows(conn) == before


def test_keys_may_still_run_and_read_and_every_tenant_left_can_be_audited(tmp_path: Path) -> None:
    with opened(ledger_of(6, tmp_path)) as conn:
        migrate(conn, "ledger.db")
        assert conn.execute("SELECT DISTINCT scopes, expires_micros FROM keys").fetchall() == [("run,read", None)]
        audited = "SELECT DISTINCT state <> 'removed', length(audit_key) FROM tenants ORDER BY 1"
        assert conn.execute(audited).fetchall() == [(0, None), (1, 32)]


@pytest.mark.parametrize(("start", "lines"), [(5, 1), (5, 2), (5, 13), (5, 25), (7, 1), (7, 2), (7, 20)])
def test_an_upgrade_that_is_killed_is_made_whole_by_the_next_start(tmp_path: Path, start: int, lines: int) -> None:
    path = ledger_of(start, tmp_path)
    with opened(path) as conn:
        grow = GROW if start == 5 else GROW.replace("interrupted_micros", "interrupted_micros, tenant_id")
        conn.execute(grow, (json.dumps(list(range(100))),))
        before, schema = old_rows(conn), tables(conn)
        rows = len(before[0])
    command = [sys.executable, "-u", "-m", "tests.ledger.old.upgrade", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        said = [process.stdout.readline()]
        while len(said) < lines:
            process.stdin.write("\n")
            process.stdin.flush()
            said.append(process.stdout.readline())
        process.kill()
    assert process.returncode == -9
    assert said[0] == f"upgrading ledger.db from schema {start} to {start + 1}\n"
    assert lines == 1 or said[1] == f"upgrading the ledger: 500 of {rows} requests\n"
    with opened(path) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (start,)
        assert (old_rows(conn), tables(conn)) == (before, schema)
        assert migrate(conn, "ledger.db") == VERSION
        assert old_rows(conn) == before
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_log_tells_how_far_an_upgrade_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tenant_ids, "BATCH_ROWS", 50)
    monkeypatch.setattr(tenant_ids, "PROGRESS_INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO)
    with opened(ledger_of(5, tmp_path)) as conn:
        migrate(conn, "ledger.db")
    said = [record.getMessage() for record in caplog.records]
    assert said[:2] == ["upgrading ledger.db from schema 5 to 6", "upgrading the ledger: 50 of 120 requests"]
    assert said[3] == "upgrading the ledger: 120 of 120 requests"
    assert said[-1].startswith("ledger.db was upgraded in ")


def test_the_newest_prices_of_an_old_ledger_stay_in_force_even_if_a_clock_went_back(tmp_path: Path) -> None:
    with opened(ledger_of(7, tmp_path)) as conn:
        conn.execute("UPDATE prices SET effective_micros = 9000 - 1000 * id")  # the newest has the earliest date
        before = conn.execute("SELECT max(id), count(*) FROM prices").fetchone()
        migrate(conn, "ledger.db")
        newest = all_prices(conn)[before[0]]
        for at_micros in (newest.effective_micros, 7_999, 8_000, NOW_MICROS):
            in_force = prices_at(conn, at_micros)
            assert in_force.output_nanos_per_million == newest.output_nanos_per_million
            assert (in_force.engine_hour_nanos, in_force.is_configured) == (newest.engine_hour_nanos, 1)
        assert conn.execute("SELECT count(*) FROM prices").fetchone()[0] == 2 * before[1] - 1
