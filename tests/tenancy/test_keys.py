"""Keys: their shape, their checksum, what is stored of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import Tenant
from tenantd.errors import InvalidRequest, NotFound
from tenantd.tenancy import keys
from tenantd.tenancy import tenants as store
from tests.ledger.books import memory_ledger


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    with closing(memory_ledger()) as conn:
        store.add_tenant(conn, Tenant(name="acme"))
        yield conn


def test_keys_are_of_one_shape_and_never_the_same() -> None:
    made = {keys.new_secret() for _ in range(1000)}
    assert len(made) == 1000
    assert all(keys.is_well_formed(secret) for secret in made)
    assert {len(secret) for secret in made} == {42}
    assert set("".join(made)) <= set(keys.ALPHABET) | {"_"}
    assert {len({secret[at] for secret in made}) for at in range(4, 36)} == {62}  # all of the body is random


@given(at=st.integers(0, 41), letter=st.sampled_from(keys.ALPHABET + "_é\n "))
def test_one_wrong_letter_is_recognised(at: int, letter: str) -> None:
    secret = "td_0T4DmPvDzs3XJvVYDKpuhGSPmtV1ge8Yz7k"[:36]
    secret += keys._checksum(secret[3:])
    assert keys.is_well_formed(secret)
    wrong = secret[:at] + letter + secret[at + 1 :]
    assert keys.is_well_formed(wrong) == (wrong == secret)


@given(text=st.text(max_size=60))
def test_no_text_makes_the_check_stumble(text: str) -> None:
    for secret in (text, "td_" + text, ("td_" + text).ljust(42, "0")):
        keys.is_well_formed(secret)


def test_a_secret_is_shown_once_and_stored_as_its_hash(conn: sqlite3.Connection) -> None:
    info, secret = keys.create_key(conn, "acme", "laptop", now_micros=5)
    assert keys.list_keys(conn, 1) == [info]
    assert (info.tenant, info.label, info.created_micros, info.revoked_micros) == ("acme", "laptop", 5, None)
    assert info.prefix == secret[:8] and len(info.id) == 16 and info.id.startswith("key_")
    stored = "".join(str(row) for row in conn.execute("SELECT * FROM keys"))
    assert secret[8:] not in stored and secret not in stored
    live = keys.LiveKey("acme", info.id, frozenset(keys.TENANT_SCOPES), None, is_used=False)
    assert keys.live_keys(conn) == {keys.hash_secret(secret): live}


def test_a_key_is_revoked_once(conn: sqlite3.Connection) -> None:
    info, _ = keys.create_key(conn, "acme", "")
    other, _ = keys.create_key(conn, "acme", "")
    assert keys.revoke_key(conn, info.id, now_micros=8).revoked_micros == 8
    assert keys.revoke_key(conn, info.id, now_micros=9).revoked_micros == 8
    assert [key.id for key in keys.live_keys(conn).values()] == [other.id]
    with pytest.raises(NotFound):
        keys.revoke_key(conn, "key_unknown")


@pytest.mark.parametrize("label", ["a" * 65, "red\x1b[31m", "two\nlines", "\ud800"])
def test_a_label_that_would_spoil_a_table_is_refused(conn: sqlite3.Connection, label: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        keys.create_key(conn, "acme", label)
    assert refused.value.param == "label"
    assert keys.list_keys(conn, 1) == []
