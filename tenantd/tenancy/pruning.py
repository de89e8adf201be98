"""Deleting old entries of the audit trail, as an administrator asks for it."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from tenantd.clock import now_micros
from tenantd.domain import Actor
from tenantd.events import Action, Administered, Events
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.retention import Pruned, prune
from tenantd.tenancy.recorded import who


async def prune_audit(ledger: Ledger, events: Events, actor: Actor, before_micros: int, timezone: ZoneInfo) -> Pruned:
    """Delete all entries from before a time; an entry says who wanted it. Takes about a second for 5,000.

    If it is cancelled, the daemon finishes it within a day. Raises like `tenantd.ledger.retention.prune`.
    """
    pruned = await prune(ledger, before_micros, timezone, now_micros, {"by": who(actor)})
    events.announce(
        Administered(action=Action.AUDIT_PRUNED, actor_uid=actor.uid, actor_pid=actor.pid, actor_key_id=actor.key_id)
    )
    return pruned
