"""Which requests are expected to come, by tenant: clients come back as they have been coming back. Pure."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from tenantd.engine.jobs import Job

REMEMBERED: Final = 32
"""Ends of each tenant."""
MOST_EXPECTED: Final = 32
"""Tenants whose requests are expected: the latest. The more there are, the less each one matters."""
MOST_AGE_S: Final = 120.0
"""Whoever has not come back by then does not."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of a request. Its text is not kept."""

    prompt_tokens: int
    max_tokens: int
    adapter: str


@dataclass(slots=True)
class _End:
    at_s: float
    gap_s: float | None = None  # until the next request that came; None: none has


@dataclass(slots=True)
class _Tenant:
    size: Size
    ends: deque[_End] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


@dataclass(frozen=True, slots=True)
class Expected:
    """What to expect of a tenant: a new request for this part of those that end, so much later; and `due_s`, the times
    at which those should come that have not yet."""

    size: Size
    part: float
    gap_s: float
    due_s: list[float]


class Returns:
    """Remembers when the latest requests of each tenant ended, and when others came after them."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant] = {}  # the latest last

    def came(self, tenant: str, size: Size, now_s: float) -> None:
        """A request has come: somebody is back, if somebody was away."""
        if (known := self._tenants.pop(tenant, None)) is None:
            known = _Tenant(size)
        self._tenants[tenant] = known
        known.size = size
        for end in known.ends:
            if end.gap_s is None and now_s - end.at_s < MOST_AGE_S:
                end.gap_s = now_s - end.at_s
                return

    def ended(self, job: Job, now_s: float) -> None:
        """A request has ended."""
        if (known := self._tenants.get(job.submit.tenant)) is not None:
            known.ends.append(_End(now_s))

    def forget(self, tenant: str) -> None:
        """Forget a tenant that was removed."""
        self._tenants.pop(tenant, None)

    def expected(self, now_s: float) -> dict[str, Expected]:
        """By tenant, of the latest to come."""
        found = {}
        for name, known in itertools.islice(reversed(self._tenants.items()), MOST_EXPECTED):
            ends = [end for end in known.ends if now_s - end.at_s < MOST_AGE_S]
            gaps_s = [end.gap_s for end in ends if end.gap_s is not None]
            if not gaps_s:
                continue
            part, gap_s = len(gaps_s) / len(ends), sum(gaps_s) / len(gaps_s)
            away = [end for end in ends if end.gap_s is None][-round(part * len(ends)) :]
            found[name] = Expected(known.size, part, gap_s, [max(now_s, end.at_s + gap_s) for end in away])
        return found
