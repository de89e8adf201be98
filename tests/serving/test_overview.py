"""What several replicas tell adds up."""

from __future__ import annotations

from typing import Any

import pytest

from tenantd.domain import Tenant
from tenantd.events import Events
from tenantd.fleet.replica import Replica
from tenantd.serving.overview import cache_status, tenants_status, work_status
from tenantd.tenancy.rates import Rates
from tenantd.wire.messages import Step
from tests.serving.daemon_kit import config, run

ACME, GLOBEX = Tenant(name="acme"), Tenant(name="globex")


def step(number: int, usage: dict[str, float], **counts: Any) -> Step:
    return Step(number=number, progress=[], finishes=[], running=0, waiting=0, usage=usage, level=9.0, **counts)


def test_usage_and_counts_told_by_two_replicas_are_added_up_and_the_last_does_not_win() -> None:
    async def scene() -> None:
        rates = Rates()
        first, second = [
            Replica(
                config(),
                list,
                rates,
                Events(),
                command=("false",),
                environment=None,
                slowest_restart_s=1,
                clock_s=lambda: 5.0,
            )
            for _ in range(2)
        ]
        first.on_step(step(1, {"acme": 10.0}, busy_micros=300, unbilled_micros=300, swaps=1, recomputes=0))
        second.on_step(step(1, {"acme": 4.0, "globex": 2.0}, busy_micros=50, unbilled_micros=50, swaps=3, recomputes=1))
        first.on_step(step(2, {"acme": 11.0}, busy_micros=7, unbilled_micros=7, swaps=1, recomputes=2))
        assert work_status([first, second], held=3) == {
            "engine_busy_micros": 357,
            "engine_unbilled_micros": 357,
            "swaps": 5,
            "recomputes": 3,
            "running": 0,
            "paused": 0,
            "waiting": 3,
        }
        usage = {
            each["name"]: each["usage"]
            for each in tenants_status(
                {one.name: one for one in (ACME, GLOBEX)}, [first, second], lambda _: 0, lambda _: ()
            )
        }
        assert usage == pytest.approx({"acme": 15.0, "globex": 2.0})
        assert (first.board.level(5.0, 60), second.board.level(5.0, 60)) == (9.0, 9.0), "each engine has its own"
        first.on_step(step(3, {}, cache={1: 5, 9: 7}, busy_micros=0, unbilled_micros=0))
        second.on_step(step(2, {}, cache={1: 6}, busy_micros=0, unbilled_micros=0))
        tenants = {"acme": Tenant(id=1, name="acme", is_cached=True), "globex": Tenant(id=9, name="globex")}
        assert cache_status(tenants, [first, second], 99) == {"tenants": 1, "used_bytes": 11, "host_bytes": 99}
        shown = tenants_status(tenants, [first, second], lambda _: 0, lambda _: ())
        assert [each["cache_bytes"] for each in shown] == [11, None]
        for replica in (first, second):
            replica.idle_check()

    run(scene())
