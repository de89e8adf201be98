"""Deleting old entries of the audit trail, and old rows of requests, as an administrator asks for it."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from tenantd.clock import now_micros
from tenantd.domain import Actor
from tenantd.events import Action, Administered, Events
from tenantd.ledger.audit import Entry
from tenantd.ledger.invoices import Month
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.retention import Pruned, prune
from tenantd.ledger.row_pruning import PrunedRows, prune_rows
from tenantd.tenancy.recorded import ADMINISTERED, by, of_actor


async def prune_audit(ledger: Ledger, events: Events, actor: Actor, before_micros: int, timezone: ZoneInfo) -> Pruned:
    """Delete all entries from before a time; an entry says who wanted it. Takes about a second for 5,000.

    If it is cancelled, the daemon finishes it within a day. Raises like `tenantd.ledger.retention.prune`.
    """
    pruned = await prune(ledger, before_micros, timezone, now_micros, {"by": by(actor)})
    events.announce(Administered(action=Action.AUDIT_PRUNED, **of_actor(actor)))
    return pruned


async def prune_requests(ledger: Ledger, events: Events, actor: Actor, before: str, timezone: ZoneInfo) -> PrunedRows:
    """Delete the rows of requests that ended before a month; an entry says who wanted it. Takes a second for 10,000.

    If it is cancelled, the next one finishes it. Raises like `tenantd.ledger.row_pruning.prune_rows`.
    """

    def entry(month: Month) -> Entry:
        detail = {
            "action": Action.REQUESTS_PRUNED.value,
            "by": by(actor),
            "before": None,
            "after": {"requests_before": month.name, "timezone": month.timezone, "until_micros": month.since_micros},
        }
        return Entry(at_micros=now_micros(), event=ADMINISTERED, detail=detail)

    pruned = await prune_rows(ledger, before, timezone, now_micros, entry)
    events.announce(Administered(action=Action.REQUESTS_PRUNED, **of_actor(actor)))
    return pruned
