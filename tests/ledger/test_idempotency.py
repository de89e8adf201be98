"""Idempotency keys in the ledger: written with their rows or not at all, and gone after a day."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tenantd.domain import FinishReason, Usage
from tenantd.errors import Conflict, LedgerUnavailable
from tenantd.ledger.audit import Entry
from tenantd.ledger.idempotency import BATCH_KEYS, KEPT_MICROS, KeyedBody, find_first, keep_key, prune_keys
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.requests import insert_request, settle_request
from tests.ledger.books import NOW_MICROS, admission, count_rows, ledger_in, memory_ledger, settlement

HASH, OTHER = b"h" * 32, b"o" * 32
NOTHING = Usage()


def keyed(key: str = "k", tenant_id: int = 1, body_hash: bytes = HASH) -> KeyedBody:
    return KeyedBody(tenant_id=tenant_id, key=key, body_hash=body_hash)


async def first_of(ledger: Ledger, key: str = "k", tenant_id: int = 1) -> Any:
    return await ledger.read(lambda conn: find_first(conn, tenant_id, key, NOW_MICROS))


def entry(request_id: str) -> Entry:
    return Entry(at_micros=NOW_MICROS, event="entered", tenant_id=1, tenant="acme", request_id=request_id, detail={})


def test_a_key_stands_for_the_rows_it_was_written_with(tmp_path: Path) -> None:
    async def scene() -> None:
        async with ledger_in(tmp_path) as ledger:
            rows = [admission(f"r{i}") for i in range(3)]
            makes = [lambda name=row.id: entry(name) for row in rows]
            await ledger.admit_keyed(keyed(), rows, makes)
            first = await first_of(ledger)
            assert first.states == {"r0": "running", "r1": "running", "r2": "running"}
            assert first.is_running and first.is_spent and first.body_hash == HASH
            for row in rows:
                await ledger.settle(settlement(row.id))
            first = await first_of(ledger)
            assert set(first.states.values()) == {"stop"} and first.is_spent and not first.is_running
            assert first.usage == Usage(prompt_tokens=36, completion_tokens=90, engine_micros=120_000)
            assert await first_of(ledger, tenant_id=2) is None and await first_of(ledger, "K") is None
            (entries,) = await ledger.read(
                lambda conn: conn.execute(
                    "SELECT count(*) FROM audit WHERE request_id IN ('r0', 'r1', 'r2')"
                ).fetchone()
            )
            assert entries == 3

    asyncio.run(scene())


def test_all_rows_and_the_key_are_written_or_none(tmp_path: Path) -> None:
    async def scene() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("taken"))
            with pytest.raises(Conflict):
                await ledger.admit_keyed(keyed(), [admission("new"), admission("taken")], [None, None])
            assert await count_rows(ledger) == 1 and await first_of(ledger) is None
            await ledger.admit_keyed(keyed(), [admission("new")], [None])
            with pytest.raises(Conflict, match="another request"):
                await ledger.admit_keyed(keyed(body_hash=OTHER), [admission("second")], [None])
            assert await count_rows(ledger) == 2 and (await first_of(ledger)).states == {"new": "running"}

    asyncio.run(scene())


def test_without_a_ledger_there_is_no_key(tmp_path: Path) -> None:
    async def scene() -> None:
        async with ledger_in(tmp_path) as ledger:
            with sqlite3.connect(ledger.path) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(LedgerUnavailable):
                    await ledger.admit_keyed(keyed(), [admission("r")], [None])
            other.close()
            assert await count_rows(ledger) == 0 and await first_of(ledger) is None

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("state", "usage", "is_spent"),
    [
        (FinishReason.STOP, NOTHING, True),
        (FinishReason.LENGTH, NOTHING, True),
        (FinishReason.FAILED, NOTHING, False),
        (FinishReason.CANCELLED, NOTHING, False),
        (FinishReason.DISCONNECTED, NOTHING, False),
        (FinishReason.DISCONNECTED, Usage(prompt_tokens=1), True),
        (FinishReason.FAILED, Usage(completion_tokens=1), True),
        (FinishReason.FAILED, Usage(engine_micros=1), True),
    ],
)
def test_a_key_is_free_again_if_nothing_was_used(state: FinishReason, usage: Usage, is_spent: bool) -> None:
    conn = memory_ledger()
    conn.execute(
        """INSERT INTO prices (currency, input_nanos_per_million, output_nanos_per_million, engine_hour_nanos,
        effective_micros) VALUES ('USD', 1, 1, 1, 0)"""
    )
    keep_key(conn, keyed(), ["r"], NOW_MICROS)
    insert_request(conn, admission("r"))
    settle_request(conn, settlement("r", usage, state=state))
    first = find_first(conn, 1, "k", NOW_MICROS)
    assert first is not None and first.is_spent == is_spent
    if is_spent:
        with pytest.raises(Conflict):
            keep_key(conn, keyed(body_hash=OTHER), ["s"], NOW_MICROS)
    else:
        keep_key(conn, keyed(body_hash=OTHER), ["s"], NOW_MICROS)
    conn.close()


def test_a_row_that_was_pruned_is_no_reason_to_run_again() -> None:
    conn = memory_ledger()
    keep_key(conn, keyed(), ["pruned"], NOW_MICROS)
    first = find_first(conn, 1, "k", NOW_MICROS)
    assert first is not None and first.is_spent and first.states == {"pruned": "unknown"}
    conn.close()


def test_keys_are_forgotten_after_a_day_and_deleted_in_pieces() -> None:
    conn = memory_ledger()
    for number in range(BATCH_KEYS + 3):
        keep_key(conn, keyed(str(number), tenant_id=number % 3), [], NOW_MICROS - number)
    keep_key(conn, keyed("young"), ["r"], NOW_MICROS + 1)
    later = NOW_MICROS + KEPT_MICROS
    assert find_first(conn, 0, "0", later - 1) is not None and find_first(conn, 0, "0", later) is None
    assert find_first(conn, 1, "young", later) is not None
    assert [prune_keys(conn, later) for _ in range(3)] == [BATCH_KEYS, 3, 0]
    assert conn.execute("SELECT key FROM idempotency").fetchall() == [("young",)]
    plan = conn.execute(
        "EXPLAIN QUERY PLAN SELECT * FROM idempotency WHERE created_micros <= 1 ORDER BY created_micros"
    )
    assert "idempotency_by_time" in str(plan.fetchall())
    conn.close()
