"""Requests found by time, tenant, key and state: all that match and no others, in pages of any size."""

from __future__ import annotations

from contextlib import closing
from sqlite3 import Connection
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason
from tenantd.errors import Conflict, NotFound
from tenantd.ledger import selection
from tenantd.ledger.reports import recent_requests
from tenantd.ledger.requests import insert_request, settle_request
from tenantd.ledger.selection import WantedRequests, request_meant, select_requests
from tests.ledger.books import BILLING, TENANT_IDS, add_prices, admission, memory_ledger, settlement
from tests.support.examples import examples


class Row(NamedTuple):
    tenant: str
    key_id: str | None
    state: FinishReason | None
    created_micros: int


rows = st.lists(
    st.builds(
        Row,
        st.sampled_from(["acme", "globex"]),
        st.sampled_from([None, "key_1", "key_2"]),
        st.sampled_from([None, FinishReason.STOP, FinishReason.FAILED]),
        st.integers(0, 6),
    ),
    max_size=14,
)
moments = st.none() | st.integers(0, 7)


def ledger_of(made: list[Row]) -> Connection:
    conn = memory_ledger()
    add_prices(conn, BILLING, 0)
    for n, row in enumerate(made):
        fields = {"tenant": row.tenant, "key_id": row.key_id, "created_micros": row.created_micros}
        insert_request(conn, admission(f"req_{n:032x}", **fields))
        if row.state is not None:
            settle_request(conn, settlement(f"req_{n:032x}", state=row.state))
    return conn


def all_of(conn: Connection, wanted: WantedRequests, page: int) -> list[str]:
    """Page by page."""
    found: list[str] = []
    after: str | None = None
    while True:
        portion = select_requests(conn, wanted, page, after)
        assert len(portion.requests) <= page
        found += [row.id for row in portion.requests]
        if (after := portion.next) is None:
            return found


@given(
    made=rows,
    tenant=st.sampled_from([None, "acme", "globex"]),
    key_id=st.sampled_from([None, "key_1"]),
    state=st.sampled_from([None, "running", "stop"]),
    between=st.tuples(moments, moments),
    live=st.none() | st.sets(st.integers(0, 14)),
    page=st.integers(1, 5),
    piece=st.integers(1, 4),
)
@examples(300)
def test_every_page_size_finds_what_matches_newest_first(
    made: list[Row],
    tenant: str | None,
    key_id: str | None,
    state: str | None,
    between: tuple[int | None, int | None],
    live: set[int] | None,
    page: int,
    piece: int,
) -> None:
    ids = None if live is None else [f"req_{n:032x}" for n in live]
    number = None if tenant is None else TENANT_IDS.setdefault(tenant, len(TENANT_IDS) + 1)
    since, until = between
    wanted = WantedRequests(
        tenant_id=number, key_id=key_id, state=state, since_micros=since, until_micros=until, ids=ids
    )
    with closing(ledger_of(made)) as conn, pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "PIECE_ROWS", piece)
        patch.setattr(selection, "PORTION_S", -1)  # every portion ends after its first piece
        expected = [
            row.id
            for row in recent_requests(conn, None, 100)
            if tenant in (None, row.tenant)
            and key_id in (None, row.key_id)
            and state in (None, row.state)
            and (since or 0) <= row.created_micros < (100 if until is None else until)
            and (ids is None or row.id in ids)
        ]
        assert all_of(conn, wanted, page) == expected


def test_digits_at_the_end_mean_a_new_request_before_all_others_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    oldest, older, newest = (f"req_{n:024x}{end:08x}" for n, end in ((1, 8), (2, 7), (3, 7)))
    with closing(memory_ledger()) as conn:
        add_prices(conn, BILLING, 0)
        for request_id in (newest, oldest, older):
            insert_request(conn, admission(request_id))
        with pytest.raises(Conflict, match="several"):
            request_meant(conn, "00000007")
        monkeypatch.setattr(selection, "MOST_NEW", 1)
        assert request_meant(conn, "00000007") == newest
        assert request_meant(conn, "00000008") == oldest


def test_a_request_is_meant_by_digits_at_either_end_if_no_other_has_them() -> None:
    acme, globex = ledger_ids = [f"req_00000000{n:016x}{n + 7:08x}" for n in (1, 2)]
    with closing(memory_ledger()) as conn:
        add_prices(conn, BILLING, 0)
        for request_id, tenant in zip(ledger_ids, ("acme", "globex"), strict=True):
            insert_request(conn, admission(request_id, tenant=tenant))
        number = TENANT_IDS["acme"]
        for tenant_id in (None, number):
            assert request_meant(conn, acme, tenant_id) == request_meant(conn, "cmpl-" + acme[4:], tenant_id) == acme
            assert request_meant(conn, acme[-8:], tenant_id) == acme
            assert request_meant(conn, acme[:29], tenant_id) == request_meant(conn, acme[4:29], tenant_id) == acme
            for text in ("", "1234567", "req_1", "x" * 8, "f" * 8, "%" * 8, "req_" + acme[-8:]):
                with pytest.raises(NotFound):
                    request_meant(conn, text, tenant_id)
        with pytest.raises(Conflict, match="several"):
            request_meant(conn, "req_00000000")
        assert request_meant(conn, "req_00000000", number) == acme, "the other's is not looked at"
        with pytest.raises(NotFound):
            request_meant(conn, globex[-8:], number)
        with pytest.raises(NotFound):
            select_requests(conn, WantedRequests(), 5, "req_unknown")
