"""What the service looks like from outside, as plain data for `status`, `/readyz` and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from tenantd.daemon.live import LiveRequests
from tenantd.daemon.supervisor import Supervisor
from tenantd.domain import Tenant
from tenantd.ledger.ledger import Ledger


class UsageBoard:
    """The scheduler's decayed usage per tenant as last heard, decayed on since then: an idle engine says nothing."""

    def __init__(self) -> None:
        self._usage: dict[str, float] = {}
        self._level = 0.0
        self._heard_s = 0.0

    def update(self, usage: dict[str, float], level: float, now_s: float) -> None:
        """`level` is the usage at which newcomers start."""
        self._usage = usage
        self._level = level
        self._heard_s = now_s

    def all(self, now_s: float, half_life_s: float) -> dict[str, float]:
        """Of every tenant that has any."""
        return {name: usage for name in self._usage if (usage := self.usage(name, now_s, half_life_s)) > 0}

    def usage(self, tenant: str, now_s: float, half_life_s: float) -> float:
        """Normalised by weight, at `now_s`."""
        return self._decayed(self._usage.get(tenant, 0.0), now_s, half_life_s)

    def level(self, now_s: float, half_life_s: float) -> float:
        """The usage by weight at which newcomers start, at `now_s`."""
        return self._decayed(self._level, now_s, half_life_s)

    def _decayed(self, usage: float, now_s: float, half_life_s: float) -> float:
        return float(usage * 2.0 ** (-max(0.0, now_s - self._heard_s) / half_life_s))


def engine_status(supervisor: Supervisor) -> dict[str, Any]:
    """State of the engine process; `engine` is what is loaded, None before the first time."""
    info = supervisor.info
    return {
        "state": supervisor.state.value,
        "progress": supervisor.progress,
        "reason": supervisor.reason,
        "engine": None if info is None else msgspec.structs.asdict(info),
        "engine_pid": supervisor.pid,
        "engine_restarts": supervisor.restarts,
    }


def ledger_status(ledger: Ledger, *, is_paused: bool) -> dict[str, Any]:
    """Whether usage can be written, why not, how much of it is in the write-ahead log only, and whether requests are
    paused because nothing can be billed."""
    return {
        "healthy": ledger.healthy,
        "trouble": ledger.trouble,
        "wal_bytes": ledger.wal_bytes,
        "requests_paused": is_paused,
    }


def tenants_status(
    tenants: Iterable[Tenant],
    live: LiveRequests,
    held: Callable[[str], int],
    board: UsageBoard,
    now_s: float,
    half_life_s: float,
) -> list[dict[str, Any]]:
    """One entry for each tenant: who has how much of the engine. `held` says how many wait for their rate limits."""
    paused = live.paused()
    result = []
    for tenant in tenants:
        count, put_aside = live.count(tenant.name), paused.get(tenant.name, 0)
        result.append(
            {
                "name": tenant.name,
                "state": tenant.state.value,
                "weight": tenant.weight,
                "priority": tenant.priority.value,
                "running": count.running - put_aside,
                "paused": put_aside,
                "waiting": count.waiting + held(tenant.name),
                "max_queued": tenant.limits.max_queued,
                "usage": board.usage(tenant.name, now_s, half_life_s),
            }
        )
    return result
