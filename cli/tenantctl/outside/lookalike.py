"""Check `canaries`, from outside: what B's prompts left in the cache is found by B and not by A.

A sends the very prompts that B has sent. That B finds them shows that the check would see it if A did.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from tenantctl.client import Client, url
from tenantctl.outside.visitors import Tally, Visitors
from tenantd.domain import IsolationCheck

WORDS: Final = 24
CHANCE_TOKENS: Final = 8
"""What two prompts of different tenants may begin with in any case, such as the token that begins a text."""
ROUNDS: Final = {True: 1, False: 3}
"""If quick and if not."""


def check_cache(client: Client, v: Visitors, *, quick: bool) -> Tally:
    """Turn the cache of both on, which stays on."""
    tally = Tally(IsolationCheck.CANARIES)
    for name in (v.a, v.b):
        client.patch(url("tenants", name), {"cache": "on"})
    for _ in range(ROUNDS[quick]):
        prompt = " ".join(secrets.token_hex(4) for _ in range(WORDS))
        own = [_cached(tally, v, v.b_key, prompt) for _ in range(2)][-1]
        others = _cached(tally, v, v.a_key, prompt)
        if own is None or others is None:
            continue
        tally.tried += 1
        if others > CHANCE_TOKENS:
            tally.failures.append(f"{others} tokens of a prompt were in the cache because another tenant had sent it")
        elif own <= CHANCE_TOKENS:
            tally.obstacles.append("a tenant's own prompt was not in its cache, so another's might be missed too")
    return tally


def _cached(tally: Tally, v: Visitors, key: str, prompt: str) -> int | None:
    """How many tokens of a prompt were cached; None if there was no answer."""
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": 1}
    answer = v.call("POST", "/v1/completions", key=key, body=body)
    if answer.status_code != 200:
        tally.obstacles.append(f"a request got HTTP {answer.status_code}")
        return None
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
