"""kill -9 while a process writes: what it was told is durable is there, and nothing stays running."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantd.domain import Usage
from tenantd.ledger.ledger import RequestRecord
from tenantd.ledger.prices import all_prices, cost_of
from tenantd.ledger.reports import recent_requests
from tenantd.ledger.verify import verify
from tests.ledger.books import ledger_in

ROOT = Path(__file__).parents[2]


def lines_until_killed(folder: Path, count: int) -> Iterator[tuple[str, str, int]]:
    """What the process said: killed after so many lines, read to the end of the pipe."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.ledger.load", str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout, 1):
            if number == count:
                process.kill()
            if line.endswith("\n"):
                what, name, tokens = json.loads(line)
                yield what, name, tokens
    assert process.returncode == -9


def check_trail(conn: sqlite3.Connection, rows: list[RequestRecord]) -> None:
    """It is whole, and every row has its entries: one as it was admitted, one as it ended."""
    assert verify(conn).finding is None
    by_event: dict[str, list[str]] = {}
    for event, request_id in conn.execute("SELECT event, request_id FROM audit ORDER BY number"):
        by_event.setdefault(event, []).append(request_id)
    assert sorted(by_event["entered"]) == sorted(row.id for row in rows)
    ends = {"stop": "response", "interrupted": "interrupted"}
    for state, event in ends.items():
        assert sorted(by_event.get(event, [])) == sorted(row.id for row in rows if row.state == state)


@pytest.mark.parametrize("count", [1, 150, 1111])
def test_all_that_was_acknowledged_before_a_kill_is_in_the_ledger(tmp_path: Path, count: int) -> None:
    said = list(lines_until_killed(tmp_path, count))
    admitted = {name for what, name, _ in said if what == "admitted"}
    settled = {name: tokens for what, name, tokens in said if what == "settled"}
    checkpointed = {name: tokens for what, name, tokens in said if what == "checkpointed"}
    assert admitted

    async def reopen() -> tuple[int, dict[str, RequestRecord]]:
        async with ledger_in(tmp_path) as ledger:
            prices = (await ledger.read(all_prices))[1]
            rows = await ledger.read(lambda conn: recent_requests(conn, None, 1_000_000))
            integrity = await ledger.read(lambda conn: conn.execute("PRAGMA integrity_check").fetchone()[0])
            assert integrity == "ok"
            for row in rows:
                usage = Usage(completion_tokens=row.completion_tokens)
                assert row.output_nanos == cost_of(usage, prices).output_nanos
            assert len({row.id for row in rows}) == len(rows)
            await ledger.read(lambda conn: check_trail(conn, rows))
            return ledger.interrupted, {row.id: row for row in rows}

    interrupted, rows = asyncio.run(reopen())
    assert admitted <= rows.keys()
    assert {row.state for row in rows.values()} <= {"stop", "interrupted"}
    assert {name: rows[name].completion_tokens for name in settled} == settled
    assert {rows[name].state for name in settled} <= {"stop"}
    assert interrupted == sum(row.state == "interrupted" for row in rows.values())
    for name, tokens in checkpointed.items():
        assert rows[name].completion_tokens >= tokens
