"""Administration of budgets: their routes, bodies and answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypedDict

import msgspec
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.admin.audit_routes import Parse
from tenantd.api.body import Body
from tenantd.api.identity import actor_of
from tenantd.api.operations import Operation
from tenantd.api.replies import reply
from tenantd.config import BillingConfig
from tenantd.domain import BudgetUnit
from tenantd.errors import InvalidRequest
from tenantd.periods import Period
from tenantd.tenancy.budget_administration import BudgetAdministration
from tenantd.tenancy.budget_rows import MOST_AMOUNT, MOST_REASON_CHARACTERS, BudgetInfo, Wanted
from tenantd.text.excerpt import excerpt

MOST_AT_ONCE: Final = len(Period) * len(BudgetUnit)
_OF_TENANT: Final = "/admin/v1/tenants/{name}/budgets"


class BudgetAmount(Body):
    """One budget: its amount in a period, in nano-units of money, tokens, or microseconds of engine time. null removes
    it, 0 blocks."""

    period: Period
    unit: BudgetUnit
    amount: int | None = Field(ge=0, le=MOST_AMOUNT)


class BudgetChange(Body):
    """PATCH /admin/v1/tenants/{name}/budgets. Changes only the budgets that are sent, of the tenant or of its key.

    `warn` are the levels in percent at which to warn; without it, a budget keeps its own, and a new one has 80 and 100.
    Without budgets, all of them get these levels.
    """

    key_id: str | None = None
    budgets: Annotated[list[BudgetAmount], Field(max_length=MOST_AT_ONCE)] = Field(default_factory=list)
    warn: Annotated[list[int], Field(max_length=100)] | None = None


class BudgetTopUp(Body):
    """POST /admin/v1/tenants/{name}/budgets/topup. Adds to a budget in its current period only."""

    key_id: str | None = None
    period: Period
    unit: BudgetUnit
    amount: int = Field(ge=1, le=MOST_AMOUNT)
    reason: str = Field(max_length=MOST_REASON_CHARACTERS)


ShownBudget = msgspec.defstruct(
    "ShownBudget",
    [
        *((field.name, field.type) for field in msgspec.structs.fields(BudgetInfo)),
        ("reserved", int),
        ("left", int),
    ],
)
"""A budget in its current period. `amount`, `topped_up`, `used`, `reserved` (held by requests that run or wait) and
`left` are in its unit: nano-units of money, tokens, or microseconds of engine time. `key_id` is null for all keys."""


class Budgets(TypedDict):
    """By tenant; those of keys that have ended and of removed tenants are left out."""

    currency: str
    timezone: str
    budgets: list[ShownBudget]  # type: ignore[valid-type]


class ChangedBudgets(Budgets):
    """The budgets as they are now, and those that were removed, as they were."""

    removed: list[ShownBudget]  # type: ignore[valid-type]


class BudgetRoutes:
    """The route handlers."""

    def __init__(
        self,
        administration: BudgetAdministration,
        parse: Parse,
        reserved: Callable[[int], int],
        billing: Callable[[], BillingConfig],
    ) -> None:
        """`parse` reads and checks the body of a request. `reserved` tells what is held of a budget."""
        self._administration = administration
        self._parse = parse
        self._reserved = reserved
        self._billing = billing

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/admin/v1/budgets", self.list_all, Budgets),
            Operation("GET", _OF_TENANT, self.list_own, Budgets),
            Operation("PATCH", _OF_TENANT, self.change, ChangedBudgets, BudgetChange),
            Operation("DELETE", _OF_TENANT, self.remove, ChangedBudgets),
            Operation("POST", f"{_OF_TENANT}/topup", self.top_up, ChangedBudgets, BudgetTopUp),
        ]

    async def list_all(self) -> Response:
        """List the budgets of all tenants, with what is used, reserved and left."""
        return reply(self._shown(await self._administration.list_budgets()))

    async def list_own(self, name: str) -> Response:
        """List the budgets of a tenant and its keys."""
        return reply(self._shown(await self._administration.list_budgets(name)))

    async def change(self, request: Request, name: str) -> Response:
        """Set, change or remove budgets of a tenant or of one of its keys.

        Usage since the period began counts. If that exceeds the budget, it is used up and its running requests end.
        """
        body = await self._parse(request, BudgetChange)
        wanted = [Wanted(one.period, one.unit, one.amount) for one in body.budgets]
        if len({(one.period, one.unit) for one in wanted}) < len(wanted):
            raise InvalidRequest("budgets: each period and unit may be given only once", param="budgets")
        if not wanted and body.warn is None:
            raise InvalidRequest("nothing to change: send budgets, warn, or both", param="budgets")
        changed = await self._administration.set_budgets(actor_of(request.scope), name, body.key_id, wanted, body.warn)
        now = [each.after for each in changed if each.after is not None]
        gone = [each.before for each in changed if each.after is None and each.before is not None]
        return self._changed(now, gone)

    async def top_up(self, request: Request, name: str) -> Response:
        """Add to a budget in its current period; it is listed with the reason and who did it."""
        body = await self._parse(request, BudgetTopUp)
        changed = await self._administration.top_up(
            actor_of(request.scope), name, body.key_id, body.period, body.unit, body.amount, body.reason
        )
        assert changed.after is not None, "it stays"
        return self._changed([changed.after], [])

    async def remove(
        self,
        request: Request,
        name: str,
        key: str | None = None,
        period: str | None = None,
        unit: str | None = None,
    ) -> Response:
        """Remove all budgets of a tenant, or of its `key`; only those of a `period` and `unit` if they are given."""
        changed = await self._administration.remove_budgets(
            actor_of(request.scope),
            name,
            key,
            None if period is None else _one_of(Period, "period", period),
            None if unit is None else _one_of(BudgetUnit, "unit", unit),
        )
        return self._changed([], [each.before for each in changed if each.before is not None])

    def _changed(self, now: list[BudgetInfo], gone: list[BudgetInfo]) -> Response:
        return reply({**self._shown(now), "removed": [self._one(each) for each in gone]})

    def _shown(self, budgets: list[BudgetInfo]) -> dict[str, Any]:
        billing = self._billing()
        shown = [self._one(each) for each in budgets]
        return {"currency": billing.currency, "timezone": billing.timezone, "budgets": shown}

    def _one(self, budget: BudgetInfo) -> dict[str, Any]:
        reserved = self._reserved(budget.id)
        left = max(0, budget.cap - budget.used - reserved)
        return {**msgspec.structs.asdict(budget), "reserved": reserved, "left": left}


def _one_of(kind: Any, name: str, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise InvalidRequest(
            f"{name}: must be one of {', '.join(kind)} (got {excerpt(text, 40)})", param=name
        ) from None
