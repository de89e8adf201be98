"""Administration of price lists."""

from __future__ import annotations

from typing import Annotated, Final, TypedDict

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.admin.audit_routes import Parse
from tenantd.api.body import Body
from tenantd.api.identity import actor_of
from tenantd.api.operations import Operation
from tenantd.api.replies import reply
from tenantd.config import NANOS
from tenantd.errors import InvalidRequest
from tenantd.ledger.price_dates import NOW
from tenantd.ledger.price_lists import AMOUNTS, ListedPrices, PriceChange
from tenantd.serving.service import Service
from tenantd.tenancy.pricing import Pricing

MOST_UNITS: Final = 1_000_000
MOST_TOKENS: Final = 10**15
Nanos = Annotated[int, Field(ge=0, le=MOST_UNITS * NANOS)]
Tokens = Annotated[int, Field(ge=0, le=MOST_TOKENS)]


class NewPrices(Body):
    """POST /admin/v1/prices. What is left out is taken from the list in force at the time.

    `from` is "now", a date or a moment such as 2026-12-01T18:00, in the billing time zone. Without `tenant`, prices of
    all that have none of their own; `like_all` ends those of a tenant. Prices and minimum are in billionths (1e-9) of
    the currency unit; the minimum and the free tokens are those of a billing month.
    """

    tenant: str | None = None
    since: str = Field(NOW, alias="from")
    like_all: bool = False
    input_nanos_per_million: Nanos | None = None
    cached_nanos_per_million: Nanos | None = None
    output_nanos_per_million: Nanos | None = None
    engine_hour_nanos: Nanos | None = None
    minimum_nanos: Nanos | None = None
    free_prompt_tokens: Tokens | None = None
    free_completion_tokens: Tokens | None = None

    def amounts(self) -> dict[str, int]:
        """What was sent. Raises InvalidRequest for a combination that means nothing."""
        given = {name: getattr(self, name) for name in AMOUNTS if getattr(self, name) is not None}
        if self.like_all and given:
            raise InvalidRequest("like_all: use either this or prices, not both", param="like_all")
        if self.like_all and self.tenant is None:
            raise InvalidRequest("like_all: needs a tenant", param="like_all")
        if not self.like_all and not given:
            raise InvalidRequest(f"give at least one of: {', '.join(AMOUNTS)}", param=AMOUNTS[0])
        return given


class PriceLists(TypedDict):
    """Every list, those of all tenants first, each by date. `timezone` is that of dates and months."""

    currency: str
    timezone: str
    prices: list[ListedPrices]


class PriceRoutes:
    """The route handlers."""

    def __init__(self, service: Service, parse: Parse) -> None:
        """`parse` reads and checks the body of a request."""
        self._service = service
        self._parse = parse
        records = service.config.security.is_audited
        self._pricing = Pricing(service.ledger, service.events, service.changes.budgets_changed, records=records)

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/admin/v1/prices", self.list_prices, PriceLists),
            Operation("POST", "/admin/v1/prices", self.set_prices, PriceChange, NewPrices, 201),
        ]

    async def list_prices(self, tenant: str | None = None) -> Response:
        """List the price lists, including past and future ones; with `tenant`, its own and the general ones."""
        prices = await self._pricing.list_prices(tenant)
        billing = self._service.config.billing
        return reply({"currency": billing.currency, "timezone": billing.timezone, "prices": prices})

    async def set_prices(self, request: Request) -> Response:
        """Set prices, effective now or from a later date. The past is never changed.

        The answer has the prices that would have applied then, and those that apply instead.
        """
        body = await self._parse(request, NewPrices)
        actor = actor_of(request.scope)
        change = await self._pricing.set_prices(actor, body.tenant, body.since, body.amounts(), like_all=body.like_all)
        return reply(change, status=201)
