"""What the daemon reports of its tenants."""

from __future__ import annotations

from typing import Any

import msgspec

from tenantd.domain import BudgetUnit, Limits
from tenantd.ledger.evenness import Evenness
from tenantd.ledger.grouped import Grouping, UsageGroup
from tenantd.ledger.window import BudgetUse, TenantFigures
from tenantd.periods import Period

BUDGETS = (
    BudgetUse(
        id=1, key_id=None, period=Period.MONTHLY, unit=BudgetUnit.MONEY, cap=10**12, used=9 * 10**11, resets_micros=1
    ),
    BudgetUse(id=2, key_id="key_1", period=Period.DAILY, unit=BudgetUnit.TOKENS, cap=0, used=0, resets_micros=1),
)
BUSY = TenantFigures(
    tenant="acme",
    tenant_id=1,
    is_removed=False,
    weight=2.0,
    engine_share=0.75,
    token_share=2 / 3,
    requests=1_234_567,
    completed=1_200_000,
    cancelled=0,
    disconnected=0,
    failed=34_567,
    interrupted=0,
    error_rate=0.028,
    causes={"engine_failure": 34_000, "grammar_budget": 567},
    prompt_tokens=98_765_432_101,
    cached_tokens=5,
    completion_tokens=57,
    output_tokens_per_s=12.34,
    engine_micros=3_725_000_000,
    energy_millijoules=1_234_567_890,
    cost_nanos=123_000,
    average_duration_micros=1_500_000,
    p50_duration_micros=850,
    p95_duration_micros=12_300,
    p99_duration_micros=125_000_000,
    average_first_token_micros=1_000,
    p50_first_token_micros=900,
    p95_first_token_micros=2_000,
    p99_first_token_micros=3_000,
    budgets=BUDGETS,
)
_NOTHING = {
    name: None if name.endswith(("_share", "duration_micros", "first_token_micros")) else 0
    for name, value in msgspec.structs.asdict(BUSY).items()
    if isinstance(value, int | float)
}
IDLE = msgspec.structs.replace(
    BUSY,
    **{**_NOTHING, "tenant": "globex", "tenant_id": 2, "is_removed": False, "weight": 1.0, "causes": {}, "budgets": ()},
)
LIMITS = Limits(max_concurrent=4, requests_per_minute=60, max_queued=256)
EVEN = Evenness(index=0.9, shared_micros=7_200_000_000, tenants=2)


def listed(figures: TenantFigures, **more: Any) -> dict[str, Any]:
    """An entry of /admin/v1/stats."""
    now = {"running": 3, "paused": 0, "waiting": 2, "limits": LIMITS, "requests_last_minute": 6}
    rest = {"tokens_last_minute": None, "refused": {"queue_full": 7}}
    whole: dict[str, Any] = msgspec.to_builtins({**msgspec.structs.asdict(figures), **now, **rest, **more})
    return whole


def stats(*tenants: dict[str, Any], is_exact: bool = True, evenness: Evenness = EVEN) -> dict[str, Any]:
    """The answer of /admin/v1/stats. What adds up is added up in the total, of which all else is that of the first."""
    total = dict(tenants[0]) if tenants else {}
    for name in ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "engine_micros", "cost_nanos"):
        total[name] = sum(tenant[name] for tenant in tenants)
    period = {"since_micros": 1_795_000_000_000_000, "until_micros": 1_795_003_600_000_000}
    even = msgspec.to_builtins(evenness)
    return {
        **period,
        "timezone": "Europe/Berlin",
        "currency": "USD",
        "is_exact": is_exact,
        "evenness": even,
        "total": total,
        "tenants": list(tenants),
    }


def grouped(by: str) -> dict[str, Any]:
    """The answer of /admin/v1/usage/{by}."""
    names = {"day": "2026-11-29", "hour": "2026-11-29T14:00+05:30", "key": "key_1", "adapter": "", "model": "=cmd|' /C"}
    group = UsageGroup(
        name=names.get(by, "acme"),
        tenant="acme" if by == "key" else None,
        tenant_id=1 if by == "key" else None,
        label="=2+3" if by == "key" else None,
        requests=3,
        completed=1,
        cancelled=0,
        disconnected=0,
        failed=1,
        interrupted=1,
        prompt_tokens=10**18,
        cached_tokens=0,
        completion_tokens=57,
        engine_micros=1_234_567,
        energy_millijoules=0,
        list_nanos=9_000_000_000_000_003,
        free_nanos=1,
        waived_nanos=1,
        cost_nanos=9_000_000_000_000_001,
    )
    period = {"since_micros": 0, "until_micros": 1, "timezone": "Asia/Kolkata", "currency": "USD"}
    return {"by": Grouping(by), **period, "groups": [msgspec.to_builtins(group)]}
