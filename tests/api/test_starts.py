"""Requests of one owner begin one after the other, and those of others beside them."""

from __future__ import annotations

import asyncio

from tenantd.api.starts import Starts


def test_one_of_each_owner_begins_in_a_turn_in_order_and_nothing_is_kept() -> None:
    async def begin() -> list[str]:
        starts, begun = Starts(), list[str]()

        async def request(owner: str, number: int) -> None:
            await starts.wait(owner)
            begun.append(f"{owner}{number}")

        tasks = [asyncio.create_task(request("many", number)) for number in range(50)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(request("few", 0)))
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not starts._lines
        return begun

    begun = asyncio.run(begin())
    assert [each for each in begun if each != "few0"] == ["many0", *(f"many{n}" for n in range(2, 50))]
    assert begun.index("few0") < 5
