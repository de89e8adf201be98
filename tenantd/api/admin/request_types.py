"""What administrators are told of requests."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import msgspec

from tenantd.api.openai.shapes import Waiting
from tenantd.ledger.records import PriceList, RequestRecord
from tenantd.ledger.trail import AuditRecord
from tenantd.tenancy.keys import KeyInfo

ListedRequest = msgspec.defstruct(
    "ListedRequest",
    [
        *((field.name, field.type) for field in msgspec.structs.fields(RequestRecord)),
        ("cost_nanos", int),
        ("live_state", Literal["waiting", "running", "paused"] | None),
    ],
)
"""A row of the ledger, what it is billed at, and where it is now if it is live."""


class Requests(TypedDict):
    """The newest first. `next` is the value of `after` for those that come then, null at the end. There can be fewer
    than `limit`, or none, although there are more: then it took too long to look further at once."""

    requests: list[ListedRequest]  # type: ignore[valid-type]
    next: str | None


class OneRequest(TypedDict):
    """All that is known of a request: its row, its key, the prices that it was charged at, its entries in the audit
    trail, oldest first, and where it stands in the queue if it waits."""

    request: ListedRequest  # type: ignore[valid-type]
    key: KeyInfo | None
    prices: PriceList | None
    entries: list[AuditRecord]
    waiting: Waiting | None


class CancelledRequest(TypedDict):
    """Its id."""

    cancelled: str


def listed_request(row: RequestRecord, live_state: str | None) -> dict[str, Any]:
    """A `ListedRequest`."""
    return {**msgspec.structs.asdict(row), "cost_nanos": row.cost_nanos, "live_state": live_state}
