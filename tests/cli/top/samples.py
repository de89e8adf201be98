"""Samples as the daemon tells them."""

from __future__ import annotations

from typing import Any

import msgspec

from tenantctl.top.samples import Ended, Sample
from tenantd.domain import Limits
from tests.cli.fake_daemon import ENGINE

DAEMON: dict[str, Any] = {
    "version": "1.2.3",
    "model": "gemma-3-270m",
    "state": "ready",
    "progress": 1.0,
    "reason": "",
    "engine": msgspec.to_builtins(ENGINE),
    "engine_restarts": 0,
    "engine_busy_micros": 0,
    "steps": 0,
    "adapters_running": 1,
    "cache": {"tenants": 1, "used_bytes": 12 << 20, "host_bytes": 1 << 30},
    "requests_paused": False,
    "is_checking_isolation": False,
}


def tenant(name: str, **more: Any) -> dict[str, Any]:
    """As the daemon tells it; limits and rates are merged with those of nobody."""
    limits = {**msgspec.to_builtins(Limits(max_queued=256)), **more.pop("limits", {})}
    rates = {"requests": None, "tokens": None, **more.pop("rates", {})}
    counts = dict.fromkeys(("running", "paused", "waiting", "computing_prompts", "held"), 0)
    served = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "engine_micros", "service"), 0)
    weight = {"priority": "standard", "weight": 1.0, "full_weight": 1.0, "throttled": False, "adapter": None}
    names = {"name": name, "state": "active", "limits": limits, "rates": rates, "budgets": []}
    return {**names, **counts, **served, **weight, **more}


def rate(limit: int, remaining: int) -> dict[str, int]:
    return {"limit": limit, "remaining": remaining, "reset_micros": 0}


def budget(used: int, amount: int, **more: Any) -> dict[str, Any]:
    names = {"key_id": None, "period": "monthly", "unit": "tokens", "topped_up": 0, "reserved": 0}
    return {**names, "used": used, "amount": amount, "left": max(0, amount - used), "resets_micros": 0, **more}


def request(request_id: str, name: str, **more: Any) -> dict[str, Any]:
    tokens = {"prompt_length_tokens": 40, "prompt_tokens": 40, "cached_tokens": 0, "completion_tokens": 12}
    times = {"age_ms": 2500, "first_token_micros": 120_000, "engine_micros": 40_000, "max_tokens": 256}
    place = {"position": None, "has_slot": True, "client_request_id": "", **wait(None, None, None)}
    return {"id": request_id, "tenant": name, "state": "running", **tokens, **times, **place, **more}


def wait(low_ms: int | None, likely_ms: int | None, high_ms: int | None) -> dict[str, int | None]:
    """How long it should be to a first token."""
    return {"estimated_wait_ms": likely_ms, "estimated_wait_low_ms": low_ms, "estimated_wait_high_ms": high_ms}


def waiting(request_id: str, name: str, position: int, wait_ms: int = 3000) -> dict[str, Any]:
    none = {"prompt_tokens": 0, "completion_tokens": 0, "first_token_micros": None, "has_slot": False}
    took = wait(wait_ms // 2, wait_ms, wait_ms * 2)
    return request(request_id, name, state="waiting", position=position, **took, **none)


def ended(request_id: str, name: str, **more: Any) -> Ended:
    usual = {"state": "length", "cause": "", "prompt_tokens": 40, "completion_tokens": 256, "engine_micros": 900_000}
    times = {"at_micros": 1_795_000_000_000_000, "first_token_micros": 200_000, "duration_micros": 2_600_000}
    return Ended(**{"id": request_id, "tenant": name, **usual, **times, **more})


def sample(at_s: float, *tenants: dict[str, Any], **more: Any) -> Sample:
    daemon = {**DAEMON, **more.pop("daemon", {})}
    return Sample(at_s, more.pop("is_whole", True), daemon, list(tenants), **{"requests": [], **more})


def busy() -> list[Sample]:
    """Five seconds of tenants that are all slow for another reason."""
    before, after = {"completion_tokens": 0, "engine_micros": 0, "service": 0.0}, {"engine_micros": 1_000_000}
    names = ("acme", "globex", "hooli", "initech", "stopped", "umbrella-corporation-research")
    earlier = sample(100.0, *(tenant(name, **before) for name in names))
    acme = tenant(
        "acme",
        **after,
        running=4,
        waiting=3,
        completion_tokens=1500,
        prompt_tokens=400,
        service=3400.0,
        weight=2.0,
        full_weight=2.0,
        budgets=[budget(900, 1000)],
    )
    globex = tenant("globex", **after, running=2, paused=2, completion_tokens=700, prompt_tokens=200, service=1600.0)
    hooli = tenant(
        "hooli",
        **after,
        waiting=2,
        held=2,
        limits={"requests_per_minute": 6},
        rates={"requests": rate(6, 0)},
        budgets=[budget(10, 10, unit="money")],
    )
    initech = tenant(
        "initech",
        **after,
        running=1,
        completion_tokens=250,
        service=500.0,
        limits={"tokens_per_minute": 3000},
        rates={"tokens": rate(3000, 12)},
    )
    stopped = tenant("stopped", state="suspended", engine_micros=1_000_000)
    umbrella = tenant(
        "umbrella-corporation-research", **after, running=1, waiting=2, service=500.0, limits={"max_concurrent": 1}
    )
    requests = [
        request("req_" + "0" * 24 + "aaaa0001", "acme"),
        request("req_" + "0" * 24 + "aaaa0002", "acme", state="paused", has_slot=False, first_token_micros=900_000),
        waiting("req_" + "0" * 24 + "aaaa0003", "acme", 1),
        waiting("req_" + "0" * 24 + "bbbb0001", "umbrella-corporation-research", 2, 61_000),
    ]
    over = [
        ended("req_" + "0" * 24 + "cccc0001", "acme"),
        ended("req_" + "0" * 24 + "cccc0002", "globex", state="failed", cause="engine_failure"),
        *(ended("req_" + "0" * 24 + f"dddd{n:04}", "globex", first_token_micros=n * 1000) for n in range(1, 101)),
    ]
    daemon = {"steps": 400, "engine_busy_micros": 4_000_000}
    later = sample(105.0, acme, globex, hooli, initech, stopped, umbrella, daemon=daemon, requests=requests, ended=over)
    return [earlier, later]
