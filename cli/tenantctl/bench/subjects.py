"""What to measure: a running daemon with temporary tenants, or any OpenAI-compatible URL."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tenantctl.bench.suites import Suite
from tenantctl.bench.target import Target, target_at
from tenantctl.client import Client, url
from tenantd.errors import DaemonNotRunning, InvalidRequest, TenantdError
from tenantd.limits import LIFTED, LIMITS

TENANT_PREFIX: Final = "bench-"
WARM_UP: Final = "warm-up"
NO_LIMITS: Final = {name: LIFTED for name, limit in LIMITS.items() if limit.choices is None}
"""Limits of the temporary tenants, whatever the defaults are: refusals would hide what the scheduler does."""
PROBE_TIMEOUT_S: Final = 10.0
IDLE_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.05
FIRST_ORDINARY_TOKEN: Final = 1000
LAST_ORDINARY_TOKEN: Final = 100_000
SMALL_VOCABULARY: Final = 2 * FIRST_ORDINARY_TOKEN
PRINTABLE_BYTES: Final = range(32, 127)


def ordinary_tokens(n_tokens: int | None) -> range:
    """Token ids for prompts: beyond the control tokens at the start of a large vocabulary, printable bytes in a small
    one. None: the size is unknown."""
    if n_tokens is None:
        return range(FIRST_ORDINARY_TOKEN, LAST_ORDINARY_TOKEN)
    if n_tokens < SMALL_VOCABULARY:
        return range(PRINTABLE_BYTES.start, min(PRINTABLE_BYTES.stop, n_tokens))
    return range(FIRST_ORDINARY_TOKEN, min(LAST_ORDINARY_TOKEN, n_tokens))


# -- a daemon


@contextmanager
def temporary_tenants(client: Client, suite: Suite, name: str = "tenantd") -> Iterator[dict[str, Target]]:
    """Create an unbilled tenant for each tenant of the suite, with its weight, and one for `WARM_UP`, so that nothing
    before the run counts against any of them. Removes them at the end, once none of their requests runs.

    Names end with a random part, so that runs do not share rows in the ledger.
    """
    end = secrets.token_hex(3)
    made: list[str] = []
    try:
        targets = {}
        for label, weight in {WARM_UP: 1.0, **{t.name: t.weight for t in suite.tenants}}.items():
            tenant = f"{TENANT_PREFIX}{label}-{end}"
            client.post(url("tenants"), {"name": tenant, "weight": weight, "unbilled": True, "limits": NO_LIMITS})
            made.append(tenant)
            targets[label] = Target(name, path=client.socket, headers=(("x-tenant", tenant),))
        yield targets
    finally:
        wait_idle(client, made)
        for tenant in made:
            client.delete(url("tenants", tenant))


def wait_idle(client: Client, tenants: list[str]) -> None:
    """Wait until none of their requests runs or waits; those that were cut off end within a step of the engine.

    Raises TenantdError if that takes too long.
    """
    deadline_s = time.monotonic() + IDLE_TIMEOUT_S
    while time.monotonic() < deadline_s:
        status = client.get(url("status"))
        if not any(t["running"] or t["paused"] or t["waiting"] for t in status["tenants"] if t["name"] in tenants):
            return
        time.sleep(POLL_S)
    raise TenantdError(
        f"requests of {', '.join(tenants)} are still running {IDLE_TIMEOUT_S:g} s after the end of the run"
    )


def check_daemon(client: Client, suite: Suite) -> dict[str, Any]:
    """What its status says of the engine. Raises InvalidRequest if it cannot run the suite, TenantdError."""
    state = client.get(url("status"))
    engine: dict[str, Any] | None = state["engine"]
    if engine is None:
        raise TenantdError(f"the daemon is {state['state']}; wait for it with: tenantctl status --wait 120")
    needed, has = suite.context_tokens, engine["context_tokens"]
    if needed > has:
        raise InvalidRequest(
            f"{suite.name} needs a context of {needed} tokens, but this daemon's slots hold {has}; "
            f"shorten its requests with --length-scale {has / needed:.2g}"
        )
    return engine


# -- a URL


def probe(base_url: str, api_key: str, extra: dict[str, Any]) -> tuple[Target, int | None]:
    """The target for a URL, and the size of its vocabulary if the server tells it (llama-server does).

    If the server lists its models, every request names the first one, unless `extra` names another.
    Raises DaemonNotRunning, InvalidRequest, TenantdError.
    """
    import httpx

    fields = dict(extra)
    target = target_at(base_url, api_key=api_key)
    try:
        answer = httpx.get(f"{base_url.rstrip('/')}/models", headers=dict(target.headers), timeout=PROBE_TIMEOUT_S)
    except httpx.InvalidURL as e:
        raise InvalidRequest(f"--url: {e}") from e
    except httpx.TransportError as e:
        raise DaemonNotRunning(f"no server answers at {base_url}: {e}") from e
    if answer.status_code in (401, 403):
        raise TenantdError(f"{base_url} refused the API key (HTTP {answer.status_code}); pass --api-key")
    n_tokens = None
    if models := _models(answer):
        fields.setdefault("model", models[0].get("id", ""))
        meta = models[0].get("meta")
        n_tokens = meta.get("n_vocab") if isinstance(meta, dict) else None
    return target_at(base_url, api_key=api_key, extra=tuple(fields.items())), n_tokens


def _models(answer: Any) -> list[dict[str, Any]]:
    """The models that a server lists; none if it has no list."""
    try:
        data = answer.json()["data"] if answer.is_success else []
    except (ValueError, KeyError, TypeError):
        return []
    return [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []
