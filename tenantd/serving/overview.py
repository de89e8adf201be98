"""The state of the service as plain data, for `status`, `/readyz` and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from tenantd.domain import Tenant
from tenantd.fleet.board import UsageBoard
from tenantd.fleet.supervisor import Supervisor
from tenantd.ledger.ledger import Ledger
from tenantd.live.registry import LiveRegistry


def engine_status(supervisor: Supervisor) -> dict[str, Any]:
    """State of the engine process; `engine` describes what is loaded, None before the first load."""
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
    """Whether usage can be written, why not, the size of the write-ahead log, and whether requests are paused because
    nothing can be billed."""
    return {
        "healthy": ledger.healthy,
        "trouble": ledger.trouble,
        "wal_bytes": ledger.wal_bytes,
        "requests_paused": is_paused,
    }


def tenants_status(
    tenants: Iterable[Tenant],
    live: LiveRegistry,
    held: Callable[[str], int],
    board: UsageBoard,
    now_s: float,
    half_life_s: float,
) -> list[dict[str, Any]]:
    """One entry per tenant: its share of the engine. `held` tells how many requests wait for limits per minute."""
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
