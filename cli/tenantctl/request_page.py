"""One request in every detail, on a terminal or in a pipe."""

from __future__ import annotations

from typing import Any, Final

from tenantctl.audit_lines import COLUMNS, rows
from tenantctl.queue_table import wait_of
from tenantctl.render import heading, print_fields, print_table
from tenantctl.units import energy, lasting, moment, money, plural

_AMOUNTS: Final = ("input", "cached", "output", "engine")


def print_request(answer: dict[str, Any]) -> None:
    """The answer for one request. Of their own, tenants get only the request."""
    r = answer["request"]
    entries = answer.get("entries", [])
    print_fields(
        {
            "request": r["id"],
            **({"tenant": f"{r['tenant']} (id {r['tenant_id']})"} if "tenant" in r else {}),
            **({"by": who} if (who := _who(r, answer.get("key"))) else {}),
            "kind": f"{r['kind']}, model {r['model']}",
            "state": _state(r, answer.get("waiting")),
            "created": _exact(r["created_micros"]),
            "slot after": _after(r, r["queue_micros"]),
            "first token after": _after(r, r["first_token_micros"], r["prefill_micros"]),
            "ended": _ended(r),
            "prompt": _prompt(r),
            "output": f"{r['completion_tokens']:,} tokens, at most {r['max_tokens']:,}",
            "engine time": lasting(r["engine_micros"]),
            **({"energy": energy(r["energy_millijoules"])} if r["energy_millijoules"] else {}),
            "slots": _slots(r, entries),
            "adapter": _adapter(r, entries),
            "cost": _cost(r, answer.get("prices")),
        }
    )
    if entries:
        print()
        heading("Audit trail")
        print_table(COLUMNS, rows(entries))


def _who(r: dict[str, Any], key: dict[str, Any] | None) -> str:
    uid = f"uid {r['uid']}" if r.get("uid") is not None else ""
    if not r["key_id"]:
        return uid  # "" for tenants, who are not told
    label = f" ({key['label']})" if key and key["label"] else ""
    return f"{r['key_id']}{label}" + (f", {uid}" if uid else "")


def _state(r: dict[str, Any], waiting: dict[str, Any] | None) -> str:
    state = str(r["live_state"] or r["state"])
    if waiting is not None:
        state += f", {waiting['position']} in the queue, first token in {wait_of(waiting)}"
    cause = r.get("cause") or ""
    return ": ".join(filter(None, (state, cause, r["error"])))


def _exact(micros: int) -> str:
    return f"{moment(micros)}.{micros % 1_000_000 // 1000:03}"


def _after(r: dict[str, Any], micros: int | None, prefill_micros: int | None = None) -> str:
    """How long after its creation. The ledger is told when a request ends."""
    if micros is None and r["ended_micros"] is None and r["live_state"] != "waiting":
        return "known when it ends"
    prefill = "" if prefill_micros is None else f" (prompt computed in {lasting(prefill_micros)})"
    return lasting(micros) + prefill


def _ended(r: dict[str, Any]) -> str:
    if r["ended_micros"] is None:
        return "not yet"
    billed = "" if r["billed_micros"] is None else f"; billed as of {moment(r['billed_micros'])}"
    return f"{_exact(r['ended_micros'])}, after {lasting(r['duration_micros'])}{billed}"


def _prompt(r: dict[str, Any]) -> str:
    return f"{r['prompt_length_tokens']:,} tokens: {r['prompt_tokens']:,} computed, {r['cached_tokens']:,} cached"


def _slots(r: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    """Which slot it got first, how often it was paused, and how many tokens it kept in slots for how long."""
    sequence = _resource(entries, "sequence")
    slot = "" if sequence is None else f"slot {sequence}, "
    pauses = f"paused {plural(r['swaps'], 'time')}"
    if r["ended_micros"] is None:
        return f"{slot}{pauses}"
    return f"{slot}{pauses}, {r['kv_token_micros'] / 1e6:,.3f} token-seconds of KV cache"


def _adapter(r: dict[str, Any], entries: list[dict[str, Any]]) -> object:
    return r.get("adapter") or _resource(entries, "adapter")


def _resource(entries: list[dict[str, Any]], name: str) -> Any:
    return next((entry["detail"].get(name) for entry in entries if entry["event"] == "resources"), None)


def _cost(r: dict[str, Any], prices: dict[str, Any] | None) -> str:
    """What is billed, and what it is made of."""
    if r["ended_micros"] is None:
        return "not known yet"
    if r.get("unbilled"):
        return "not billed"
    currency = "" if prices is None else f"{prices['currency']} "
    parts = [f"{name} {money(r[f'{name}_nanos'])}" for name in _AMOUNTS if r[f"{name}_nanos"]]
    parts += [f"less {money(r[f'{name}_nanos'])} {name}" for name in ("free", "waived") if r[f"{name}_nanos"]]
    which = f"; price list {r['price_id']}" if r.get("price_id") is not None else ""
    return f"{currency}{money(r['cost_nanos'])}" + (f" ({', '.join(parts)}{which})" if parts or which else "")
