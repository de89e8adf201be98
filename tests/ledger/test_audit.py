"""The audit trail as it is written: chained, in the transaction of what it speaks of, and kept through trouble."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason
from tenantd.errors import Conflict, LedgerUnavailable
from tenantd.ledger import writer
from tenantd.ledger.audit import DAMAGED, PRUNED, Entry, append, columns, link
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.resumption import resume
from tenantd.ledger.trail import Wanted, select
from tenantd.ledger.unsettled import FILE_NAME, Unsettled, set_aside
from tests.ledger.books import (
    NOW_MICROS,
    admission,
    ledger_in,
    memory_ledger,
    open_ledger,
    record_of,
    settlement,
    until,
    writer_held,
)
from tests.ledger.trails import entry, tamper, trail_of


async def events_of(ledger: Ledger, **wanted: Any) -> list[str]:
    """All but the first entry, which says that the trail begins."""
    entries = await ledger.read(lambda conn: trail_of(conn, **wanted))
    return [each.event for each in entries if each.event != "begun"]


def check_chain(conn: sqlite3.Connection) -> int:
    """Recompute the chain from the columns alone, as the documentation says. Returns the number of the last entry."""
    (last,) = conn.execute("SELECT pruned_hash FROM audit_head").fetchone()
    number = 0
    for *columns_of, digest in conn.execute(
        "SELECT number, at_micros, event, tenant_id, tenant, request_id, detail, hash FROM audit ORDER BY number"
    ):
        text = json.dumps(columns_of, ensure_ascii=False, separators=(",", ":"))
        last = hashlib.sha256(last + text.encode()).digest()
        assert last == digest
        number = columns_of[0]
    assert conn.execute("SELECT number, hash FROM audit_head").fetchone() == (number, last)
    return int(number)


ODD = "".join(map(chr, range(0x20))) + 'a"\\/\x7f\x80é\u2028\u2029\ufffe😀\ud800\udfff'  # two lone surrogates, too
texts = st.text(st.sampled_from(ODD), max_size=8)
details = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
entries = st.builds(
    Entry,
    at_micros=st.integers(-(2**63) + 1, 2**63 - 1),
    event=texts,
    tenant_id=st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
    tenant=st.none() | texts,
    request_id=st.none() | texts,
    detail=st.dictionaries(texts, details, max_size=3),
)


@given(batches=st.lists(st.lists(entries, max_size=4), max_size=4))
def test_a_stranger_can_recompute_the_chain_from_the_columns(batches: list[list[Entry]]) -> None:
    conn = memory_ledger()
    try:
        for batch in batches:
            append(conn, batch)
        assert check_chain(conn) == sum(map(len, batches))
        for (detail,) in conn.execute("SELECT detail FROM audit"):
            decoded = json.loads(detail)
            assert list(decoded) == sorted(decoded, key=lambda key: key.encode("utf-8", "surrogatepass"))
    finally:
        conn.close()


def test_an_entry_that_cannot_be_stored_is_refused_before_anything_is_written() -> None:
    conn = memory_ledger()
    for bad in (entry("a", detail={"x": object()}), entry("a", at_micros=2**63), entry("a", tenant_id=2**70)):
        with pytest.raises((TypeError, ValueError)):
            append(conn, [entry("good"), bad])
    assert trail_of(conn) == []
    conn.close()


def test_entries_are_in_the_transaction_of_their_row_and_a_job_that_fails_leaves_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"), lambda: entry("entered"))
            with pytest.raises(Conflict):
                await ledger.admit(admission("r1"), lambda: entry("twice"))
            await ledger.settle(settlement("r1"), None, lambda: entry("response"))
            with pytest.raises(Conflict):
                await ledger.settle(settlement("r1"), None, lambda: entry("twice"))
            ledger.audit([entry("refused", request_id=None, detail={"count": 3})])
            await ledger.admit(admission("r2"))
            assert await events_of(ledger) == ["entered", "response", "refused"]
            assert await events_of(ledger, request_id="r1") == ["entered", "response"]
            assert await ledger.read(check_chain) == 4

    asyncio.run(main())


def test_all_entries_of_one_transaction_are_chained_in_the_order_of_their_jobs(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            async with writer_held(ledger):
                jobs = [ledger.admit(admission(f"r{n}"), lambda n=n: entry(f"e{n}")) for n in range(50)]  # type: ignore[misc]
                tasks = [asyncio.create_task(job) for job in jobs]
                await asyncio.sleep(0)
                ledger.audit([entry("last")])
            await asyncio.gather(*tasks)
            await until_audited(ledger, 51)
            assert await events_of(ledger) == [*(f"e{n}" for n in range(50)), "last"]
            await ledger.read(check_chain)

    asyncio.run(main())


async def until_audited(ledger: Ledger, count: int) -> None:
    async with asyncio.timeout(120):
        while len(await events_of(ledger)) < count:
            await asyncio.sleep(0.005)


def test_a_row_does_not_depend_on_the_maker_of_its_entry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def failing() -> Entry:
        raise KeyError("a bug")

    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"), lambda: entry("a", detail={"x": object()}))
            assert (await ledger.settle(settlement("r1"), None, failing)).state == "stop"
            found = [each for each in await ledger.read(trail_of) if each.event == "undescribed"]
            assert [(each.request_id, each.detail) for each in found] == [
                ("r1", {"error": "TypeError"}),
                ("r1", {"error": "KeyError"}),
            ]

    asyncio.run(main())
    assert "a bug" in caplog.text


def stop_appending(conn: sqlite3.Connection) -> None:
    """The disk has room for rows, but an entry cannot be written."""
    conn.execute("CREATE TRIGGER refuse BEFORE INSERT ON audit BEGIN SELECT raise(ABORT, 'no'); END")


def test_an_entry_that_cannot_be_written_is_trouble_and_nothing_is_lost_or_admitted(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"), lambda: entry("entered"))
            await ledger.write(stop_appending)
            with pytest.raises(LedgerUnavailable, match="audit trail"):
                await ledger.admit(admission("r2"), lambda: entry("entered"))
            assert "audit trail" in ledger.trouble
            settling = asyncio.create_task(ledger.settle(settlement("r1"), None, lambda: entry("response")))
            ledger.audit([entry("refused")])
            other = sqlite3.connect(ledger.path)
            other.execute("DROP TRIGGER refuse")
            other.close()
            await settling
            await until(lambda: ledger.healthy)
            assert sorted(await events_of(ledger)) == ["entered", "refused", "response"]
            with pytest.raises(Exception, match="not in the ledger"):
                await record_of(ledger, "r2")
            await ledger.read(check_chain)

    asyncio.run(main())


def test_waiting_entries_are_bounded_and_what_is_missed_is_counted_in_the_trail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MOST_ENTRIES", 5)

    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            async with writer_held(ledger):
                for n in range(8):
                    ledger.audit([entry(f"e{n}")])
            await until_audited(ledger, 6)
            last = (await ledger.read(trail_of))[-1]
            assert (last.event, last.detail) == ("missed", {"count": 3})
            ledger.audit([entry("again")])
            await until_audited(ledger, 7)

    asyncio.run(main())


def test_entries_that_a_stop_cannot_write_are_written_by_the_next_start(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"), lambda: entry("entered"))
            await ledger.write(stop_appending)
            settling = asyncio.create_task(ledger.settle(settlement("r1"), None, lambda: entry("response")))
            await until(lambda: not ledger.healthy)
            ledger.audit([entry("refused", request_id=None)])
            await ledger.close(0.1)
            with pytest.raises(LedgerUnavailable):
                await settling
        assert (tmp_path / FILE_NAME).read_bytes().count(b'"entry":{') == 2
        with sqlite3.connect(tmp_path / "ledger.db") as conn:
            conn.execute("DROP TRIGGER refuse")
        conn.close()
        async with ledger_in(tmp_path) as ledger:
            assert await events_of(ledger) == ["entered", "response", "refused"]
            assert (ledger.taken_in, ledger.rejected, ledger.interrupted) == (1, 0, 0)

    asyncio.run(main())


def test_what_is_missed_until_the_stop_is_counted_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MOST_ENTRIES", 2)

    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.write(stop_appending)
            ledger.audit([entry("e1")])
            await until(lambda: not ledger.healthy)
            ledger.audit([entry(f"e{n}") for n in range(2, 6)])
            await ledger.close(0.1)
        with sqlite3.connect(tmp_path / "ledger.db") as conn:
            conn.execute("DROP TRIGGER refuse")
        conn.close()
        async with ledger_in(tmp_path) as ledger:
            last = (await ledger.read(trail_of))[-1]
            assert (last.event, last.detail) == ("missed", {"count": 3})

    asyncio.run(main())


def test_what_a_start_settles_is_in_the_trail(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            for name in ("r1", "r2", "r3"):
                await ledger.admit(admission(name))
            await ledger.settle(settlement("r3"))
        late = [Unsettled(settlement=settlement(name, state=FinishReason.LENGTH)) for name in ("r1", "r3")]
        set_aside(tmp_path, [*late, Unsettled()])
        async with ledger_in(tmp_path) as ledger:
            found = [each for each in await ledger.read(trail_of) if each.event != "begun"]
            assert [(each.event, each.request_id, each.detail["state"]) for each in found] == [
                ("settled_late", "r1", "length"),
                ("interrupted", "r2", "interrupted"),
            ]
            assert ledger.rejected == 1, "a line that holds nothing"

    asyncio.run(main())


@pytest.mark.parametrize("event", [PRUNED, DAMAGED])
def test_what_pruning_records_while_the_trail_is_off_does_not_switch_it_on(event: str) -> None:
    conn = memory_ledger()
    for is_on in (True, False):
        resume(conn, NOW_MICROS, is_on=is_on)
    append(conn, [entry(event)])
    for is_on in (False, True):
        resume(conn, NOW_MICROS, is_on=is_on)
    assert [each.event for each in trail_of(conn)] == ["begun", "switched_off", event, "switched_on"]
    conn.close()


def test_switched_off_nothing_is_recorded_but_that(tmp_path: Path) -> None:
    async def main() -> None:
        for start, audits in enumerate((True, False, False, True, True)):
            ledger = open_ledger(tmp_path / "ledger.db", audits=audits)
            name = f"r{start}"
            await ledger.admit(admission(name), lambda: entry("entered"))
            await ledger.settle(settlement(name), None, lambda: entry("response"))
            ledger.audit([entry("refused")])
            await ledger.admit(admission(f"{name}-running"))
            await ledger.close()
        conn = sqlite3.connect(tmp_path / "ledger.db")
        kinds = [each.event for each in trail_of(conn)]
        three = ["entered", "response", "refused"]
        # The requests left running are settled by the next start; the last start with the trail on is the fourth.
        assert kinds == ["begun", *three, "switched_off", "switched_on", "interrupted", *three, "interrupted", *three]
        check_chain(conn)
        conn.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE audit SET detail = '{}'", "never changed"),
        ("DELETE FROM audit WHERE number = 2", "only pruned"),
        ("DELETE FROM audit_head", "never deleted"),
    ],
)
def test_the_file_itself_prevents_mistakes(statement: str, says: str) -> None:
    conn = memory_ledger()
    append(conn, [entry("a"), entry("b")])
    with pytest.raises(sqlite3.IntegrityError, match=says):
        conn.execute(statement)
    conn.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit_head",
        "UPDATE audit_head SET number = number - 1",
        "UPDATE audit_head SET number = number + 1",
        f"UPDATE audit_head SET number = {2**63 - 1}",
        "UPDATE audit_head SET hash = randomblob(32)",
        "UPDATE audit SET hash = randomblob(32) WHERE number = (SELECT max(number) FROM audit)",
        "DELETE FROM audit WHERE number = (SELECT max(number) FROM audit)",
        "DELETE FROM audit",
        "DROP TABLE audit",
    ],
)
def test_no_chain_begins_silently_where_the_head_was_altered(tmp_path: Path, statement: str) -> None:
    """It is trouble until a restart, which continues the trail and records it."""

    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            for name in ("r1", "r2"):
                await ledger.admit(admission(name), lambda: entry("entered"))
            tamper(ledger.path, statement)
            with pytest.raises(LedgerUnavailable, match="audit trail"):
                await ledger.admit(admission("r3"), lambda: entry("entered"))
            assert "audit" in ledger.trouble
            settling = asyncio.create_task(ledger.settle(settlement("r1"), None, lambda: entry("response")))
            await asyncio.sleep(0)
            await ledger.close(0.1)
            with pytest.raises(LedgerUnavailable):
                await settling
        if statement.startswith("DROP"):
            return
        async with ledger_in(tmp_path) as ledger:
            found = await events_of(ledger)
            assert found[-3:] == ["continued", "response", "interrupted"]
            await ledger.admit(admission("r4"), lambda: entry("entered"))
            assert (await record_of(ledger, "r1")).state == "stop"

    asyncio.run(main())


def test_the_daemon_goes_on_when_somebody_edits_other_entries(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            for name in ("r1", "r2", "r3"):
                await ledger.admit(admission(name), lambda: entry("entered"))
            tamper(
                ledger.path, "UPDATE audit SET tenant = 'globex' WHERE number = 2", "DELETE FROM audit WHERE number = 3"
            )
            await ledger.admit(admission("r4"), lambda: entry("entered"))
            with pytest.raises(AssertionError):
                await ledger.read(check_chain)

    asyncio.run(main())


def test_a_clock_that_is_set_back_changes_no_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            for n, at_micros in enumerate((NOW_MICROS, NOW_MICROS - 10**12, NOW_MICROS + 5, 0)):
                ledger.audit([entry(f"e{n}", at_micros=at_micros)])
            await until_audited(ledger, 4)
            assert await events_of(ledger) == ["e0", "e1", "e2", "e3"]
            assert await events_of(ledger, until_micros=NOW_MICROS) == ["e1", "e3"]

    asyncio.run(main())


def test_the_hash_is_over_number_and_all_columns() -> None:
    row = (1, *columns(entry("a", detail={"b": 1})))
    base = link(bytes(32), row)
    assert base != link(bytes(31) + b"\1", row)
    for i, other in enumerate((2, 0, "b", 2, "globex", "r2", "{}")):
        changed = list(row)
        changed[i] = other
        assert link(bytes(32), tuple(changed)) != base, i


def test_reading_in_portions_misses_nothing_and_repeats_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantd.ledger.trail.PIECE_ENTRIES", 7)
    conn = memory_ledger()
    append(conn, [entry("odd" if n % 2 else "even", tenant_id=n % 3, tenant=f"t{n % 3}") for n in range(1, 101)])
    for wanted, matches in (
        (Wanted(), lambda n: True),
        (Wanted(event="odd"), lambda n: n % 2 == 1),
        (Wanted(tenant_id=2, event="even"), lambda n: n % 3 == 2 and n % 2 == 0),
    ):
        for is_newest_first in (False, True):
            found: list[int] = []
            place: int | None = None
            while True:
                bound = {"before" if is_newest_first else "after": place}
                portion = select(conn, wanted, limit=4, is_newest_first=is_newest_first, **bound)
                found += [each.number for each in portion.entries]
                if (place := portion.next) is None:
                    break
            expected = [n for n in range(1, 101) if matches(n)]
            assert found == (expected[::-1] if is_newest_first else expected)
    conn.close()
