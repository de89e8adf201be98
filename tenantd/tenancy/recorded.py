"""What the audit trail says of an administrative change: who made it, and what was before and after.

System prompts are hashed and keys have no secrets, so an entry tells that something changed and not what it said.
"""

from __future__ import annotations

from sqlite3 import Connection
from typing import Any, Final

import msgspec

from tenantd.domain import Actor, Tenant
from tenantd.events import Action
from tenantd.ledger.audit import Entry
from tenantd.tenancy.audit_keys import Forgotten, audit_key, owner_of
from tenantd.tenancy.fingerprints import of_text
from tenantd.tenancy.keys import KeyInfo

ADMINISTERED: Final = "administered"
ENTERED: Final = "entered"
RESPONSE: Final = "response"
_LEFT_OUT: Final = {"effective_limits", "prefix"}
"""The limits of all tenants are no part of a tenant, and nothing of a key's secret is recorded."""


def who(actor: Actor) -> dict[str, Any]:
    """How entries name who acts: user and process as the kernel knows them, and the key that was shown; or a part of
    the daemon that acts by itself."""
    if actor.part is not None:
        return {"part": actor.part.value}
    return {"uid": actor.uid, "pid": actor.pid, "key_id": actor.key_id}


def by(actor: Actor) -> dict[str, Any]:
    """The same of who administers, with the address if it is known. Entries of requests have none."""
    return who(actor) if actor.address is None else {**who(actor), "address": actor.address}


def of_actor(actor: Actor) -> dict[str, Any]:
    """Its fields in `Administered`."""
    return {
        "actor_uid": actor.uid,
        "actor_pid": actor.pid,
        "actor_key_id": actor.key_id,
        "actor_part": actor.part,
        "actor_address": actor.address,
    }


def administered(
    conn: Connection,
    actor: Actor,
    action: Action,
    at_micros: int,
    before: Tenant | KeyInfo | None,
    after: Tenant | KeyInfo | None,
) -> Entry:
    """The entry of a change, for the transaction that makes it. None: it did not exist, or no longer exists.

    Of something that was changed, only what differs is shown.
    """
    shown_before, shown_after = (None if one is None else _shown(conn, one) for one in (before, after))
    if shown_before is not None and shown_after is not None:
        names = [name for name in shown_after if shown_before.get(name) != shown_after[name]]
        shown_before, shown_after = ({name: shown[name] for name in names} for shown in (shown_before, shown_after))
    subject = after if after is not None else before
    assert subject is not None, "a change is of something"
    detail: dict[str, Any] = {"action": action.value, "by": by(actor), "before": shown_before, "after": shown_after}
    name: str | None
    if isinstance(subject, Tenant):
        number, name = subject.id, subject.name
    else:
        detail["key_id"] = subject.id
        number, name = owner_of(conn, subject.id), subject.tenant
    return Entry(at_micros=at_micros, event=ADMINISTERED, tenant_id=number, tenant=name, request_id=None, detail=detail)


def forgetting(actor: Actor, at_micros: int, forgotten: Forgotten) -> Entry:
    """The entry that tells that the hashes of a tenant before it can no longer be matched with anything."""
    detail = {
        "action": Action.TENANT_FORGOTTEN.value,
        "by": by(actor),
        "before": {"has_audit_key": forgotten.had_key},
        "after": {"has_audit_key": not forgotten.is_removed},
    }
    number, name = forgotten.id, forgotten.name
    return Entry(at_micros=at_micros, event=ADMINISTERED, tenant_id=number, tenant=name, request_id=None, detail=detail)


def _shown(conn: Connection, one: Tenant | KeyInfo) -> dict[str, Any]:
    """Everything that the ledger has of it, without texts and secrets."""
    shown = {name: value for name, value in msgspec.to_builtins(one).items() if name not in _LEFT_OUT}
    if isinstance(one, Tenant):
        del shown["system_prompt"]
        key = audit_key(conn, one.id)
        shown["system_prompt_bytes"] = len(one.system_prompt.encode("utf-8", "replace"))
        shown["system_prompt_hmac"] = of_text(key, one.system_prompt) if key and one.system_prompt else None
    return shown
