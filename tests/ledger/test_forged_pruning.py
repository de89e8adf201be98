"""Somebody who can write the file pretends that entries were pruned, or hides behind something found earlier."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tenantd.ledger.anchored import Anchors
from tenantd.ledger.audit import append, read_head
from tenantd.ledger.diagnosis import Kind
from tenantd.ledger.resumption import resume
from tenantd.ledger.retention import left_over, open_since_micros, prune_older
from tenantd.ledger.verify import verify
from tests.ledger.books import NOW_MICROS, ledger_in
from tests.ledger.trails import entry, memory_trail, tamper, trail_of

UTC = ZoneInfo("UTC")
YEAR = 366 * 86_400_000_000


def forge(conn: Any, **said: Any) -> None:
    (digest,) = conn.execute("SELECT hash FROM audit WHERE number = 6").fetchone()
    append(conn, [entry("pruned", detail={"hash": digest.hex(), "through": 6, **said})])
    conn.execute("UPDATE audit_head SET prunable_number = 6")


@pytest.mark.parametrize("said", [{"before_micros": 1}, {"before_micros": NOW_MICROS}, {}])
def test_anchors_show_that_young_entries_were_pruned(tmp_path: Path, said: dict[str, Any]) -> None:
    conn = memory_trail(10)
    (digest,) = conn.execute("SELECT hash FROM audit WHERE number = 4").fetchone()
    line = {"at": "2026-09-21T15:00:00Z", "number": 4, "hash": digest.hex()}
    (tmp_path / "anchor").write_text(json.dumps(line) + "\n")
    forge(conn, **said)
    finding = verify(conn, Anchors.read(tmp_path / "anchor")).finding
    assert finding is not None and finding.kind in {Kind.DELETED, Kind.EDITED}
    conn.close()


def test_nothing_young_is_deleted_because_a_head_or_a_forged_entry_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.write(lambda conn: append(conn, [entry(f"e{n}") for n in range(9)]))
            for prunable in (5, 10**6):
                tamper(ledger.path, f"UPDATE audit_head SET prunable_number = {prunable}")
                assert await ledger.read(left_over) is None
            await ledger.write(lambda conn: forge(conn, before_micros=1))
            await prune_older(ledger, 0, UTC, lambda: NOW_MICROS)
            assert len(await ledger.read(trail_of)) == 11

    asyncio.run(main())


def test_a_clock_that_is_far_ahead_does_not_end_the_month_of_the_newest_entry() -> None:
    conn = memory_trail(3)
    assert open_since_micros(conn, UTC, NOW_MICROS + 2 * YEAR) == open_since_micros(conn, UTC, NOW_MICROS)
    conn.close()


def test_what_was_found_first_hides_nothing_later() -> None:
    conn = memory_trail(20)
    append(conn, [entry("continued"), *(entry(f"l{n}") for n in range(9))])
    conn.execute("UPDATE audit SET detail = '{\"x\":1}' WHERE number IN (5, 25)")
    conn.execute("DELETE FROM audit WHERE number = 28")
    verdict = verify(conn)
    found = [(each.kind, each.number) for each in [verdict.finding, *verdict.later] if each is not None]
    assert found == [(Kind.EDITED, 5), (Kind.TRUNCATED, 21), (Kind.EDITED, 25), (Kind.DELETED, 28)]
    conn.close()


@pytest.mark.parametrize("number", [2**63 - 1, 2**63 - 8, 2**62 - 1])
def test_an_entry_with_a_huge_number_stops_nothing_and_is_found(number: int) -> None:
    conn = memory_trail(4)
    conn.execute("INSERT INTO audit VALUES (?, 1, 'x', NULL, NULL, NULL, '{}', zeroblob(32))", (number,))
    resume(conn, NOW_MICROS, is_on=True)
    append(conn, [entry("after")])
    head = read_head(conn)
    assert head is not None and head.number == 5
    finding = verify(conn).finding
    assert finding is not None and finding.kind is Kind.INSERTED
    conn.close()


def test_details_that_nobody_can_read_are_shown_and_stop_nothing() -> None:
    conn = memory_trail(4)
    deep = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
    conn.execute("UPDATE audit SET detail = ?, event = 'pruned' WHERE number = 3", (deep,))
    assert trail_of(conn)[2].detail == {"unreadable": deep}
    conn.execute("DELETE FROM audit_head")
    resume(conn, NOW_MICROS, is_on=True)
    append(conn, [entry("after")])
    conn.close()
