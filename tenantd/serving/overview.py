"""The state of the service as plain data, for `status`, `/readyz` and the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from tenantd import costs
from tenantd.domain import Tenant
from tenantd.fleet.checkup import Checkup
from tenantd.fleet.replica import Replica
from tenantd.fleet.supervisor import Supervisor
from tenantd.fleet.tally import Tally
from tenantd.ledger.ledger import Ledger
from tenantd.live.registry import Count
from tenantd.serving.last_hour import Work
from tenantd.tenancy.budget_accounts import BudgetState

CHECKING = "checking"
"""The state of an engine that checks isolation; requests wait."""


def engine_status(supervisor: Supervisor, checking: Checkup | None, *, is_draining: bool) -> dict[str, Any]:
    """State of the engine process; `engine` is what is loaded, None before the first time.

    `checking` is the check of isolation in progress, if any.
    """
    info = supervisor.info
    state, progress, reason = supervisor.state.value, supervisor.progress, supervisor.explained
    if checking is not None:
        state, progress, reason = CHECKING, checking.progress, checking.doing
    return {
        "state": "draining" if is_draining else state,
        "progress": progress,
        "reason": reason,
        "engine": None if info is None else msgspec.structs.asdict(info),
        "engine_pid": supervisor.pid,
        "engine_restarts": supervisor.restarts,
    }


def ledger_status(ledger: Ledger, *, is_paused: bool) -> dict[str, Any]:
    """Whether usage can be written, why not, the size of the write-ahead log, whether requests are paused because
    nothing can be billed, and how the anchor of the audit trail does."""
    return {
        "healthy": ledger.healthy,
        "trouble": ledger.trouble,
        "wal_bytes": ledger.wal_bytes,
        "requests_paused": is_paused,
        "anchor": ledger.anchor_status,
    }


def cache_status(tenants: Mapping[str, Tenant], replicas: Sequence[Replica], host_bytes: int) -> dict[str, Any]:
    """How many tenants have a cache, and how much of `host_bytes` is used."""
    caching = [tenant for tenant in tenants.values() if tenant.is_cached]
    return {
        "tenants": len(caching),
        "used_bytes": sum(_cached_bytes(tenant, replicas) for tenant in caching),
        "host_bytes": host_bytes,
    }


def _cached_bytes(tenant: Tenant, replicas: Sequence[Replica]) -> int:
    return sum(replica.cached.get(tenant.id or 0, 0) for replica in replicas)


def work_status(replicas: Sequence[Replica], held: int) -> dict[str, Any]:
    """What all replicas did and do, added up. `held` requests wait for their tenants' rate limits."""
    tally = sum((replica.tally for replica in replicas), Tally())
    count = sum((replica.live.total() for replica in replicas), Count())
    paused = sum(sum(replica.paused().values()) for replica in replicas)
    return {
        "engine_busy_micros": tally.busy_micros,
        "engine_unbilled_micros": tally.unbilled_micros,
        "swaps": tally.swaps,
        "recomputes": tally.recomputes,
        "running": count.running - paused,
        "paused": paused,
        "waiting": count.waiting + held,
    }


def tenants_status(
    tenants: Mapping[str, Tenant],
    replicas: Sequence[Replica],
    held: Callable[[str], int],
    budgets: Callable[[int | None], Iterable[BudgetState]],
) -> list[dict[str, Any]]:
    """One entry for each tenant: who has how much of all replicas. `held` says how many wait for their rate limits.

    `budgets` gives the budgets of a tenant, of which the entry has how much is used of the one nearest to its end.
    """
    paused: Counter[str] = Counter()
    for replica in replicas:
        paused.update(replica.paused())
    result = []
    for tenant in tenants.values():
        count = sum((replica.live.count(tenant.name) for replica in replicas), Count())
        result.append(
            {
                "name": tenant.name,
                "state": tenant.state.value,
                "weight": tenant.weight,
                "throttled": tenant.throttled_micros is not None,
                "priority": tenant.priority.value,
                "running": count.running - paused[tenant.name],
                "paused": paused[tenant.name],
                "waiting": count.waiting + held(tenant.name),
                "max_queued": tenant.limits.max_queued,
                "usage": sum(replica.usage(tenant.name) for replica in replicas),
                "cache_bytes": _cached_bytes(tenant, replicas) if tenant.is_cached else None,
                "budget_used_percent": max((one.percent for one in budgets(tenant.id)), default=None),
            }
        )
    return result


def tenants_work(
    tenants: Mapping[str, Tenant], replicas: Sequence[Replica], held: Callable[[str], int]
) -> dict[int, Work]:
    """By tenant id, the live requests of each tenant, with those that `held` counts, and what it was given so far."""
    served = [replica.served.totals(replica.live) for replica in replicas]
    found = {}
    for tenant in tenants.values():
        if tenant.id is not None:
            count = sum((replica.live.count(tenant.name) for replica in replicas), Count())
            waiting = count.waiting + held(tenant.name)
            given = [totals[tenant.id] for totals in served if tenant.id in totals]
            prompt_tokens = sum(usage.prompt_tokens for usage in given)
            generated_tokens = sum(usage.completion_tokens for usage in given)
            claim = costs.Claim(
                costs.full_weight(tenant),
                count.running + count.waiting,
                count.running,
                tenant.limits.max_concurrent,
                tenant.limits.reserved_slots,
            )
            found[tenant.id] = Work(tenant.name, claim, prompt_tokens, generated_tokens, count.running, waiting)
    return found
