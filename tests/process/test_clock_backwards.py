"""A clock that goes backwards while requests run, and between two daemons."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from tenantd.domain import Sampling, Tenant
from tenantd.ledger.invoices import invoice, parse_month
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.price_lists import set_prices
from tenantd.ledger.prices import latest_prices
from tenantd.ledger.reports import recent_requests
from tenantd.live.generation import Generation
from tenantd.serving.service import Service
from tenantd.tenancy.directory import Directory
from tenantd.tenancy.tenants import add_tenant
from tenantd.text.chat import ChatFormatter
from tenantd.text.vocabulary import ByteVocabulary
from tests.serving.daemon_kit import config, run


def test_a_clock_that_goes_backwards_spoils_no_id_no_duration_no_price_and_no_sum(tmp_path: Path) -> None:
    clock = [1_800_000_000_000_000]
    vocabulary = ByteVocabulary()
    dear = {"input_nanos_per_million": 7 * 10**9, "output_nanos_per_million": 9 * 10**9}

    def now_micros() -> int:
        clock[0] -= 3_600_000_000  # an hour back each time it is asked
        return clock[0]

    async def serve() -> None:
        ledger = Ledger.open(tmp_path / "ledger.db", settings.billing, now_micros)
        if not await ledger.read(lambda conn: conn.execute("SELECT count(*) FROM tenants").fetchone()[0]):
            await ledger.write(lambda conn: add_tenant(conn, Tenant(name="acme")))
        formatter = ChatFormatter(vocabulary)
        service = Service(settings, ledger, Directory(), vocabulary, formatter, now_micros=now_micros)
        await service.start()
        await service.supervisor.wait_ready()
        for _ in range(3):
            generation = Generation(
                kind="completion", prompt=list(b"hello"), max_tokens=4, sampling=Sampling(ignore_eos=True)
            )
            streams = [await service.submit(service.directory.tenants["acme"], generation) for _ in range(3)]
            await asyncio.gather(*(read(stream) for stream in streams))
            await ledger.write(lambda conn: set_prices(conn, None, None, dear, now_micros()))
        await service.drain(5)
        service.idle_check()
        await service.stop()
        await ledger.close()

    async def read(stream: Any) -> None:
        await stream.started()
        while await stream.take():
            pass
        assert stream.error is None

    settings = config(slots=4)
    run(serve())
    run(serve())  # started anew, further back than all that is in the ledger
    ledger = Ledger.open(tmp_path / "ledger.db", settings.billing, now_micros)

    async def check() -> None:
        rows = await ledger.read(lambda conn: recent_requests(conn, None, 100))
        assert len({row.id for row in rows}) == len(rows) == 18
        assert {row.state for row in rows} == {"length"}
        assert all(0 <= row.first_token_micros <= row.duration_micros for row in rows)  # type: ignore[operator]
        by_time = sorted(rows, key=lambda row: row.created_micros, reverse=True)  # the order in which they came
        cheap = [row.output_nanos for row in by_time[:3]]
        assert [row.output_nanos for row in by_time[3:9]] == [4 * 9000] * 6
        assert cheap == [4 * 400] * 3
        names = {datetime.fromtimestamp(row.created_micros / 1e6, UTC).strftime("%Y-%m") for row in rows}
        months = [parse_month(name, ZoneInfo("UTC"), clock[0]) for name in names]
        totals = [(await ledger.read(lambda conn, month=month: invoice(conn, month))).total_nanos for month in months]
        assert sum(totals) == sum(row.cost_nanos for row in rows)
        prices = await ledger.read(latest_prices)
        assert prices is not None and prices.output_nanos_per_million == 9 * 10**9
        await ledger.close()

    run(check())
