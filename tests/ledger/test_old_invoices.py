"""Invoices of ledgers of earlier schemas.

They differ from what the old programs said in three ways. A request counts in the month in which it ended, no longer
in that of its admission. Lines with the same price are one line, and only prices that changed are named in them. A
tenant is called as at its last request before the month's end. All else is as it was.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tenantd.ledger.invoices import parse_month
from tenantd.ledger.migrations import migrate
from tests.ledger.old.kit import FOLDER, MONTHS, NOW_MICROS, TIMEZONE, ledger_of, said
from tests.ledger.test_old_ledgers import SCHEMAS, opened

Lines = Counter[tuple[str, str]]
AMOUNTS = {"input tokens": "input_nanos", "output tokens": "output_nanos", "engine time": "engine_nanos"}
QUANTITIES = {"input tokens": "prompt_tokens", "output tokens": "completion_tokens", "engine time": "engine_micros"}


@pytest.fixture(params=SCHEMAS)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the old program said, and what is said now."""
    before = json.loads((FOLDER / f"said_{request.param}.json").read_text("utf-8"))
    with opened(ledger_of(request.param, tmp_path)) as conn:
        migrate(conn, "ledger.db")
        return before, said(conn)


def bounds(name: str) -> tuple[int, int]:
    month = parse_month(name, TIMEZONE, NOW_MICROS)
    return month.since_micros, month.until_micros


def ended_micros(row: dict[str, Any]) -> int:
    if row["duration_micros"] is not None:
        return int(row["created_micros"] + row["duration_micros"])
    return int(row.get("interrupted_micros") or row["created_micros"])


def rows_of(before: dict[str, Any], name: str, tenant: str, when: Any) -> list[dict[str, Any]]:
    since, until = bounds(name)
    return [
        row
        for row in before["requests"]
        if row["tenant"] == tenant and row["state"] != "running" and not row["unbilled"] and since <= when(row) < until
    ]


def summed(lines: list[dict[str, Any]]) -> Lines:
    """Quantities and amounts of each kind of line, whatever prices it has."""
    found: Lines = Counter()
    for line in lines:
        kind = line["description"].partition(" at ")[0]
        found[kind, "quantity"] += line["quantity"]
        found[kind, "amount"] += line["amount_nanos"]
    return found


def test_what_did_not_cross_the_end_of_a_month_is_billed_as_it_was(both: Any) -> None:
    before, now = both
    compared = 0
    for old, new in zip(before["invoices"], now["invoices"], strict=True):
        same = ("month", "timezone", "since_micros", "until_micros", "currency", "open")
        assert {name: old[name] for name in same} == {name: new[name] for name in same}
        parts = {part["tenant_id"] if "tenant_id" in part else part["tenant"]: part for part in new["tenants"]}
        for part in old["tenants"]:
            created, ended = (
                rows_of(before, old["month"], part["tenant"], when)
                for when in (lambda row: row["created_micros"], ended_micros)
            )
            if created != ended:
                continue
            now_part = parts.get(part.get("tenant_id")) or next(
                p for p in parts.values() if p["tenant"] == part["tenant"]
            )
            for name in ("tenant", "requests", "prompt_tokens", "completion_tokens", "engine_micros", "total_nanos"):
                assert now_part[name] == part[name], name
            assert summed(now_part["lines"]) == summed(part["lines"])
            compared += 1
    assert compared >= 5


def test_everything_is_billed_in_the_month_of_its_end(both: Any) -> None:
    before, now = both
    for new in now["invoices"]:
        tenants = {row["tenant"] for row in before["requests"]}
        for tenant in tenants:
            rows = rows_of(before, new["month"], tenant, ended_micros)
            (part,) = [part for part in new["tenants"] if part["tenant"] == tenant] or [None]
            if part is None:
                assert rows == []
                continue
            expected: Lines = Counter()
            for row in rows:
                for kind, column in AMOUNTS.items():
                    expected[kind, "amount"] += row[column]
                    expected[kind, "quantity"] += row[QUANTITIES[kind]]
            found = summed(part["lines"])
            del found["engine time", "quantity"]  # has a line only while it has a price
            assert part["engine_micros"] == expected.pop(("engine time", "quantity"))
            assert found == expected
            assert part["requests"] == len(rows)
    assert sum(part["requests"] for new in now["invoices"] for part in new["tenants"]) > 50


def test_all_months_together_come_to_what_they_came_to(both: Any) -> None:
    before, now = both
    outside = [row for row in before["requests"] if ended_micros(row) >= bounds(MONTHS[-1])[1]]
    assert not outside
    totals = [sum(month["total_nanos"] for month in said["invoices"]) for said in (before, now)]
    assert totals[0] == totals[1]
