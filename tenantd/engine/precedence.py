"""Which of a tenant's waiting requests is bound next: the one that has most of its prompt computed already, and flex
requests after all others. Pure.

What is used together then runs together, before it has to make room (DLPM, Cao et al., "Locality-aware Fair Scheduling
in LLM Serving", 2025). It is between requests of one tenant only, which has its turn whichever it is.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final

from tenantd.engine.jobs import Job, TenantJobs

MOST_CONSIDERED: Final = 16
MOST_OVERTAKEN: Final = 8
"""So many later requests may go before the oldest, then it is its turn."""


def take_next(tenant: TenantJobs, cached: Callable[[Job], int] | None) -> Job:
    """Take the next request out of its tenant's queue: the oldest, or the one of which most is computed if the tenant
    has a cache. `cached` tells how many tokens of a request are, about."""
    queue = tenant.queue
    oldest = queue[0]
    if cached is None or not tenant.cache or len(queue) == 1:
        return queue.popleft()
    if oldest.binding is not None or oldest.overtaken >= MOST_OVERTAKEN:
        return queue.popleft()
    alike = (job for job in islice(queue, MOST_CONSIDERED) if job.submit.is_flex == oldest.submit.is_flex)
    best = max(alike, key=cached)  # the oldest of several
    if best is oldest:
        return queue.popleft()
    oldest.overtaken += 1
    queue.remove(best)
    return best
