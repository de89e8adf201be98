"""`tenantctl ledger check`: what holds passes, whatever happened; and every kind of breach is found."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason, Usage
from tenantd.ledger.configured import add_prices
from tenantd.ledger.inspection import Check, inspect, inspect_file
from tenantd.ledger.migrations import migrate
from tenantd.ledger.requests import (
    checkpoint_request,
    insert_request,
    interrupt_running,
    reopen_interrupted,
    settle_request,
    state_of,
)
from tenantd.ledger.sums import sums
from tenantd.periods import HOUR_MICROS
from tests.ledger.books import BILLING, NOW_MICROS, admission, memory_ledger, settlement
from tests.ledger.old.kit import FOLDER, ledger_of
from tests.support.examples import examples

SCHEMAS = sorted(int(path.stem.removeprefix("schema_")) for path in FOLDER.glob("schema_*.sql"))


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    """Four requests, one of them running, a budget and a key."""
    with closing(memory_ledger()) as conn:
        add_prices(conn, BILLING, 0)
        for number, name in enumerate(("acme", "globex"), 1):
            conn.execute(
                """INSERT INTO tenants (id, name, weight, priority, state, uids, limits, created_micros)
                VALUES (?, ?, 1, 'standard', 'active', '[]', '{}', 5)""",
                (number, name),
            )
        conn.execute("INSERT INTO budgets VALUES (1, 1, '', 'daily', 'tokens', 1000000, '', 0)")
        for n in range(4):
            insert_request(conn, admission(f"r{n}", created_micros=NOW_MICROS + n * HOUR_MICROS))
        for n, state in enumerate((FinishReason.STOP, FinishReason.FAILED, FinishReason.LENGTH)):
            settle_request(conn, settlement(f"r{n}", state=state, cause="engine_lost" if n == 1 else ""))
        conn.execute(
            "INSERT INTO idempotency (tenant_id, key, body_hash, requests, created_micros) "
            """VALUES (1, 'k', zeroblob(32), '["r0"]', 5)"""
        )
        yield conn


def breaches(conn: sqlite3.Connection) -> list[tuple[Check, str]]:
    conn.execute("BEGIN")
    try:
        return [(breach.check, breach.what) for breach in inspect(conn).breaches]
    finally:
        conn.execute("COMMIT")


def test_a_sound_ledger_passes(conn: sqlite3.Connection) -> None:
    conn.execute("BEGIN")
    found = inspect(conn)
    assert found.breaches == []
    assert {name: found.checked[name] for name in ("requests", "hours", "budgets", "invoices", "idempotency keys")} == {
        "requests": 4,
        "hours": 3,
        "budgets": 1,
        "invoices": 0,
        "idempotency keys": 1,
    }


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_upgraded_ledger_passes(schema: int, tmp_path: Path) -> None:
    path = ledger_of(schema, tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        migrate(conn, "ledger.db")
    found = inspect_file(path)
    assert (found.breaches, found.checked["requests"]) == ([], 120)


def test_days_of_two_time_zones_that_overlap_are_no_breach(conn: sqlite3.Connection) -> None:
    (since,) = conn.execute("SELECT since_micros FROM budget_uses").fetchone()
    conn.execute("INSERT INTO budget_uses (budget_id, since_micros, used) VALUES (1, ?, 5)", (since - HOUR_MICROS,))
    assert breaches(conn) == []
    conn.execute("UPDATE budget_uses SET used = used + 1")
    assert len(breaches(conn)) == 1, "one of them is the current one"
    conn.execute("UPDATE budget_uses SET used = used - 1")
    conn.execute("UPDATE budget_uses SET since_micros = ? WHERE used = 5", (since - 24 * HOUR_MICROS,))
    assert len(breaches(conn)) == 1


BROKEN = (
    ("UPDATE hours SET prompt_tokens = prompt_tokens + 1", Check.HOURS, "prompt_tokens: 12 in rows, 13 kept"),
    ("DELETE FROM hours", Check.HOURS, "completed: 1 in rows, 0 kept"),
    ("UPDATE latencies SET requests = 2 WHERE metric = 'duration'", Check.HOURS, "times of tenant 1"),
    ("UPDATE latency_days SET requests = 9 WHERE metric = 'duration'", Check.HOURS, "3 in its hours, 9 kept"),
    ("DELETE FROM latency_days", Check.HOURS, " (UTC): times of tenant 1: 3 in its hours, 0 kept"),
    ("DELETE FROM causes", Check.HOURS, "causes of tenant 1, requests: 1 in rows, 0 kept"),
    ("UPDATE hours SET tenant_id = 2", Check.HOURS, "sums of tenant 1, completed: 1 in rows, 0 kept"),
    ("UPDATE requests SET completion_tokens = 31 WHERE id = 'r0'", Check.REQUESTS, "request r0 has the amounts"),
    ("UPDATE requests SET ended_micros = 5 WHERE id = 'r0'", Check.REQUESTS, "request r0 ended before it was created"),
    ("UPDATE requests SET ended_micros = 5 WHERE id = 'r3'", Check.REQUESTS, "request r3 is running, but has an end"),
    ("UPDATE requests SET ended_micros = NULL WHERE id = 'r0'", Check.REQUESTS, "has no price list or no end time"),
    ("UPDATE requests SET state = 'sung' WHERE id = 'r0'", Check.REQUESTS, "has a state that tenantd does not know"),
    ("UPDATE requests SET waived_nanos = 999999 WHERE id = 'r0'", Check.REQUESTS, "free or waived beyond its cost"),
    ("UPDATE prices SET tenant_id = 2", Check.REQUESTS, "r0 (and 2 more) has the price list of another tenant"),
    ("UPDATE requests SET price_id = 9 WHERE id = 'r0'", Check.REFERENCES, "refers to something that is not in prices"),
    ("UPDATE budget_uses SET used = used - 1", Check.BUDGETS, "125 used, but its requests say 126"),
    ("UPDATE budget_uses SET topped_up = 5", Check.BUDGETS, "topped up by 5, but its top-ups say 0"),
    ("UPDATE requests SET free_prompt_tokens = 5 WHERE id = 'r0'", Check.QUOTAS, "its requests say 5 and 0"),
    ("UPDATE idempotency SET requests = '[\"x\"]'", Check.KEYS, "stands for request x, which has no row"),
    ("UPDATE idempotency SET tenant_id = 2", Check.KEYS, "of tenant 2 stands for request r0 of tenant 1"),
    ("DELETE FROM audit_head", Check.AUDIT, "the head of the trail"),
    ("DROP INDEX requests_by_end", Check.SCHEMA, "index requests_by_end is missing"),
)


@pytest.mark.parametrize(("statement", "check", "says"), BROKEN, ids=[statement for statement, _, _ in BROKEN])
def test_every_breach_is_found_and_named(conn: sqlite3.Connection, statement: str, check: Check, says: str) -> None:
    conn.execute("PRAGMA foreign_keys = OFF")
    conn.execute("DROP TRIGGER audit_head_is_kept")
    before = breaches(conn)
    conn.execute(statement)
    found = [each for each in breaches(conn) if each not in before]
    assert any(each is check and says in what for each, what in found), found


STATES = [state for state in FinishReason if state is not FinishReason.INTERRUPTED]
moves = st.lists(
    st.tuples(
        st.sampled_from(["admit", "settle", "checkpoint", "interrupt", "again"]),
        st.integers(0, 9),  # which request
        st.sampled_from(["acme", "globex"]),
        st.integers(0, 3 * HOUR_MICROS),  # duration
        st.sampled_from(STATES),
        st.integers(0, 10**9),  # tokens
    ),
    max_size=60,
)


@given(moves=moves)
@examples(150)
def test_sums_equal_rows_whatever_is_admitted_settled_interrupted_reopened_or_said_twice(
    moves: list[tuple[str, int, str, int, FinishReason, int]],
) -> None:
    with closing(memory_ledger()) as conn:
        add_prices(conn, BILLING, 0)
        conn.execute("PRAGMA foreign_keys = OFF")
        conn.execute("INSERT INTO budgets VALUES (1, 1, '', 'daily', 'money', 400, '', 0)")
        for move, which, tenant, micros, state, tokens in moves:
            name, usage = f"r{which}", Usage(prompt_tokens=tokens, completion_tokens=tokens // 3, engine_micros=tokens)
            now = state_of(conn, name)
            end = settlement(name, usage, state=state, duration_micros=micros, cause=state if tokens % 2 else "")
            if move == "admit" and now is None:
                unbilled = tokens % 5 == 0
                made = NOW_MICROS + micros
                insert_request(conn, admission(name, tenant=tenant, created_micros=made, unbilled=unbilled))
            elif move == "settle" and now == "running":
                settle_request(conn, end)
            elif move == "checkpoint" and now == "running":
                checkpoint_request(conn, name, usage)
            elif move == "interrupt":
                interrupt_running(conn, NOW_MICROS + micros)
            elif move == "again" and now == "interrupted":  # what a stop had set aside
                reopen_interrupted(conn, name)
                settle_request(conn, end)
        conn.execute("PRAGMA foreign_keys = ON")
        conn.execute("BEGIN")
        found = inspect(conn)
        assert [each for each in found.breaches if each.check is not Check.REFERENCES] == []
        whole = sums(conn, 0, NOW_MICROS + 10 * HOUR_MICROS, ())
        (billed,) = conn.execute(
            "SELECT coalesce(sum(completion_tokens), 0) FROM requests WHERE price_id NOTNULL"
        ).fetchone()
        assert sum(total["completion_tokens"] for total in whole.values()) == billed
        (used,) = conn.execute("SELECT coalesce(max(used), 0) FROM budget_uses").fetchone()
        assert used <= 400
