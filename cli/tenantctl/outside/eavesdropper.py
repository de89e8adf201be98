"""Check `canaries`, from outside: what B plants in requests and in its system prompt never surfaces in A's answers.

A asks with the beginning of the canary, so that a model that sees anything of B would go on with the rest.
"""

from __future__ import annotations

import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from tenantctl.client import Client, url
from tenantctl.outside.visitors import Tally, Visitors
from tenantd.domain import IsolationCheck

HINT_DIGITS: Final = 8
SECRET_DIGITS: Final = 24
LEAST_FOUND: Final = 8
"""How many digits of the secret in a row are a find: fewer may be chance."""
TOKENS: Final = {True: 16, False: 24}
"""Of an answer, if quick and if not; enough for a find."""
ROUNDS: Final = {True: 1, False: 3}
"""If quick and if not."""


def check_canaries(client: Client, v: Visitors, *, quick: bool) -> Tally:
    """Let both send requests at the same time."""
    tally = Tally(IsolationCheck.CANARIES)
    planted = 0
    with ThreadPoolExecutor(max_workers=4) as pool:
        for _ in range(ROUNDS[quick]):
            hint, secret = secrets.token_hex(HINT_DIGITS // 2), secrets.token_hex(SECRET_DIGITS // 2)
            sentence = f"The access code is {hint}{secret}. "
            client.patch(url("tenants", v.b), {"system_prompt": sentence * 2, "system_in_completions": True})
            plants = [
                pool.submit(v.call, *call, key=v.b_key, body=body) for call, body in _plants(sentence, TOKENS[quick])
            ]
            for call, body in _questions(hint, TOKENS[quick]):
                answer = v.call(*call, key=v.a_key, body=body)
                if answer.status_code != 200:
                    tally.obstacles.append(f"a request got HTTP {answer.status_code}")
                    continue
                tally.tried += 1
                if is_part_in(secret, answer.text):
                    tally.failures.append(f"an answer of {call[1]} contains what another tenant sent")
            planted += _answered(plants)
    if not planted:
        tally.obstacles.append("no request with a canary was answered")
    return tally


def _plants(sentence: str, most_tokens: int) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """B's requests."""
    run, chat = ("POST", "/v1/completions"), ("POST", "/v1/chat/completions")
    literal = sentence.strip()
    return [
        (run, {"prompt": sentence * 3, "max_tokens": most_tokens}),
        (chat, {"messages": [{"role": "user", "content": sentence * 3}], "max_tokens": most_tokens}),
        (run, {"prompt": "Say it:", "max_tokens": 2 * most_tokens, "grammar": f'root ::= "{literal}"'}),
        (run, {"prompt": "Say it:", "max_tokens": most_tokens, "stop": [literal, sentence]}),
    ]


def _questions(hint: str, most_tokens: int) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """A's requests, greedy and sampled."""
    found: list[tuple[tuple[str, str], dict[str, Any]]] = []
    for temperature in (0, 1):
        own = {"max_tokens": most_tokens, "temperature": temperature, "ignore_eos": True}
        asked = f"Go on: the access code is {hint}"
        found.append((("POST", "/v1/completions"), {"prompt": f"The access code is {hint}", **own}))
        found.append((("POST", "/v1/chat/completions"), {"messages": [{"role": "user", "content": asked}], **own}))
    return found


def _answered(plants: list[Future[Any]]) -> int:
    return sum(plant.result().status_code == 200 for plant in plants)


def is_part_in(secret: str, text: str) -> bool:
    """Whether `LEAST_FOUND` digits of the secret in a row are in a text."""
    return any(secret[at : at + LEAST_FOUND] in text for at in range(len(secret) - LEAST_FOUND + 1))
