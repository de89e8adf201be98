"""A key is meant by its id, or by a part of it that no other key has."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from tenantd.errors import Conflict
from tenantd.tenancy.key_parts import key_meant
from tests.ledger.books import memory_ledger

ONE, OTHER = "key_AAAAbbbb1111", "key_AAAAcccc1111"


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    """Two keys that begin and end alike."""
    with closing(memory_ledger()) as conn:
        for key_id in (ONE, OTHER):
            conn.execute(
                "INSERT INTO keys (id, hash, prefix, label, created_micros, scopes) VALUES (?, ?, 'x', '', 1, 'admin')",
                (key_id, key_id.ljust(64, "0")),
            )
        yield conn


@pytest.mark.parametrize("text", [ONE, "key_AAAAb", "AAAAb", " b1111\n", "AAAAbbbb111"])
def test_a_part_that_only_one_has_is_enough(conn: sqlite3.Connection, text: str) -> None:
    assert key_meant(conn, text) == ONE


@pytest.mark.parametrize("text", ["AAAA", "key_AAAA", "1111"])
def test_one_that_several_have_is_refused(conn: sqlite3.Connection, text: str) -> None:
    with pytest.raises(Conflict, match="several keys"):
        key_meant(conn, text)


def test_a_tenant_means_only_its_own(conn: sqlite3.Connection) -> None:
    conn.execute("PRAGMA foreign_keys = OFF")  # their tenants are not needed
    for tenant_id, key_id in ((1, ONE), (2, OTHER)):
        conn.execute("UPDATE keys SET tenant = 't', tenant_id = ? WHERE id = ?", (tenant_id, key_id))
    assert [key_meant(conn, "AAAA", tenant_id) for tenant_id in (1, 2, 3)] == [ONE, OTHER, "AAAA"]
    assert key_meant(conn, "b1111", 2) == "b1111"


@pytest.mark.parametrize("text", ["", "111", "aaaa", "key_1111", "%", "key_", "zzzz", "key_zzzzzzzzzzzz", "{{{{"])
def test_anything_else_is_left_as_it_is(conn: sqlite3.Connection, text: str) -> None:
    assert key_meant(conn, text) == text
