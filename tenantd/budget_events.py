"""What happens with budgets, as typed events."""

from __future__ import annotations

from tenantd.domain import BudgetUnit
from tenantd.events import Event
from tenantd.periods import Period


class BudgetReached(Event, frozen=True, kw_only=True):
    """A budget is used to a level that its administrator wants to hear of. One event per level and period.

    `level` is in percent, `used` and `cap` (the amount and what was added for this period) in the budget's unit.
    `key_id` is None for a budget of all keys. The period ends at `resets_micros`.
    """

    budget_id: int
    tenant: str
    tenant_id: int
    key_id: str | None
    period: Period
    unit: BudgetUnit
    level: int
    used: int
    cap: int
    since_micros: int
    resets_micros: int
