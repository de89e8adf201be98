"""Verification finds whatever was done to an audit trail, says what, and at which entry."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.errors import ConfigError
from tenantd.ledger import diagnosis
from tenantd.ledger import verify as verification
from tenantd.ledger.anchored import Anchors
from tenantd.ledger.audit import PRUNED, append, encode_row, link
from tenantd.ledger.diagnosis import Kind
from tenantd.ledger.verify import verify, verify_file
from tests.ledger.books import NOW_MICROS, open_ledger
from tests.ledger.trails import COPY, entry, insert, memory_trail, shift, swap, tamper
from tests.support.examples import examples

COLUMNS = ("at_micros", "event", "tenant_id", "tenant", "request_id", "detail")
FEW = examples(40)
OTHER = (7, "other", 7, "other", "other", '{"other":1}')


@contextmanager
def trail(count: int) -> Iterator[sqlite3.Connection]:
    conn = memory_trail(count)
    try:
        yield conn
    finally:
        conn.close()


def found(conn: sqlite3.Connection) -> tuple[Kind, int] | None:
    finding = verify(conn).finding
    return None if finding is None else (finding.kind, finding.number)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "PIECE_ENTRIES", 7)
    monkeypatch.setattr(diagnosis, "PIECE_ENTRIES", 5)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 21])
def test_a_whole_trail_is_whole(count: int) -> None:
    with trail(count) as conn:
        verdict = verify(conn)
        assert (verdict.finding, verdict.entries, verdict.number) == (None, count, count)


sizes = st.integers(4, 24)


@FEW
@given(data=st.data(), size=sizes)
def test_an_edited_entry_is_found(data: st.DataObject, size: int) -> None:
    number = data.draw(st.integers(1, size))
    which = data.draw(st.lists(st.integers(0, len(COLUMNS) - 1), min_size=1, unique=True))
    with trail(size) as conn:
        for i in which:
            conn.execute(f"UPDATE audit SET {COLUMNS[i]} = ? WHERE number = ?", (OTHER[i], number))
        if data.draw(st.booleans()):
            conn.execute("UPDATE audit SET hash = ? WHERE number = ?", (secrets.token_bytes(32), number))
        assert found(conn) == (Kind.EDITED, number)


@FEW
@given(data=st.data(), size=sizes)
def test_an_edited_hash_is_found(data: st.DataObject, size: int) -> None:
    number = data.draw(st.integers(1, size))
    with trail(size) as conn:
        conn.execute("UPDATE audit SET hash = ? WHERE number = ?", (secrets.token_bytes(32), number))
        assert found(conn) == (Kind.EDITED, number)


@FEW
@given(data=st.data(), size=sizes)
def test_an_entry_edited_with_a_hash_made_to_fit_is_found_at_the_entry_after_it(data: st.DataObject, size: int) -> None:
    number = data.draw(st.integers(1, size - 1))
    with trail(size) as conn:
        conn.execute("UPDATE audit SET tenant = 'other' WHERE number = ?", (number,))
        last = b"".join(row[0] for row in conn.execute("SELECT hash FROM audit WHERE number = ?", (number - 1,)))
        row = conn.execute(COPY, (number,)).fetchone()
        made = sha256((last or bytes(32)) + encode_row((number, *row[:-1]))).digest()
        conn.execute("UPDATE audit SET hash = ? WHERE number = ?", (made, number))
        assert found(conn) == (Kind.EDITED, number + 1)


@FEW
@given(data=st.data(), size=sizes)
def test_deleted_entries_are_found(data: st.DataObject, size: int) -> None:
    first = data.draw(st.integers(1, size - 1))
    last = data.draw(st.integers(first, size - 1))
    with trail(size) as conn:
        conn.execute("DELETE FROM audit WHERE number BETWEEN ? AND ?", (first, last))
        assert found(conn) == (Kind.DELETED, first)


@FEW
@given(data=st.data(), size=sizes, is_head_edited=st.booleans())
def test_deleted_entries_are_found_although_the_numbers_are_closed_up(
    data: st.DataObject, size: int, is_head_edited: bool
) -> None:
    first = data.draw(st.integers(1, size - 2))
    last = data.draw(st.integers(first, size - 2))  # with two left after them
    with trail(size) as conn:
        conn.execute("DELETE FROM audit WHERE number BETWEEN ? AND ?", (first, last))
        shift(conn, last + 1, first - last - 1)
        if is_head_edited:
            conn.execute("UPDATE audit_head SET number = number - ?", (last + 1 - first,))
        assert found(conn) == (Kind.DELETED, first)


@FEW
@given(data=st.data(), size=sizes)
def test_deleted_entries_are_found_although_only_one_is_left_after_them(data: st.DataObject, size: int) -> None:
    first = data.draw(st.integers(1, size - 1))
    with trail(size) as conn:
        conn.execute("DELETE FROM audit WHERE number BETWEEN ? AND ?", (first, size - 1))
        shift(conn, size, first - size)
        assert found(conn) == (Kind.DELETED, first)


@FEW
@given(data=st.data(), size=sizes, hashes=st.booleans())
def test_swapped_entries_are_found(data: st.DataObject, size: int, hashes: bool) -> None:
    one, other = sorted(data.draw(st.lists(st.integers(1, size), min_size=2, max_size=2, unique=True)))
    with trail(size) as conn:
        swap(conn, one, other, hashes=hashes)
        assert found(conn) == (Kind.REORDERED, one)


@FEW
@given(data=st.data(), size=sizes)
def test_a_moved_entry_is_found(data: st.DataObject, size: int) -> None:
    """One entry goes elsewhere, and those between close up."""
    source, target = data.draw(st.lists(st.integers(1, size), min_size=2, max_size=2, unique=True))
    with trail(size) as conn:
        conn.execute("UPDATE audit SET number = 1000 WHERE number = ?", (source,))
        step = 1 if source < target else -1
        for number in range(source, target, step):
            conn.execute("UPDATE audit SET number = ? WHERE number = ?", (number, number + step))
        conn.execute("UPDATE audit SET number = ? WHERE number = 1000", (target,))
        assert found(conn) == (Kind.REORDERED, min(source, target))


@FEW
@given(data=st.data(), size=sizes)
def test_an_entry_with_another_number_is_found(data: st.DataObject, size: int) -> None:
    number = data.draw(st.integers(1, size - 1))
    with trail(size) as conn:
        conn.execute("UPDATE audit SET number = 1000 WHERE number = ?", (number,))
        assert found(conn) == (Kind.REORDERED, number)


@FEW
@given(data=st.data(), size=sizes, count=st.integers(1, 3), is_head_edited=st.booleans())
def test_inserted_entries_are_found(data: st.DataObject, size: int, count: int, is_head_edited: bool) -> None:
    number = data.draw(st.integers(1, size))
    with trail(size) as conn:
        shift(conn, number, count)
        for i in range(count):
            insert(conn, number + i, secrets.token_bytes(32))
        if is_head_edited:
            conn.execute("UPDATE audit_head SET number = number + ?", (count,))
        assert found(conn) == (Kind.INSERTED, number)


@FEW
@given(data=st.data(), size=sizes)
def test_an_inserted_entry_is_found_although_its_hash_fits(data: st.DataObject, size: int) -> None:
    number = data.draw(st.integers(2, size))
    with trail(size) as conn:
        (last,) = conn.execute("SELECT hash FROM audit WHERE number = ?", (number - 1,)).fetchone()
        shift(conn, number, 1)
        insert(conn, number, link(last, (number, NOW_MICROS, "forged", 1, "acme", "r1", "{}")))
        assert found(conn) == (Kind.INSERTED, number)


@FEW
@given(data=st.data(), size=sizes)
def test_a_copy_of_an_entry_is_found(data: st.DataObject, size: int) -> None:
    number, source = data.draw(st.integers(1, size)), data.draw(st.integers(1, size))
    with trail(size) as conn:
        copied = conn.execute(COPY, (source,)).fetchone()
        shift(conn, number, 1)
        conn.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (number, *copied))
        # Of two copies side by side, the second is the inserted one.
        assert found(conn) == (Kind.INSERTED, number + (number == source))


@FEW
@given(size=sizes, fits=st.booleans(), gap=st.integers(1, 3))
def test_an_entry_after_the_head_is_found(size: int, fits: bool, gap: int) -> None:
    with trail(size) as conn:
        (last,) = conn.execute("SELECT hash FROM audit_head").fetchone()
        row = (size + gap, NOW_MICROS, "forged", 1, "acme", "r1", "{}")
        insert(conn, size + gap, link(last, row) if fits else bytes(32))
        assert found(conn) == (Kind.INSERTED, size + 1)


@FEW
@given(data=st.data(), size=sizes)
def test_entries_deleted_at_the_end_are_found(data: st.DataObject, size: int) -> None:
    first = data.draw(st.integers(1, size))
    with trail(size) as conn:
        conn.execute("DELETE FROM audit WHERE number >= ?", (first,))
        assert found(conn) == (Kind.TRUNCATED, first)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM audit_head", (Kind.TRUNCATED, 0)),
        ("UPDATE audit_head SET number = 9", (Kind.INSERTED, 10)),
        ("UPDATE audit_head SET number = 12", (Kind.TRUNCATED, 11)),
        ("UPDATE audit_head SET hash = zeroblob(32)", (Kind.EDITED, 10)),
        ("UPDATE audit_head SET pruned_number = 3", (Kind.INSERTED, 3)),
        ("UPDATE audit_head SET pruned_hash = randomblob(32)", (Kind.EDITED, 1)),
        ("UPDATE audit SET number = -4 WHERE number = 4", (Kind.INSERTED, -4)),
        ("UPDATE audit SET tenant = cast(x'fffe' AS TEXT) WHERE number = 4", (Kind.EDITED, 4)),
        ("UPDATE audit SET detail = cast(x'ff' AS TEXT) WHERE number = 9", (Kind.EDITED, 9)),
    ],
)
def test_an_altered_head_and_text_that_is_none_are_found(statement: str, expected: tuple[Kind, int]) -> None:
    with trail(10) as conn:
        conn.execute(statement)
        assert found(conn) == expected


def test_a_forged_checkpoint_is_found() -> None:
    """Entries at the beginning are deleted as if they had been pruned."""
    with trail(10) as conn:
        (digest,) = conn.execute("SELECT hash FROM audit WHERE number = 4").fetchone()
        conn.execute("DELETE FROM audit WHERE number <= 4")
        conn.execute("UPDATE audit_head SET pruned_number = 4, pruned_hash = ?", (digest,))
        assert found(conn) == (Kind.DELETED, 1)


def test_a_trail_that_was_continued_after_damage_stays_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    async def opened() -> None:
        await open_ledger(path).close()

    asyncio.run(opened())
    assert verify_file(path).finding is None
    tamper(path, "DELETE FROM audit_head")
    asyncio.run(opened())
    finding = verify_file(path).finding
    assert finding is not None and (finding.kind, finding.number) == (Kind.TRUNCATED, 2)


def test_it_can_be_verified_while_it_grows_and_is_pruned_meanwhile() -> None:
    with trail(30) as conn:
        conn.execute("COMMIT")

        def meanwhile(done: int, of: int) -> None:
            if of < 60:
                append(conn, [entry("more")])

        conn.execute("BEGIN")
        verdict = verify(conn, None, meanwhile)
        assert (verdict.finding, verdict.entries) == (None, verdict.number)
        assert verdict.number > 30


def anchors_of(conn: sqlite3.Connection, path: Path, *numbers: int, extra: bytes = b"") -> Anchors:
    lines = []
    for number in numbers:
        (digest,) = conn.execute("SELECT hash FROM audit WHERE number = ?", (number,)).fetchone()
        lines.append(b'{"at": "2026-11-29T15:00:00Z", "number": %d, "hash": "%s"}\n' % (number, digest.hex().encode()))
    path.write_bytes(b"".join(lines) + extra)
    return Anchors.read(path)


def rewrite(conn: sqlite3.Connection, first: int) -> None:
    """What somebody does who can write the file: new hashes from an edited entry to the head."""
    rows = conn.execute("SELECT number, detail FROM audit WHERE number >= ? ORDER BY number", (first,)).fetchall()
    before = conn.execute("SELECT hash FROM audit WHERE number = ?", (first - 1,)).fetchone()
    last = bytes(32) if before is None else before[0]
    conn.execute("UPDATE audit SET tenant = 'nobody' WHERE number = ?", (first,))
    for number, _ in rows:
        row = conn.execute(COPY, (number,)).fetchone()
        last = link(last, (number, *row[:-1]))
        conn.execute("UPDATE audit SET hash = ? WHERE number = ?", (last, number))
    conn.execute("UPDATE audit_head SET hash = ?", (last,))


@FEW
@given(data=st.data(), size=sizes)
def test_only_anchors_find_a_rewritten_history(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, size: int
) -> None:
    path = tmp_path_factory.mktemp("anchors") / "anchor"
    anchored = sorted(data.draw(st.sets(st.integers(1, size), min_size=1)))
    first = data.draw(st.integers(1, anchored[-1]))
    with trail(size) as conn:
        anchors = anchors_of(conn, path, *anchored)
        rewrite(conn, first)
        assert found(conn) is None
        finding = verify(conn, anchors).finding
        assert finding is not None
        assert (finding.kind, finding.number) == (Kind.REWRITTEN, min(n for n in anchored if n >= first))
        assert verify(conn, Anchors.read(path)).anchors == sum(n < first for n in anchored)


def test_anchors_of_a_whole_trail_agree_and_a_line_that_is_cut_off_is_no_tampering(tmp_path: Path) -> None:
    with trail(10) as conn:
        extra = b"Nov 29 host tenantd: something else\n\n" + b'{"at": "2026-11-29T15:00:00Z", "num'
        verdict = verify(conn, anchors_of(conn, tmp_path / "anchor", 2, 2, 7, 10, extra=extra))
        assert (verdict.finding, verdict.anchors) == (None, 3)
        assert verdict.notes == [
            "the last line, 7, is cut off and was ignored",
            "1 line is not an anchor and was ignored",
        ]


def test_a_trail_that_ends_before_an_anchor_is_older_or_cut_off(tmp_path: Path) -> None:
    with trail(10) as conn:
        anchors = anchors_of(conn, tmp_path / "anchor", 3, 9)
        (digest,) = conn.execute("SELECT hash FROM audit WHERE number = 6").fetchone()
        conn.execute("DELETE FROM audit WHERE number > 6")
        conn.execute("UPDATE audit_head SET number = 6, hash = ?", (digest,))
        assert found(conn) is None
        verdict = verify(conn, anchors)
        assert verdict.finding is not None
        assert (verdict.finding.kind, verdict.finding.number, verdict.anchors) == (Kind.OLDER, 7, 1)
        assert "backup" in verdict.finding.message


def test_a_restored_backup_that_went_on_differs_from_later_anchors_and_the_file_tells(tmp_path: Path) -> None:
    path = tmp_path / "anchor"
    with trail(10) as conn:
        anchors_of(conn, path, 3, 9)
    with trail(6) as conn:
        append(conn, [entry("since")] * 8)
        lines = path.read_bytes()
        anchors_of(conn, path, 8)
        path.write_bytes(lines + path.read_bytes())
        verdict = verify(conn, Anchors.read(path))
        assert verdict.finding is not None
        assert (verdict.finding.kind, verdict.finding.number) == (Kind.REWRITTEN, 9)
        assert "after entry 8, or a backup" in verdict.finding.message
        assert "line 3: the numbers go back" in verdict.notes[0]


def test_an_entry_about_pruning_that_says_nothing_of_it_is_found() -> None:
    with trail(3) as conn:
        append(conn, [entry(PRUNED, detail={"through": "all"})])
        assert found(conn) == (Kind.EDITED, 4)


HUGE = b'{"at": "x", "number": 9223372036854775808, "hash": "' + b"0" * 64 + b'"}\n'


@pytest.mark.parametrize("content", [b"", b"nothing\n", b'{"at": "x", "number": 1, "hash": "12"}\n', HUGE])
def test_a_file_without_anchors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "anchor").write_bytes(content)
    with pytest.raises(ConfigError, match="no anchor"):
        Anchors.read(tmp_path / "anchor")
    with pytest.raises(ConfigError, match="No such file"):
        Anchors.read(tmp_path / "missing")


def test_a_file_without_a_trail_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        verify_file(tmp_path / "ledger.db")
    sqlite3.connect(tmp_path / "ledger.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(ConfigError, match="no audit trail"):
        verify_file(tmp_path / "ledger.db")
