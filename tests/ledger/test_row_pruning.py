"""`tenantctl ledger prune`: rows go, and everything that is said about their time stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tenantd.domain import FinishReason
from tenantd.errors import InvalidRequest
from tenantd.ledger import row_pruning
from tenantd.ledger.configured import add_prices
from tenantd.ledger.inspection import inspect_file
from tenantd.ledger.invoices import Month, parse_month
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.reports import usage_report
from tenantd.ledger.requests import insert_request, settle_request
from tenantd.ledger.row_pruning import PrunedRows, prune_rows
from tenantd.ledger.rows_kept import is_cut
from tenantd.ledger.sums import Percentiles, sums
from tenantd.periods import HOUR_MICROS
from tests.ledger.books import BILLING, NOW_MICROS, admission, count_rows, ledger_in, settlement
from tests.ledger.trails import entry

UTC_ZONE, KOLKATA = ZoneInfo("UTC"), ZoneInfo("Asia/Kolkata")
BEGAN = datetime(2026, 7, 30, tzinfo=UTC)
STEP = timedelta(minutes=97)
ROWS = 600  # until early September


def micros(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6)


def times() -> list[int]:
    return [micros(BEGAN + n * STEP) for n in range(ROWS)]


def fill(conn: Any) -> None:
    add_prices(conn, BILLING, 0)
    for number, name in enumerate(("acme", "globex"), 1):
        conn.execute(
            """INSERT INTO tenants (id, name, weight, priority, state, uids, limits, created_micros)
            VALUES (?, ?, 1, 'standard', 'active', '[]', '{}', 5)""",
            (number, name),
        )
    for n, at_micros in enumerate(times()):
        tenant = ("acme", "globex")[n % 2]
        insert_request(conn, admission(f"r{n}", tenant=tenant, created_micros=at_micros))
        state = FinishReason.FAILED if n % 9 == 0 else FinishReason.STOP
        settle_request(conn, settlement(f"r{n}", state=state, duration_micros=1_000_000 + n))


def said(timezone: ZoneInfo) -> Callable[[Any], list[Any]]:
    """All that reports say of whole days and months."""
    months = [parse_month(name, timezone, NOW_MICROS) for name in ("2026-07", "2026-08", "2026-09")]
    periods = [(month.since_micros, month.until_micros) for month in months]
    first = months[1].since_micros
    periods += [(first + n * 24 * HOUR_MICROS, first + (n + 1) * 24 * HOUR_MICROS) for n in range(31)]

    def say(conn: Any) -> list[Any]:
        totals = [sums(conn, since, until, ("tenant_id", "price_id")) for since, until in periods]
        return [totals, [Percentiles(conn, *period).of(1, "duration", 99) for period in periods]]

    return say


async def pruned(ledger: Ledger, before: str, timezone: ZoneInfo = UTC_ZONE) -> PrunedRows:
    def note(month: Month) -> Any:
        return entry("administered", request_id=None, detail={"requests_before": month.name})

    return await prune_rows(ledger, before, timezone, lambda: NOW_MICROS, note)


@pytest.mark.parametrize(("timezone", "kept_hours"), [(UTC_ZONE, 0), (KOLKATA, 1)])
def test_reports_of_days_and_months_stay_and_the_check_still_passes(
    tmp_path: Path, timezone: ZoneInfo, kept_hours: int
) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.write(fill)
            before = await ledger.read(said(timezone))
            until = parse_month("2026-09", timezone, NOW_MICROS).since_micros
            ended = [at_micros + 1_000_000 + n for n, at_micros in enumerate(times())]
            old = [at_micros for at_micros in ended if at_micros < until]
            in_cut_hours = sum(is_cut(at_micros - at_micros % HOUR_MICROS, timezone) for at_micros in old)
            assert bool(in_cut_hours) == bool(kept_hours)
            result = await pruned(ledger, "2026-09", timezone)
            assert (result.requests, result.kept) == (len(old) - in_cut_hours, in_cut_hours)
            assert await count_rows(ledger) == ROWS - result.requests
            assert await ledger.read(said(timezone)) == before
            assert result.unfinalised == ["acme", "globex"]
            again = await pruned(ledger, "2026-09", timezone)
            assert again.requests == 0

    asyncio.run(main())
    found = inspect_file(tmp_path / "ledger.db")
    assert found.breaches == []


def test_a_report_that_needs_rows_that_are_gone_is_refused_with_hours_that_do(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.write(fill)
            await pruned(ledger, "2026-09")
            hour = times()[100] - times()[100] % HOUR_MICROS
            half_past, end = hour + HOUR_MICROS // 2, micros(datetime(2026, 9, 5, tzinfo=UTC))
            with pytest.raises(InvalidRequest, match="begin or end at 2026-08-05T17:00Z or 2026-08-05T18:00Z"):
                await ledger.read(lambda conn: usage_report(conn, half_past, end))
            rows = await ledger.read(lambda conn: usage_report(conn, half_past + HOUR_MICROS // 2, end))
            assert len(rows) == 2
            one = await ledger.read(lambda conn: Percentiles(conn, hour, hour + HOUR_MICROS))
            assert not one.is_exact

    asyncio.run(main())


@pytest.mark.parametrize("before", ["2026-10", "2027-01"])
def test_a_month_that_is_not_over_stays(tmp_path: Path, before: str) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.write(fill)
            with pytest.raises(InvalidRequest, match="must be 2026-09 or earlier"):
                await pruned(ledger, before)
            assert await count_rows(ledger) == ROWS

    asyncio.run(main())


def test_what_was_interrupted_is_finished_by_the_next_and_holds_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_pruning, "BATCH_ROWS", 50)

    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.write(fill)
            before = await ledger.read(said(UTC_ZONE))
            task = asyncio.create_task(pruned(ledger, "2026-09"))
            while await count_rows(ledger) == ROWS:
                await asyncio.sleep(0)
            task.cancel()
            left = await count_rows(ledger)
            assert 0 < left < ROWS
            assert await ledger.read(said(UTC_ZONE)) == before
            assert inspect_file(ledger.path).breaches == []
            await pruned(ledger, "2026-08")
            assert await count_rows(ledger) < left
            assert await ledger.read(said(UTC_ZONE)) == before

    asyncio.run(main())
    assert inspect_file(tmp_path / "ledger.db").breaches == []
