"""Pruning the audit trail: what is old goes, what a bill may need stays, and verification still passes."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.errors import InvalidRequest
from tenantd.ledger import retention
from tenantd.ledger.audit import append, read_head
from tenantd.ledger.diagnosis import Kind
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.retention import (
    announce,
    delete_some,
    keep_for_days,
    last_prunable,
    left_over,
    open_since_micros,
    prune,
    prune_older,
)
from tenantd.ledger.verify import verify, verify_file
from tests.ledger.books import admission, ledger_in, memory_ledger, settlement
from tests.ledger.trails import entry, tamper, trail_of
from tests.support.examples import examples

BERLIN = ZoneInfo("Europe/Berlin")


def micros(text: str, zone: ZoneInfo = BERLIN) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1e6)


NOW = micros("2026-11-29T15:00")
DAY = 86_400_000_000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH_ENTRIES", 3)
    monkeypatch.setattr(retention, "PAUSE_S", 0)
    monkeypatch.setattr(retention, "PIECE_ENTRIES", 4)


async def fill(ledger: Ledger, *times_micros: int) -> None:
    await ledger.write(lambda conn: append(conn, [entry(f"e{n}", at_micros=at) for n, at in enumerate(times_micros)]))


async def kept(ledger: Ledger) -> list[str]:
    return [each.event for each in await ledger.read(trail_of)]


def run_prune(ledger: Ledger, before: str | int, **detail: Any) -> Any:
    before_micros = micros(before) if isinstance(before, str) else before
    return prune(ledger, before_micros, BERLIN, lambda: NOW, detail)


def test_what_is_older_goes_and_the_trail_still_verifies(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.write(lambda conn: append(conn, []))
            await fill(ledger, *(micros("2026-09-01T00:00") + n * DAY for n in range(60)))
            pruned = await run_prune(ledger, "2026-10-01", actor_uid=1000)
            left = await ledger.read(trail_of)
            assert pruned.entries == 1 + 30, "with the one that began the trail, which is of September, too"
            assert [each.event for each in left] == [*(f"e{n}" for n in range(30, 60)), "pruned"]
            said = left[-1].detail
            assert (said["through"], said["hash"], said["actor_uid"]) == (pruned.through, pruned.hash, 1000)
            assert said["before_micros"] == micros("2026-10-01")
            verdict = verify_file(ledger.path)
            assert (verdict.finding, verdict.entries, verdict.pruned) == (None, 31, 31)
            assert (await run_prune(ledger, "2026-10-01")).entries == 0
            assert (await kept(ledger))[-1] == "pruned"
            assert len(await kept(ledger)) == 31, "what does nothing records nothing"
            await run_prune(ledger, "2026-11-01")
            assert await kept(ledger) == ["pruned", "pruned"], "of today"
            assert verify_file(ledger.path).finding is None

    asyncio.run(main())


def test_nothing_of_an_open_month_is_pruned(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await fill(ledger, micros("2026-09-30T23:00"), micros("2026-10-31T23:59"), micros("2026-11-01T00:00"))
            with pytest.raises(InvalidRequest, match="2026-11-01 or earlier"):
                await run_prune(ledger, micros("2026-11-01") + 1)
            await ledger.admit(admission("long", created_micros=micros("2026-10-31T23:00")))
            with pytest.raises(InvalidRequest, match="2026-10-01 or earlier"):
                await run_prune(ledger, "2026-10-02")
            await prune_older(ledger, 1, BERLIN, lambda: NOW)
            assert await kept(ledger) == ["e1", "e2", "pruned"]
            await ledger.settle(settlement("long"))
            await prune_older(ledger, 1, BERLIN, lambda: NOW)
            assert (await kept(ledger))[0] == "e2"

    asyncio.run(main())


def test_months_are_those_of_the_billing_time_zone() -> None:
    conn = memory_ledger()
    now = micros("2026-11-01T00:30")
    assert open_since_micros(conn, BERLIN, now) == micros("2026-11-01")
    assert open_since_micros(conn, ZoneInfo("UTC"), now) == micros("2026-10-01", ZoneInfo("UTC"))
    conn.close()


def test_nothing_is_pruned_if_all_is_to_be_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await fill(ledger, 0, 1)
            await prune_older(ledger, 0, BERLIN, lambda: NOW)
            assert await kept(ledger) == ["begun", "e0", "e1"]

    asyncio.run(main())


def test_a_clock_that_has_jumped_is_believed_in_the_next_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "DAY_S", 0)
    jumped = NOW + 60 * DAY
    rounds: list[list[str]] = []

    def keep_days() -> int:
        with sqlite3.connect(tmp_path / "ledger.db") as conn:
            rounds.append([event for (event,) in conn.execute("SELECT event FROM audit ORDER BY number")])
        conn.close()
        if len(rounds) == 3:
            raise asyncio.CancelledError
        return 100

    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await fill(ledger, NOW - 200 * DAY, NOW)
            ledger.is_new, ledger.resumed_micros = False, NOW
            with pytest.raises(asyncio.CancelledError):
                await keep_for_days(ledger, keep_days, lambda: BERLIN, lambda: jumped)

    asyncio.run(main())
    assert rounds == [["begun", "e0", "e1"], ["begun", "e0", "e1"], ["e1", "pruned"]]


def test_a_pruning_that_was_interrupted_is_finished_and_verifies_meanwhile(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await fill(ledger, *(n * DAY for n in range(10)))
            await ledger.write(lambda conn: announce(conn, 8, NOW, {}))
            assert verify_file(ledger.path).finding is None
            announced = await ledger.read(left_over)
            assert announced is not None
            await ledger.write(lambda conn: delete_some(conn, announced, NOW))
            assert verify_file(ledger.path).pruned == 3
            assert verify_file(ledger.path).finding is None
        async with ledger_in(tmp_path) as ledger:
            await prune_older(ledger, 0, BERLIN, lambda: NOW)
            assert await kept(ledger) == ["e7", "e8", "e9", "pruned"]
            assert verify_file(ledger.path).finding is None

    asyncio.run(main())


@examples(60)
@given(offsets=st.lists(st.integers(-5, 5), max_size=12))
def test_an_entry_stays_if_one_before_it_stays_unless_that_is_from_the_future(offsets: list[int]) -> None:
    """Times in days from the limit, which is 2 days ago."""
    conn = memory_ledger()
    before = NOW - 2 * DAY
    append(conn, [entry("e", at_micros=before + offset * DAY) for offset in offsets])
    old = 0
    for number, offset in enumerate(offsets, 1):
        if 0 <= offset <= 2:
            break
        old = number if offset < 0 else old
    conn.execute("BEGIN")
    assert last_prunable(conn, before, NOW) == (old or None)
    conn.close()


def test_a_checkpoint_beyond_what_was_announced_is_found() -> None:
    conn = memory_ledger()
    append(conn, [entry(f"e{n}", at_micros=n) for n in range(10)])
    announce(conn, 4, NOW, {})
    announced = left_over(conn)
    assert announced is not None
    while delete_some(conn, announced, NOW):
        pass
    conn.execute("BEGIN")
    assert verify(conn).finding is None
    (digest,) = conn.execute("SELECT hash FROM audit WHERE number = 6").fetchone()
    conn.execute("UPDATE audit_head SET pruned_number = 6, pruned_hash = ?", (digest,))
    conn.execute("DELETE FROM audit WHERE number <= 6")
    finding = verify(conn).finding
    assert finding is not None and (finding.kind, finding.number) == (Kind.DELETED, 5)
    conn.close()


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("UPDATE audit SET tenant = 'globex' WHERE number = 5", 5),
        ("UPDATE audit SET tenant = cast(x'ff' AS TEXT) WHERE number = 5", 5),
        ("DELETE FROM audit WHERE number = 4", 4),
        ("DELETE FROM audit WHERE number BETWEEN 3 AND 8", 3),
        ("DELETE FROM audit WHERE number BETWEEN 7 AND 8", 7),
    ],
)
def test_pruning_does_not_wipe_out_the_traces_of_tampering(tmp_path: Path, statement: str, number: int) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await fill(ledger, *(n * DAY for n in range(10)))
            tamper(ledger.path, statement)
            through = 8 if "8" not in statement else 9
            await ledger.write(lambda conn: announce(conn, through, NOW, {}))
            await prune_older(ledger, 0, BERLIN, lambda: NOW)
            found = await ledger.read(lambda conn: trail_of(conn, event="damaged"))
            assert [each.detail["number"] for each in found] == [number]
            assert verify_file(ledger.path).finding is None, "what is kept is whole"

    asyncio.run(main())


def test_only_what_is_pruned_can_be_deleted() -> None:
    conn = memory_ledger()
    append(conn, [entry(f"e{n}", at_micros=n) for n in range(6)])
    announce(conn, 3, NOW, {})
    announced = left_over(conn)
    assert announced is not None
    delete_some(conn, announced, NOW)
    head = read_head(conn)
    assert head is not None and head.pruned_number == 3
    with pytest.raises(sqlite3.IntegrityError, match="only pruned"):
        conn.execute("DELETE FROM audit WHERE number = 4")
    conn.close()
