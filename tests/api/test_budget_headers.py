"""The header that tells a tenant which of its budgets is nearest to its end."""

from __future__ import annotations

import pytest

from tenantd.api.replies import budget_headers
from tenantd.domain import BudgetUnit
from tenantd.ledger.spending import Budget
from tenantd.periods import Period
from tenantd.tenancy.budget_accounts import BudgetState

OWN, OF_KEY = "", "key_1"


def state(
    used: int, *, cap: int = 100, key_id: str = OWN, warn: tuple[int, ...] = (80, 100), period: Period = Period.MONTHLY
) -> BudgetState:
    budget = Budget(id=1, tenant_id=1, key_id=key_id, period=period, unit=BudgetUnit.MONEY, amount=cap, warn=warn)
    return BudgetState(budget, used, reserved=0, topped_up=0, since_micros=0, resets_micros=1)


@pytest.mark.parametrize(
    ("states", "key_id", "value"),
    [
        ([], None, None),
        ([state(79)], None, None),
        ([state(80)], None, "monthly money 80%"),
        ([state(799, cap=1000)], None, None),
        ([state(85), state(99, period=Period.DAILY), state(90)], None, "daily money 99%"),
        ([state(120)], None, "monthly money 100%"),
        ([state(0, cap=0)], None, "monthly money 100%"),
        ([state(100, warn=())], None, None),
        ([state(50, warn=(50, 80))], None, "monthly money 50%"),
        ([state(81), state(95, key_id=OF_KEY)], None, "monthly money 81%"),
        ([state(81), state(95, key_id=OF_KEY)], OF_KEY, "monthly money 95%"),
    ],
)
def test_the_highest_is_told_once_it_has_reached_a_level(
    states: list[BudgetState], key_id: str | None, value: str | None
) -> None:
    expected = [] if value is None else [(b"x-tenantd-budget", value.encode())]
    assert budget_headers(states, key_id) == expected
