"""Finalised invoices: numbered, unchanged by what comes later, credited, and verified."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import Usage
from tenantd.errors import Conflict, InvalidRequest, NotFound
from tenantd.ledger.audit import Entry, append, read_head
from tenantd.ledger.finalising import credit, keep, make_ready
from tenantd.ledger.invoice_proof import prove
from tenantd.ledger.invoices import Month, invoice
from tenantd.ledger.issued import Record, issued, listed
from tenantd.ledger.paperwork import Paperwork, TenantInvoice, digest, encoded
from tenantd.ledger.requests import insert_request, interrupt_running, settle_request
from tenantd.ledger.unsettled import FILE_NAME, TakenIn, Unsettled
from tests.ledger.bills import HOUR, NOVEMBER, NOW, USED, add, add_tenant, ledger, month, no_record, price_list
from tests.ledger.books import admission, settlement
from tests.support.examples import examples

PAPERS = Paperwork(prefix="INV-", tax_name="VAT", tax_percent="19")
MIDDLE = "2026-11-15 12:00"


def recorded(conn: sqlite3.Connection, action: str = "invoice_finalized") -> Record:
    """An entry of the audit trail for each."""

    def record(document: TenantInvoice, sha256: str) -> int | None:
        detail = {"action": action, "after": {"number": document.number, "sha256": sha256}}
        append(conn, [Entry(at_micros=NOW, event="administered", tenant_id=document.tenant_id, detail=detail)])
        head = read_head(conn)
        return head.number if head else None

    return record


def finalise(conn: sqlite3.Connection, which: Month = NOVEMBER, tenant_id: int | None = None) -> list[TenantInvoice]:
    ready = make_ready(conn, which, tenant_id, PAPERS)
    return keep(conn, which, tenant_id, ready, PAPERS.prefix, NOW, recorded(conn))


def give(conn: sqlite3.Connection, number: str, amount_nanos: int | None = None) -> TenantInvoice:
    return credit(conn, number, "outage", amount_nanos, PAPERS.prefix, NOW, recorded(conn, "invoice_credited"))


def problems(conn: sqlite3.Connection, number: str | None = None) -> list[str]:
    return [f"{finding.number}: {finding.problem}" for finding in prove(conn, number).findings]


def test_it_gets_the_next_number_and_is_the_same_ever_after() -> None:
    with ledger() as conn:
        add(conn, "r1", MIDDLE)
        add(conn, "r2", MIDDLE, tenant="globex", tenant_id=2)
        acme, globex = finalise(conn)
        assert (acme.number, globex.number, acme.issued_micros) == ("INV-000001", "INV-000002", NOW)
        assert finalise(conn) == []
        add_tenant(conn, 1, "renamed", billing='{"name":"New"}')
        shown = invoice(conn, NOVEMBER, papers=Paperwork(terms="others")).tenants
        assert shown == [acme, globex]
        assert msgspec.structs.replace(acme, number=None, issued_micros=None).total_nanos == 29_867
        row = issued(conn, "INV-000001")
        assert row == issued(conn, "1") and row.document == encoded(acme) and row.hash == digest(row.document)
        assert problems(conn) == []


def test_what_is_settled_later_counts_in_the_month_after() -> None:
    with ledger() as conn:
        add(conn, "r1", MIDDLE)
        (before,) = finalise(conn)
        add(conn, "late", "2026-11-30 12:00", tenant_id=1)
        add(conn, "of another", "2026-11-30 12:00", tenant="globex", tenant_id=2)
        insert_request(conn, admission("killed", created_micros=NOVEMBER.until_micros - HOUR))
        interrupt_running(conn, NOVEMBER.until_micros - 1)
        assert [part.requests for part in invoice(conn, NOVEMBER).tenants] == [before.requests, 1]
        (december,) = invoice(conn, month("2026-12"), 1).tenants
        assert december.requests == 2
        (globex,) = finalise(conn)
        assert (globex.tenant, globex.number) == ("globex", "INV-000002")
        assert problems(conn) == []


def test_a_month_that_is_not_over_or_has_running_requests_is_refused_with_what_to_do() -> None:
    with ledger() as conn:
        add(conn, "r1", MIDDLE)
        with pytest.raises(Conflict, match=r"once it is over, on 2026-12-01 \(UTC\).*--month last"):
            finalise(conn, month("2026-11", now_micros=NOVEMBER.until_micros - 1))
        insert_request(conn, admission("running", created_micros=NOVEMBER.until_micros - 1))
        with pytest.raises(Conflict, match=r"1 request .* is still running; wait, or cancel"):
            finalise(conn)
        insert_request(conn, admission("of another", tenant="globex", tenant_id=2, created_micros=NOW))
        settle_request(conn, settlement("running", duration_micros=HOUR))
        assert len(finalise(conn)) == 1


def test_what_came_in_between_reading_and_writing_is_noticed() -> None:
    with ledger() as conn:
        add(conn, "r1", MIDDLE)
        ready = make_ready(conn, NOVEMBER, None, PAPERS)
        add(conn, "clock was wrong", "2026-11-30 12:00")
        with pytest.raises(Conflict, match="try again"):
            keep(conn, NOVEMBER, None, ready, "", NOW, no_record)
        assert listed(conn) == []


def test_a_tenant_without_usage_gets_one_if_it_is_named_and_was_there() -> None:
    with ledger() as conn:
        add_tenant(conn, 1, "acme")
        add_tenant(conn, 2, "new", created_micros=NOW)
        assert finalise(conn) == []
        (zero,) = finalise(conn, tenant_id=1)
        assert (zero.number, zero.total_nanos, zero.lines) == ("INV-000001", 0, [])
        with pytest.raises(Conflict, match="new did not exist in 2026-11"):
            finalise(conn, tenant_id=2)


def test_the_table_refuses_changes_and_a_second_invoice_of_a_month() -> None:
    with ledger() as conn:
        add(conn, "r1", MIDDLE)
        finalise(conn)
        for statement in ("UPDATE invoices SET tenant = 'x'", "DELETE FROM invoices"):
            with pytest.raises(sqlite3.IntegrityError, match="tenantctl invoice credit"):
                conn.execute(statement)
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            conn.execute(
                """INSERT INTO invoices SELECT 2, kind, tenant_id, tenant, month, since_micros, until_micros,
                total_nanos, document, hash, credits, at_micros, audit_number FROM invoices"""
            )


def test_credit_notes_are_new_records_and_together_at_most_the_invoice() -> None:
    with ledger(price_list(engine_hour_nanos=0)) as conn:
        add(conn, "r1", MIDDLE, Usage(prompt_tokens=100_450_000))  # 10.045 and 19% tax
        (bill,) = finalise(conn)
        first = give(conn, "INV-000001", 3_333_333_333)
        assert (first.number, first.kind, first.credits, first.reason) == (
            "INV-000002",
            "credit_note",
            "INV-000001",
            "outage",
        )
        assert (first.total_nanos, first.requests, first.month) == (-3_333_333_333, 0, "2026-11")
        with pytest.raises(Conflict, match=r"only 6\.711666667 USD before tax is left"):
            give(conn, "1", 6_711_666_668)
        rest = give(conn, "1")
        assert first.total_nanos + rest.total_nanos == -bill.total_nanos
        assert first.payable_nanos + rest.payable_nanos == -bill.payable_nanos, "all that was to pay is paid back"
        with pytest.raises(Conflict, match="nothing is left"):
            give(conn, "1", 1)
        with pytest.raises(Conflict, match="is a credit note"):
            give(conn, "INV-000002")
        with pytest.raises(NotFound, match="tenantctl invoice list"):
            give(conn, "INV-000009")
        assert [(row.number, row.credited_nanos) for row in listed(conn)] == [
            ("INV-000003", 0),
            ("INV-000002", 0),
            ("INV-000001", bill.total_nanos),
        ]
        assert problems(conn) == []
        assert prove(conn, "1").checked == 3


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501, "two\nlines", "bell\a"])
def test_a_credit_note_needs_a_reason(reason: str) -> None:
    with ledger() as conn, pytest.raises(InvalidRequest, match="reason"):
        credit(conn, "1", reason, None, "", NOW, no_record)


@given(parts=st.lists(st.integers(1, 10**11), max_size=6), tokens=st.integers(1, 10**9))
@examples(40)
def test_credits_never_pass_the_invoice_and_all_of_it_can_be_credited(parts: list[int], tokens: int) -> None:
    with ledger(price_list(engine_hour_nanos=0)) as conn:
        add(conn, "r1", MIDDLE, Usage(prompt_tokens=tokens))
        (bill,) = finalise(conn)
        notes = []
        for part in parts:
            left = bill.total_nanos + sum(note.total_nanos for note in notes)
            if part > left:
                with pytest.raises(Conflict):
                    give(conn, "1", part)
            else:
                notes.append(give(conn, "1", part))
        if bill.total_nanos + sum(note.total_nanos for note in notes):
            notes.append(give(conn, "1"))
        assert sum(note.total_nanos for note in notes) == -bill.total_nanos
        assert sum(note.payable_nanos for note in notes) == -bill.payable_nanos
        assert sum(note.tax_nanos for note in notes) == -bill.tax_nanos
        assert problems(conn) == []


# -- what verification finds


def alter(conn: sqlite3.Connection, statement: str, *values: Any) -> None:
    """As somebody with the file does."""
    conn.execute("PRAGMA foreign_keys = OFF")
    for name in ("invoices_are_never_changed", "invoices_are_never_deleted"):
        conn.execute(f"DROP TRIGGER IF EXISTS {name}")
    conn.execute(statement, values)


def forge(conn: sqlite3.Connection) -> None:
    row = issued(conn, "1")
    document = row.document.replace('"amount_nanos":1200,', '"amount_nanos":1201,')
    document = document.replace('"total_nanos":29867', '"total_nanos":29868')
    assert document != row.document
    statement = "UPDATE invoices SET document = ?, hash = ?, total_nanos = total_nanos + 1 WHERE number = 1"
    alter(conn, statement, document, digest(document))


ALTERATIONS: dict[str, tuple[Callable[[sqlite3.Connection], None], list[str]]] = {
    "a document": (
        lambda conn: alter(conn, "UPDATE invoices SET document = replace(document, 'acme', 'ACME') WHERE number = 1"),
        ["INV-000001: its document does not have its hash"],
    ),
    "not a document": (
        lambda conn: alter(conn, "UPDATE invoices SET document = '[' WHERE number = 1"),
        ["1: its document is not that of an invoice"],
    ),
    "document and hash": (
        forge,
        ["INV-000001: the audit trail has another hash", "requests come to", "rows come to"],
    ),
    "a column": (
        lambda conn: alter(conn, "UPDATE invoices SET month = '2026-10' WHERE number = 1"),
        ["INV-000001: its row and its document do not agree"],
    ),
    "one in the middle": (
        lambda conn: alter(conn, "DELETE FROM invoices WHERE number = 1"),
        ["None: numbers are missing: 1", "INV-000003: it credits no invoice"],
    ),
    "the last": (
        lambda conn: alter(conn, "DELETE FROM invoices WHERE number = 3"),
        ["INV-000003: the audit trail has it, but the ledger does not"],
    ),
    "a row": (
        lambda conn: alter(conn, "UPDATE requests SET input_nanos = input_nanos + 1 WHERE id = 'r1'"),
        ["INV-000001: its rows come to"],
    ),
    "an hour": (
        lambda conn: alter(conn, "UPDATE hours SET output_nanos = output_nanos + 1 WHERE tenant_id = 1"),
        ["INV-000001: its requests come to"],
    ),
    "the entry": (
        lambda conn: (
            conn.execute("DROP TRIGGER audit_is_only_pruned"),
            alter(conn, "DELETE FROM audit WHERE number = 1"),
        )[1],
        ["INV-000001: the audit trail no longer has its entry"],
    ),
    "a credit": (
        lambda conn: alter(conn, "UPDATE invoices SET total_nanos = -30000 WHERE number = 3"),
        ["INV-000003: its row and its document do not agree", "credits more than its invoice"],
    ),
}


@pytest.mark.parametrize("what", ALTERATIONS)
def test_what_was_altered_is_found(what: str) -> None:
    change, expected = ALTERATIONS[what]
    with ledger() as conn:
        add(conn, "r1", MIDDLE)
        add(conn, "r2", MIDDLE, tenant="globex", tenant_id=2)
        finalise(conn)
        give(conn, "INV-000001", 100)
        assert problems(conn) == []
        change(conn)
        found = problems(conn)
    assert len(found) == len(expected), found
    for problem, words in zip(found, expected, strict=True):
        assert words in problem, found


def test_pruned_rows_and_an_audit_trail_that_is_off_are_said_and_are_no_problem() -> None:
    with ledger() as conn:
        add(conn, "r1", MIDDLE)
        ready = make_ready(conn, NOVEMBER, None, PAPERS)
        keep(conn, NOVEMBER, None, ready, "", NOW, no_record)
        conn.execute("DELETE FROM requests")
        proof = prove(conn)
    assert (proof.checked, proof.without_rows, proof.without_entry, proof.findings) == (1, 1, 1, [])


def test_no_request_is_on_two_invoices_or_on_none_after_the_time_zone_changed() -> None:
    berlin, utc = "Europe/Berlin", "UTC"
    for before, after in ((berlin, utc), (utc, berlin), ("Asia/Kolkata", "America/St_Johns")):
        with ledger() as conn:
            for n in range(-30, 30):
                add(conn, f"r{n}", NOVEMBER.until_micros + n * HOUR, USED)
            finalise(conn, month("2026-11", before))
            (november,) = invoice(conn, month("2026-11", after)).tenants
            (december,) = invoice(conn, month("2026-12", after)).tenants
            assert december.since_micros == november.until_micros
            assert november.requests + december.requests == 60
            assert problems(conn) == []


def test_a_month_that_begins_elsewhere_since_it_was_added_up_is_added_up_again() -> None:
    with ledger() as conn:
        for n in range(-3, 3):
            add(conn, f"r{n}", NOVEMBER.until_micros + n * HOUR, USED)
        december = month("2026-12", "UTC", NOW + 31 * 24 * HOUR)
        ready = make_ready(conn, december, None, PAPERS)
        finalise(conn, month("2026-11", "America/New_York"))
        with pytest.raises(Conflict, match="month before 2026-12 was finalised meanwhile; try again"):
            keep(conn, december, None, ready, "", NOW, no_record)
        finalise(conn, december)
        assert finalise(conn, december) == [], "what is finalised stays"
        assert [part.requests for part in invoice(conn, month("2026-11")).tenants] == [6]


def test_what_is_on_a_finalised_invoice_is_not_settled_anew_from_what_was_set_aside(tmp_path: Path) -> None:
    ended = settlement("r1", USED)
    (tmp_path / FILE_NAME).write_bytes(msgspec.json.encode(Unsettled(settlement=ended)) + b"\n")
    with ledger() as conn:
        add(conn, "r0", MIDDLE)
        insert_request(conn, admission("r1", created_micros=NOVEMBER.until_micros - HOUR))
        interrupt_running(conn, NOVEMBER.until_micros - 1)
        (bill,) = finalise(conn)
        taken = TakenIn(tmp_path)
        conn.execute("BEGIN")
        taken.settle(conn, NOW)
        conn.execute("COMMIT")
        assert (taken.settled, len(taken.rejected), bill.requests) == (0, 1, 2)
        assert invoice(conn, NOVEMBER).tenants == [bill] and problems(conn) == []
        assert invoice(conn, month("2026-12")).tenants == []


def test_what_may_have_been_pruned_is_not_settled_again_from_what_was_set_aside(tmp_path: Path) -> None:
    ended = settlement("r1", USED)
    before, after = (
        Unsettled(settlement=msgspec.structs.replace(ended, id=name), admission=admission(name, created_micros=micros))
        for name, micros in (("r1", NOVEMBER.until_micros - 1), ("r2", NOVEMBER.until_micros))
    )
    (tmp_path / FILE_NAME).write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in (before, after)))
    with ledger() as conn:
        conn.execute(
            "INSERT INTO row_prunings (month, timezone, until_micros, at_micros) VALUES ('2026-12', 'UTC', ?, ?)",
            (NOVEMBER.until_micros, NOW),
        )
        taken = TakenIn(tmp_path, audits=False)
        conn.execute("BEGIN")
        taken.settle(conn, NOW)
        conn.execute("COMMIT")
        assert (taken.settled, taken.rejected) == (1, [msgspec.json.encode(before)])
