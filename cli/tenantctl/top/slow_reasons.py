"""Why a tenant's requests are not faster at this moment, the gravest reason first. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tenantctl.queue_table import wait_of
from tenantctl.units import duration, plural

_SHORT: Final = {"requests": "req", "tokens": "tok"}
NEAR: Final = 0.02
"""Streams are slowed down when no more than this part of a limit is left."""


@dataclass(frozen=True)
class Reason:
    """A few words for a row, and a sentence for a page. `code` never changes; `is_grave` if nothing comes at all."""

    code: str
    short: str
    whole: str
    is_grave: bool = False


def reasons(tenant: dict[str, Any], daemon: dict[str, Any], requests: list[dict[str, Any]]) -> list[Reason]:
    """Of a tenant as /v1/live tells it; `requests` are those of all tenants, or only its own. Nothing for a tenant
    without work, unless it could not have any."""
    found = [*_of_state(tenant), *_of_budgets(tenant)]
    if tenant["running"] or tenant["paused"] or tenant["waiting"]:
        found = [*_of_daemon(daemon), *found, *_of_limits(tenant), *_of_sharing(tenant, daemon, requests)]
    return found


def _of_daemon(daemon: dict[str, Any]) -> Iterator[Reason]:
    state = daemon["state"]
    if state == "checking" or daemon.get("is_checking_isolation"):
        yield Reason("check", "isolation check", "The engine is checking its isolation; requests wait.", True)
    elif state != "ready":
        at = f" ({daemon['progress']:.0%})" if state == "loading" else ""
        yield Reason("engine", f"engine {state}{at}", f"The engine is {state}{at}; requests wait for it.", True)
    if daemon.get("requests_paused"):
        whole = "Requests are paused because usage cannot be written to the ledger."
        yield Reason("ledger", "ledger not writable", whole, True)


def _of_state(tenant: dict[str, Any]) -> Iterator[Reason]:
    if tenant["state"] != "active":
        yield Reason("suspended", "suspended", "The tenant is suspended: new requests are refused.", True)
    if tenant.get("throttled"):
        yield Reason("throttled", "throttled", "An anomaly was found, so the tenant has an eighth of its weight.")


def _of_budgets(tenant: dict[str, Any]) -> Iterator[Reason]:
    for budget in tenant["budgets"]:
        if budget["used"] >= budget["amount"] + budget["topped_up"]:
            name = f"{budget['period']} {budget['unit'].replace('_', ' ')} budget"
            whose = f" of key {budget['key_id']}" if budget["key_id"] else ""
            whole = f"The {name}{whose} is used up: new requests are refused."
            yield Reason("budget", "budget used up", whole, not whose)
            return


def _of_limits(tenant: dict[str, Any]) -> Iterator[Reason]:
    limits, rates = tenant["limits"], tenant["rates"]
    if held := tenant["held"]:
        full = [what for what in ("requests", "tokens") if (rate := rates[what]) and not rate["remaining"]]
        what = full[0] if full else "tokens" if rates["tokens"] else "requests"
        limit = f"{rates[what]['limit']} {what} per minute" if rates[what] else "the last minute"
        yield Reason(
            "limit", f"{held} held: {_SHORT[what]}/min", f"{plural(held, 'request')} held back by the limit: {limit}."
        )
    most, has_slots = limits["max_concurrent"], tenant["running"] + tenant["computing_prompts"]
    if most is not None and has_slots >= most and _queued(tenant):
        wait = "is waiting" if _queued(tenant) == 1 else "are waiting"
        whole = f"At its limit of {plural(most, 'request')} at once; {_queued(tenant)} more {wait}."
        yield Reason("concurrent", f"limit: {most} at once", whole)
    tokens = rates["tokens"]
    if tokens and tokens["remaining"] <= NEAR * tokens["limit"] and (tenant["running"] or tenant["paused"]):
        whole = f"Streams are slowed down to the limit of {tokens['limit']} tokens per minute."
        yield Reason("pacing", "pacing: tok/min", whole)


def _of_sharing(tenant: dict[str, Any], daemon: dict[str, Any], requests: list[dict[str, Any]]) -> Iterator[Reason]:
    if paused := tenant["paused"]:
        whole = f"{plural(paused, 'request')} paused for tenants that have had less; each resumes at its next token."
        yield Reason("paused", f"{paused} paused", whole)
    if queued := _queued(tenant):
        yield _queue(queued, [r for r in requests if r["tenant"] == tenant["name"] and r["position"] is not None])
    if (turns := daemon.get("adapters_running", 1)) > 1 and tenant["running"]:
        whole = f"{turns} adapters take turns, so each stream gets every {ordinal(turns)} pass."
        yield Reason("adapters", f"adapter turns 1/{turns}", whole)
    if (computing := tenant["computing_prompts"]) and not tenant["running"]:
        yield Reason("prompt", "reading prompts", f"{plural(computing, 'prompt')} being computed.")


def _queue(queued: int, waiting: list[dict[str, Any]]) -> Reason:
    first = min((r for r in waiting if not r["has_slot"]), key=lambda r: r["position"], default=None)
    if first is None:
        return Reason("queue", f"queue: {queued} wait", f"{plural(queued, 'request')} waiting for a slot.")
    left, place = duration(max(1.0, first["estimated_wait_ms"] / 1000)), ordinal(first["position"])
    whole = f"{plural(queued, 'request')} waiting for a slot; the next is {place} in the queue, {wait_of(first)} to go."
    return Reason("queue", f"queue: {place}, {left}", whole)


def _queued(tenant: dict[str, Any]) -> int:
    """Requests that wait for a slot."""
    return max(0, int(tenant["waiting"] - tenant["held"] - tenant["computing_prompts"]))


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"
