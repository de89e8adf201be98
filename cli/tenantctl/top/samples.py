"""What the daemon tells of this moment, in one shape for administrators and for tenants who look at themselves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tenantctl.client import Client, url
from tenantctl.own_view import OwnView

PAGE: Final = 1000
OWN_PAGE: Final = 100
KEPT_MICROS: Final = 300_000_000
"""How long ended requests count for the times to the first token."""
MOST_KEPT: Final = 5_000
OWN_ENDED_EVERY_S: Final = 5.0
"""A tenant's ended requests are read from the ledger, so not every second."""


class Ended(NamedTuple):
    """A request that has ended."""

    id: str
    tenant: str
    at_micros: int
    state: str
    cause: str
    prompt_tokens: int
    completion_tokens: int
    engine_micros: int
    first_token_micros: int | None
    duration_micros: int | None


@dataclass(frozen=True)
class Sample:
    """One moment. `is_whole` if it is of all tenants. `daemon` has what is told beside tenants and requests, `ended`
    the requests that ended in the last five minutes, the oldest first."""

    at_s: float  # by a monotonic clock
    is_whole: bool
    daemon: dict[str, Any]
    tenants: list[dict[str, Any]]
    requests: list[dict[str, Any]]
    ended: list[Ended] = field(default_factory=list)


class Samples:
    """Asks for samples; with `own`, for those of a tenant."""

    def __init__(self, client: Client, own: OwnView | None) -> None:
        self._client, self._own = client, own
        self._head: int | None = None
        self._ended: deque[Ended] = deque(maxlen=MOST_KEPT)
        self._ended_at_s = -OWN_ENDED_EVERY_S

    def take(self, tenant: str | None = None) -> Sample:
        """The sample of now. Of its requests, those of one tenant may be wanted. Raises TenantdError."""
        if self._own is not None:
            return self._take_own(self._own)
        told = self._client.get(url("live"), tenant=tenant)
        at_s = time.monotonic()
        self._read_log()
        tenants, requests = told.pop("tenants"), told.pop("requests")
        return Sample(at_s, True, told, tenants, requests, list(self._ended))

    def _take_own(self, own: OwnView) -> Sample:
        told = own.get("/v1/live")
        at_s = time.monotonic()
        if at_s - self._ended_at_s >= OWN_ENDED_EVERY_S:
            found = own.get("/v1/requests", limit=OWN_PAGE)["requests"]
            self._ended.clear()
            self._keep(_of_row(own.tenant, row) for row in reversed(found) if row["ended_micros"] is not None)
            self._ended_at_s = at_s
        tenant, requests = told.pop("tenant"), told.pop("requests")
        return Sample(at_s, False, told, [tenant], requests, list(self._ended))

    def _read_log(self) -> None:
        """The lines of requests that have ended since the last sample; the daemon has them in memory."""
        if self._head is None:
            found = self._client.get(url("logs"), limit=PAGE)
        else:
            found = self._client.get(url("logs"), after=self._head, limit=PAGE)
        lines = found["lines"]
        self._head = lines[-1]["number"] if self._head is not None and len(lines) == PAGE else found["head"]
        self._keep(_of_line(line) for line in lines)

    def _keep(self, ended: Iterable[Ended]) -> None:
        self._ended.extend(ended)
        since_micros = time.time_ns() // 1000 - KEPT_MICROS
        while self._ended and self._ended[0].at_micros < since_micros:
            self._ended.popleft()


def _of_line(line: dict[str, Any]) -> Ended:
    return Ended(
        line["request_id"],
        line["tenant"],
        line["at_micros"],
        line["state"],
        line["cause"] or "",
        line["prompt_tokens"] + line["cached_tokens"],
        line["completion_tokens"],
        line["engine_micros"],
        line["first_token_micros"],
        line["duration_micros"],
    )


def _of_row(tenant: str, row: dict[str, Any]) -> Ended:
    return Ended(
        row["id"],
        tenant,
        row["ended_micros"],
        row["state"],
        row["cause"] or "",
        row["prompt_tokens"] + row["cached_tokens"],
        row["completion_tokens"],
        row["engine_micros"],
        row["first_token_micros"],
        row["duration_micros"],
    )
