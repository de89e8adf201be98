"""Setting prices while the ledger is slow."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from tenantd.domain import NOBODY
from tenantd.errors import InvalidRequest
from tenantd.events import Events
from tenantd.tenancy.pricing import Pricing
from tests.ledger.books import NOW_MICROS, ledger_in

DAY_MICROS = 86_400_000_000


@pytest.mark.parametrize("since", ["now", "2026-09-22"])
def test_prices_are_of_the_moment_at_which_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since: str
) -> None:
    async def changed() -> None:
        """Nobody hears of it."""

    async def main() -> None:
        monkeypatch.setattr("tenantd.clock.now_micros", lambda: NOW_MICROS)
        async with ledger_in(tmp_path) as ledger:
            pricing = Pricing(ledger, Events(), changed, records=False)
            go_on, held = threading.Event(), threading.Event()
            holding = asyncio.create_task(ledger.write(lambda _: (held.set(), go_on.wait(120))))
            assert await asyncio.to_thread(held.wait, 120)
            setting = asyncio.create_task(pricing.set_prices(NOBODY, None, since, {"input_nanos_per_million": 7}))
            await asyncio.sleep(0)
            monkeypatch.setattr("tenantd.clock.now_micros", lambda: NOW_MICROS + DAY_MICROS)
            go_on.set()
            await holding
            if since == "now":
                assert (await setting).after.effective_micros == NOW_MICROS + DAY_MICROS
            else:
                with pytest.raises(InvalidRequest, match="has passed"):
                    await setting

    asyncio.run(main())
