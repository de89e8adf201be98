"""Ledgers of earlier schemas: brought up to date, they say what they said."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tenantd.ledger.migrations import migrate
from tests.ledger.old.kit import FOLDER, ledger_of, said, without_new

SCHEMAS = sorted(int(path.stem.removeprefix("schema_")) for path in FOLDER.glob("schema_*.sql"))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_reports_and_invoices_are_what_they_were(schema: int, tmp_path: Path) -> None:
    before = json.loads((FOLDER / f"said_{schema}.json").read_text("utf-8"))
    assert {row["state"] for row in before["requests"]} >= {"running", "interrupted", "stop", "failed"}
    with closing(sqlite3.connect(ledger_of(schema, tmp_path), isolation_level=None)) as conn:
        migrate(conn, "ledger.db")
        now = said(conn)
    assert now.keys() == before.keys()
    for what, each in before.items():
        assert without_new(each, now[what]) == each, what
