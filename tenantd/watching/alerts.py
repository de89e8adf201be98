"""Which events an operator is alerted to, and what the alert says: numbers, names and sentences, never a prompt."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from tenantd.budget_events import BudgetReached
from tenantd.clock import now_micros
from tenantd.config import BillingConfig
from tenantd.domain import BudgetUnit, OnAnomaly, Verdict
from tenantd.events import AnomalyFound, BindingBroken, EngineLost, Event, IsolationChecked, Listener
from tenantd.periods import in_words
from tenantd.tenancy.quantities import budget_name, quantity
from tenantd.watching.scores import explain

log = logging.getLogger(__name__)

TRIAL: Final = "test"
_ID_BYTES: Final = 16
_LEFT_OUT: Final = ("event", "at_micros", "actor_uid", "actor_pid", "actor_key_id")
_DONE: Final = {
    OnAnomaly.LOG: "only logged",
    OnAnomaly.THROTTLE: "the tenant is throttled",
    OnAnomaly.SUSPEND: "the tenant is suspended",
}


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert, as it is sent. `id` is the same in every attempt. `text` is a sentence for people.

    `detail` has what the event of this name tells.
    """

    id: str
    alert: str
    at: str
    host: str
    text: str
    tenant: str | None = None
    detail: dict[str, Any] = {}


def alert_of(event: Event, billing: BillingConfig) -> Alert | None:
    """None for events that nobody needs to hear of at once."""
    text = _text(event, billing)
    if text is None:
        return None
    detail = msgspec.to_builtins(event)
    name, tenant = detail["event"], detail.pop("tenant", None)
    for left_out in _LEFT_OUT:
        detail.pop(left_out, None)
    return _alert(name, text, event.at_micros, tenant, detail)


def trial_alert() -> Alert:
    """One that an administrator sends to see whether alerts arrive."""
    return _alert(TRIAL, "tenantd: this is a test; alerts arrive", now_micros(), None, {})


def _alert(name: str, text: str, at_micros: int, tenant: str | None, detail: dict[str, Any]) -> Alert:
    at = datetime.fromtimestamp(at_micros / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    number = f"alert_{secrets.token_hex(_ID_BYTES)}"
    return Alert(id=number, alert=name, at=at, host=socket.gethostname(), text=text, tenant=tenant, detail=detail)


def _text(event: Event, billing: BillingConfig) -> str | None:
    if isinstance(event, BudgetReached):
        return reached_text(event, billing)
    if isinstance(event, AnomalyFound):
        reasons = "; ".join(explain(event.deviations))
        return f"tenant {event.tenant} may be copying the model: {reasons} ({_DONE[event.action]})"
    if isinstance(event, EngineLost):
        return f"the engine was lost ({event.reason.value}) with {event.live} live requests; it is being restarted"
    if isinstance(event, BindingBroken):
        return f"an answer for {event.tenant} was another request's and was stopped ({event.breach.value})"
    if isinstance(event, IsolationChecked) and event.result is Verdict.FAILED:
        return f"the check of isolation failed: {', '.join(event.failed)}"
    return None


def budget_warnings(billing: Callable[[], BillingConfig]) -> Listener:
    """Logs each level that a budget reaches."""

    def hear(event: Event) -> None:
        if isinstance(event, BudgetReached):
            log.warning("%s", reached_text(event, billing()))

    return hear


def reached_text(event: BudgetReached, billing: BillingConfig) -> str:
    """What a warning about a budget says: who, how much of what, and when it resets, in the billing time zone."""
    whose = event.tenant if event.key_id is None else f"key {event.key_id} of {event.tenant}"
    name = budget_name(event.period, event.unit)
    until = in_words(event.resets_micros, ZoneInfo(billing.timezone))
    cap = quantity(event.unit, event.cap, billing.currency)
    if event.cap == 0:
        is_money_of_tenant = event.key_id is None and event.unit is BudgetUnit.MONEY
        allowed = "only what is free" if is_money_of_tenant else "nothing"
        return f"{whose} has a {name} budget of 0, which allows {allowed}; it resets at {until}"
    share = "all" if event.used >= event.cap else f"{event.used * 100 // event.cap}%"
    return f"{whose} has used {share} of its {name} budget of {cap}; it resets at {until}"
