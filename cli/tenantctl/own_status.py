"""What a tenant's own limits and budgets are and how much of them is used, and its state."""

from __future__ import annotations

import time
from typing import Any, Final

from tenantctl.budget_table import bar, label, plain
from tenantctl.own_view import OwnView
from tenantctl.queue_table import print_queue
from tenantctl.render import message, print_fields, print_json, print_table
from tenantctl.units import duration

_PER_MINUTE: Final = {"requests_per_minute": "requests", "tokens_per_minute": "tokens"}


def show_own_status(own: OwnView, state: str, *, json: bool) -> None:
    """`state` is that of the daemon."""
    limits, queue = own.get("/v1/limits"), own.get("/v1/queue")["waiting"]
    if json:
        print_json({"daemon": state, **limits, "queue": queue})
        return
    print_fields({"daemon": state, "tenant": f"{limits['tenant']} ({limits['state']})", "requests": _requests(limits)})
    print()
    print_limits(limits)
    if queue:
        print()
        print_queue(queue, len(queue))


def print_limits(limits: dict[str, Any]) -> None:
    """The limits that are set, and the budgets."""
    rows = []
    for name, allowed in limits["limits"].items():
        if allowed is not None:
            used = _used(limits, name)
            rows.append([name.replace("_", " "), used, allowed, *_left(limits["rates"], name, used, allowed)])
    if rows:
        print_table(["limit", "used>", "allowed>", "left>", "full again in>"], rows)
    if limits["budgets"]:
        print()
        columns = ["budget", "key", "used>", "of>", "left>", "reserved>", "share", "resets in>"]
        print_table(columns, [_budget(one) for one in limits["budgets"]], ("reserved", "left", "key"))
    if not rows and not limits["budgets"]:
        message("no limits and no budgets")


def _requests(limits: dict[str, Any]) -> str:
    return f"{limits['running']} running, {limits['waiting']} waiting"


def _used(limits: dict[str, Any], name: str) -> int | None:
    """What counts against a limit now; None if nothing adds up."""
    if (rate := limits["rates"].get(_PER_MINUTE.get(name, ""))) is not None:
        return int(rate["limit"] - rate["remaining"])
    return {"max_concurrent": limits["running"], "max_queued": limits["waiting"]}.get(name)


def _left(rates: dict[str, Any], name: str, used: int | None, allowed: Any) -> tuple[int | None, str | None]:
    """What is left of a limit on what there is at once; of one per minute also when all of it will be."""
    if (rate := rates.get(_PER_MINUTE.get(name, ""))) is not None:
        return rate["remaining"], f"{rate['reset_micros'] / 1e6:.0f} s"
    return (None if used is None else max(0, allowed - used)), None


def _budget(one: dict[str, Any]) -> list[object]:
    cap = one["amount"] + one["topped_up"]
    return [
        label(one, "money"),
        one["key_id"] or "all",
        *(plain(one["unit"], amount) for amount in (one["used"], cap, one["left"], one["reserved"])),
        bar(one["used"], cap),
        duration(max(0.0, one["resets_micros"] / 1e6 - time.time())),
    ]
