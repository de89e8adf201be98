"""What happens at this moment, for whoever looks every second: read from memory alone, never from the ledger."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from tenantd import costs
from tenantd.domain import Tenant, Usage
from tenantd.fleet.replica import Replica
from tenantd.fleet.served import NOTHING
from tenantd.live.streams import LiveStream
from tenantd.serving.allowances import Allowances
from tenantd.serving.gate import Gate
from tenantd.serving.positions import Positions
from tenantd.wire.settings import Settings

MOST_REQUESTS: Final = 200
"""How many live requests are told, at most."""
WAIT: Final = ("estimated_wait_ms", "estimated_wait_low_ms", "estimated_wait_high_ms")
AT_ONCE: Final = 50
"""Tenants that are looked at in one turn of the event loop."""
MOST_BUDGETS: Final = 8
"""How many budgets of a tenant are told, those nearest to their ends."""


class _Slots(NamedTuple):
    """By tenant: requests with a slot and no token yet, and requests with a token and no slot."""

    computing: Counter[str]
    paused: dict[str, int]


class Moment:
    """The view of everything that is live. Owns nothing. Budgets in it are `BudgetState`s."""

    def __init__(
        self,
        replica: Replica,
        gate: Gate,
        budgets: Allowances,
        positions: Positions,
        settings: Callable[[], Settings],
    ) -> None:
        self._replica = replica
        self._gate = gate
        self._budgets = budgets
        self._positions = positions
        self._settings = settings

    async def tenants(self, tenants: Iterable[Tenant]) -> list[dict[str, Any]]:
        """What each has at the moment, and what its requests were given since the daemon started. Others have turns
        in between, so this may be several moments if there are many tenants."""
        served, slots = self._replica.served.totals(self._replica.live), self._slots()
        found: list[dict[str, Any]] = []
        for tenant in list(tenants):
            given = served.get(tenant.id, NOTHING)
            found.append(
                {
                    **self._counts(tenant, given, slots, None),
                    "priority": tenant.priority,
                    "weight": tenant.weight,
                    "full_weight": costs.full_weight(tenant),
                    "throttled": tenant.throttled_micros is not None,
                    "adapter": tenant.adapter.rpartition("/")[2] or None,
                    "usage": self._replica.usage(tenant.name),
                    "service": self._service(given),
                }
            )
            if len(found) % AT_ONCE == 0:
                await asyncio.sleep(0)
        return found

    def own(self, tenant: Tenant, key_id: str | None) -> dict[str, Any]:
        """The same of one tenant, without what others have a part in. With a key, its budgets are those of the key."""
        served = self._replica.served.of(tenant.id, self._replica.live.of(tenant.name))
        return self._counts(tenant, served, self._slots(), key_id)

    def requests(self, tenant: str | None) -> list[dict[str, Any]]:
        """The live requests of one tenant or of all: first those that have begun, by arrival, then those that wait, as
        far as their places in the queue are known."""
        replica = self._replica
        begun: list[LiveStream] = []
        waiting: list[LiveStream] = []
        for stream in replica.live if tenant is None else replica.live.of(tenant):
            has_begun = stream.generated or stream.number in replica.bound
            (begun if has_begun else waiting).append(stream)
        queue = {entry["id"]: entry for entry in self._positions.waiting(tenant, MOST_REQUESTS)}
        places = {request_id: place for place, request_id in enumerate(queue)}
        waiting.sort(key=lambda stream: places.get(stream.id, len(places)))
        shown = itertools.islice(itertools.chain(begun, waiting), MOST_REQUESTS)
        return [self._request(stream, queue.get(stream.id)) for stream in shown]

    def work(self) -> dict[str, Any]:
        """How many steps the engine has made, and how many adapters take turns in it."""
        replica, live = self._replica, self._replica.live.by_number
        adapters = {live[n].adapter for n in replica.bound if n in live}
        return {"steps": replica.tally.steps, "adapters_running": len(adapters)}

    def _counts(self, tenant: Tenant, served: Usage, slots: _Slots, key_id: str | None) -> dict[str, Any]:
        count, held = self._replica.live.count(tenant.name), self._gate.waiting(tenant.name)
        paused, rates = slots.paused.get(tenant.name, 0), self._gate.states(tenant)
        budgets = sorted(self._budgets.states(tenant.id, key_id), key=lambda state: -state.percent)
        return {
            "name": tenant.name,
            "state": tenant.state,
            "running": count.running - paused,
            "paused": paused,
            "waiting": count.waiting + held,
            "computing_prompts": slots.computing[tenant.name],
            "held": held,
            "limits": tenant.limits,
            "rates": {what: rate._asdict() if (rate := rates.get(what)) else None for what in ("requests", "tokens")},
            "budgets": budgets[:MOST_BUDGETS],
            "prompt_tokens": served.prompt_tokens,
            "cached_tokens": served.cached_tokens,
            "completion_tokens": served.completion_tokens,
            "engine_micros": served.engine_micros,
        }

    def _slots(self) -> _Slots:
        live = self._replica.live.by_number
        computing = Counter(live[n].tenant for n in self._replica.bound if n in live and not live[n].generated)
        return _Slots(computing, self._replica.paused())

    def _service(self, served: Usage) -> float:
        tokens = (served.prompt_tokens, served.cached_tokens, served.completion_tokens)
        return costs.of_request(self._settings(), *tokens)

    def _request(self, stream: LiveStream, place: dict[str, Any] | None) -> dict[str, Any]:
        known = {} if place is None else place
        return {
            "id": stream.id,
            "client_request_id": stream.client_id,
            "tenant": stream.tenant,
            "state": self._replica.state(stream),
            "has_slot": stream.number in self._replica.bound,
            "age_ms": round(stream.age_s * 1000),
            "first_token_micros": stream.first_token_micros,
            "prompt_length_tokens": stream.prompt_tokens,
            "prompt_tokens": stream.prefilled_tokens,
            "cached_tokens": stream.cached_tokens,
            "completion_tokens": len(stream.generated),
            "max_tokens": stream.max_tokens,
            "engine_micros": stream.engine_micros,
            **{name: known.get(name) for name in ("position", *WAIT)},
        }
