"""`tenantctl status`: whether the daemon runs, what it has loaded, and who is using it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer

from tenantctl.client import Client, url
from tenantctl.options import Json, connect, examples, finite
from tenantctl.render import message, print_fields, print_json, print_table, short_ids, short_names
from tenantctl.units import NOTHING, duration, size
from tenantd.errors import DaemonNotRunning, EngineUnavailable

EXAMPLES = examples(
    "tenantctl status",
    "tenantctl status --wait 120    [dim]# wait for the model to load[/]",
    "tenantctl status --json | jq .engine.device",
)
POLL_S: Final = 0.1
MOST_QUEUED: Final = 10


Show = Callable[[str, float, str], None]
"""Shows what the command is waiting for: state, progress from 0 to 1, reason."""


def status(
    ctx: typer.Context,
    wait: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, callback=finite, help="Wait up to SECONDS for the model to load."),
    ] = None,
    json: Json = False,
) -> None:
    """Show the state of the daemon, its engine and its tenants.

    Exits with 69 if the daemon is not running, and with 75 if it is not ready within --wait.
    """
    with connect(ctx) as client:
        if wait is not None:
            _wait_ready(client, wait)
        state = client.get(url("status"))
    if json:
        print_json(state)
    else:
        _print(state)


def _wait_ready(client: Client, wait_s: float) -> None:
    """Raises DaemonNotRunning if the daemon exits or never starts, EngineUnavailable if it is not ready in time."""
    deadline_s = time.monotonic() + wait_s
    seen = False
    with _progress() as show:
        while True:
            late = time.monotonic() >= deadline_s
            try:
                state = client.readiness()
            except DaemonNotRunning:
                if seen:
                    raise DaemonNotRunning("the daemon stopped while loading; its log says why") from None
                if late:
                    raise
                show("waiting for the daemon", 0.0, "")
            else:
                seen = True
                if state["status"] == "ready":
                    return
                progress = (
                    state["status"],
                    state.get("progress", 0.0),
                    state.get("reason", ""),
                )  # only administrators get the last two
                if late:
                    raise EngineUnavailable(f"not ready after {wait_s:g} s: {_waiting_text(*progress)}")
                show(*progress)
            time.sleep(min(POLL_S, max(0.0, deadline_s - time.monotonic())))


@contextmanager
def _progress() -> Iterator[Show]:
    """Updates one line on a terminal; otherwise prints a line for each state and each 10% of progress."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status("waiting") as line:
            yield lambda state, progress, reason: line.update(Text(_waiting_text(state, progress, reason)))
        return
    said: set[tuple[str, int, str]] = set()

    def say(state: str, progress: float, reason: str) -> None:
        step = (state, int(progress * 10), reason)
        if step not in said:
            said.add(step)
            message(_waiting_text(state, progress, reason))

    yield say


def _waiting_text(state: str, progress: float, reason: str) -> str:
    return state + (f" {progress:.0%}" if progress else "") + (f": {reason}" if reason else "")


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
        columns = ["waiting request", "tenant", "position>", "waited>", "est. wait>"]
        ids = short_ids([entry["id"] for entry in queue[:MOST_QUEUED]])
        names = short_names([entry["tenant"] for entry in queue[:MOST_QUEUED]])
        rows = [_queue_row(*each) for each in zip(ids, names, queue[:MOST_QUEUED], strict=True)]
        print_table(columns, rows, ("est. wait", "waited"))
        if state["waiting"] > MOST_QUEUED:
            message(f"and {state['waiting'] - MOST_QUEUED} more")


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


def _queue_row(request: str, tenant: str, entry: dict[str, Any]) -> list[object]:
    waited, left = entry["waited_ms"] / 1000, entry["estimated_wait_ms"] / 1000
    return [request, tenant, entry["position"], f"{waited:.1f} s", f"{left:.1f} s"]


def _engine_fields(engine: dict[str, Any]) -> dict[str, object]:
    offloaded = f", {engine['layers_offloaded']} of {engine['layers']} layers offloaded" if engine["gpu_build"] else ""
    slots = f"{engine['slots']} slots of {engine['context_tokens']} tokens"
    return {
        "model": f"{engine['model']}, {size(engine['model_bytes'])}",
        "context": f"{slots}, {size(engine['kv_bytes'])} of KV cache ({engine['kv_type']})",
        "device": f"{engine['device']}{offloaded}",
    }
