"""`tenantctl status`: whether the daemon runs, what it has loaded, and who is using it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from tenantctl.client import url
from tenantctl.options import Json, TenantFilter, connect, examples, finite
from tenantctl.own_status import show_own_status
from tenantctl.own_view import view_of
from tenantctl.queue_table import print_queue
from tenantctl.readiness import wait_ready
from tenantctl.render import print_fields, print_json, print_table, short_names
from tenantctl.units import NOTHING, duration, size

EXAMPLES = examples(
    "tenantctl status",
    "tenantctl status --wait 120    [dim]# wait for the model to load[/]",
    "tenantctl status --json | jq .engine.device",
)


def status(
    ctx: typer.Context,
    wait: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, callback=finite, help="Wait up to SECONDS for the model to load."),
    ] = None,
    tenant: TenantFilter = None,
    json: Json = False,
) -> None:
    """Show the state of the daemon, its engine and its tenants.

    Tenants see their own state and limits, as does an administrator with --tenant. Exits with 69 if the daemon is not
    running, and with 75 if it is not ready within --wait.
    """
    with connect(ctx) as client:
        if wait is not None:
            wait_ready(client, wait)
        if (own := view_of(client, tenant)) is not None:
            show_own_status(own, client.readiness()["status"], json=json)
            return
        state = client.get(url("status"))
    if json:
        print_json(state)
    else:
        _print(state)


def _anchor_text(anchor: dict[str, Any]) -> str:
    """When the head of the audit trail was last anchored, or why that fails."""
    if anchor["trouble"]:
        return f"failing: {anchor['trouble']}"
    if anchor["mismatches"]:
        return "differs from what was anchored before: run tenantctl audit verify --anchor FILE"
    return "not written yet" if anchor["age_s"] is None else f"written {duration(anchor['age_s'])} ago"


def _print(state: dict[str, Any]) -> None:
    engine = state["engine"]
    fields: dict[str, object] = {"state": state["state"]}
    if state["state"] in ("loading", "checking"):
        fields["progress"] = f"{state['progress']:.0%}"
    if state["reason"]:
        fields["reason"] = state["reason"]
    fields |= {
        "daemon": f"tenantd {state['version']}, pid {state['pid']}, up {duration(state['uptime_s'])}",
        "socket": state["socket"],
        "state folder": state["state_dir"],
    }
    if engine:
        fields |= _engine_fields(engine)
    fields |= {
        "engine restarts": state["engine_restarts"],
        "preempted": _preempted(state.get("swaps", 0), state.get("recomputes", 0)),
        "ledger": "healthy" if state["ledger"]["healthy"] else f"not writable: {state['ledger']['trouble']}",
    }
    if (anchor := state["ledger"].get("anchor")) is not None:
        fields["audit anchor"] = _anchor_text(anchor)
    if (cache := state.get("cache")) is not None and cache["tenants"]:
        used = f"{size(cache['used_bytes'])} of {size(cache['host_bytes'])} used"
        fields["prefix cache"] = f"{used}, on for {cache['tenants']} of {len(state['tenants'])} tenants"
    fields["isolation"] = _isolation(state.get("isolation"), state.get("is_checking_isolation", False))
    fields["requests"] = f"{state['running']} running, {state['paused']} paused, {state['waiting']} waiting"
    print_fields(fields)
    if state["tenants"]:
        print()
        columns = ["tenant", "state", "weight>", "priority", "running>", "paused>", "waiting>", "usage>", "budget>"]
        print_table(
            columns,
            [
                (
                    name,
                    f"{t['state']}, throttled" if t.get("throttled") else t["state"],
                    f"{t['weight']:g}",
                    t["priority"],
                    t["running"],
                    t["paused"],
                    f"{t['waiting']} (no queue)" if t["max_queued"] == 0 else t["waiting"],
                    f"{t['usage']:.1f}",
                    _percent(t.get("budget_used_percent")),
                )
                for name, t in zip(short_names([t["name"] for t in state["tenants"]]), state["tenants"], strict=True)
            ],
            ("weight", "priority"),
        )

    if queue := state.get("queue"):
        print()
        print_queue(queue, state["waiting"])


def _percent(used: int | None) -> str:
    """Of the budget nearest to its end."""
    return NOTHING if used is None else f"{used}%"


def _isolation(last: dict[str, Any] | None, is_checking: bool) -> str:
    now = "being checked now; " if is_checking else ""
    if last is None:
        return now + ("never checked before" if is_checking else "never checked (tenantctl doctor --isolation)")
    age = duration(max(0.0, time.time() - last["checked_micros"] / 1e6))
    return f"{now}{last['result']} ({'quick' if last['quick'] else 'full'} check, {age} ago)"


def _preempted(swaps: int, recomputes: int) -> str:
    return f"{swaps + recomputes} ({swaps} swapped out, {recomputes} recomputed)"


def _engine_fields(engine: dict[str, Any]) -> dict[str, object]:
    offloaded = f", {engine['layers_offloaded']} of {engine['layers']} layers offloaded" if engine["gpu_build"] else ""
    slots = f"{engine['slots']} slots of {engine['context_tokens']} tokens"
    fields: dict[str, object] = {"model": f"{engine['model']}, {size(engine['model_bytes'])}"}
    if (images := engine.get("images")) is not None:
        around = len(images["before"]) + len(images["after"])
        fields["images"] = f"by {images['projector']}, {images['tokens'] + around} prompt tokens each"
    if (texts := engine.get("embeddings")) is not None:
        fields["ranking" if texts["ranks"] else "embeddings"] = (
            f"by {texts['model']}, up to {texts['input_tokens']} tokens each"
        )
    return fields | {
        "context": f"{slots}, {size(engine['kv_bytes'])} of KV cache ({engine['kv_type']})",
        "device": f"{engine['device']}{offloaded}",
    }
