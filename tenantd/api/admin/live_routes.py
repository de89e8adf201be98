"""What happens at this moment, for administrators who look every second."""

from __future__ import annotations

from typing import TypedDict

from starlette.responses import Response

from tenantd import __version__
from tenantd.api.admin.types import CacheStatus
from tenantd.api.operations import Operation
from tenantd.api.replies import reply
from tenantd.api.tenant.types import LiveCounts, LiveRequest, live_counts
from tenantd.domain import Priority
from tenantd.serving.service import Service
from tenantd.text.pool import ADMINISTRATORS
from tenantd.wire.messages import EngineInfo


class LiveTenant(LiveCounts):
    """`full_weight` is what divides its usage: with the factor of its priority, and an eighth of it while `throttled`.
    `service` is what its tokens cost in the scheduler's usage, without decay; `usage` is decayed, by weight. `adapter`
    is the name of its file, null without one."""

    priority: Priority
    weight: float
    full_weight: float
    throttled: bool
    adapter: str | None
    usage: float
    service: float


class Live(TypedDict):
    """This moment, from memory. Counts of time, steps and the like are since the daemon started; `steps` are those that
    took time. `adapters_running` is how many adapters take turns, no adapter counting as one. `requests` are the first
    200 that run or wait: first those that have begun."""

    version: str
    model: str
    state: str
    progress: float
    reason: str
    engine: EngineInfo | None
    engine_restarts: int
    engine_busy_micros: int
    engine_unbilled_micros: int
    steps: int
    swaps: int
    recomputes: int
    adapters_running: int
    running: int
    paused: int
    waiting: int
    cache: CacheStatus
    requests_paused: bool
    is_checking_isolation: bool
    tenants: list[LiveTenant]
    requests: list[LiveRequest]


def live_operations(service: Service) -> list[Operation]:
    """The route."""

    async def live(tenant: str | None = None) -> Response:
        """Show what the engine and all tenants are doing now, and the running and waiting requests of all tenants or
        of one.

        Reads nothing from the ledger, so it can be called every second.
        """
        whole, moment = service.whole_status(), service.moment
        counts = await moment.tenants(service.directory.tenants.values())
        told = {
            **{name: value for name, value in whole.items() if name in Live.__annotations__},
            **moment.work(),
            "version": __version__,
            "model": service.config.model_name,
            "requests_paused": whole["ledger"]["requests_paused"],
            "requests": moment.requests(tenant),
        }

        def render() -> Response:
            return reply({**told, "tenants": [live_counts(each) for each in counts]})

        return await service.pool.run(ADMINISTRATORS, render)  # with many tenants it takes a while

    return [Operation("GET", "/admin/v1/live", live, Live)]
