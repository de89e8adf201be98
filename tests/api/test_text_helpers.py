"""Tokens of texts, texts of tokens, messages as a prompt: without the engine, within limits."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import msgspec
import pytest

from tenantd.api.text.types import MOST_TEXT_BYTES, MOST_TOKENS
from tenantd.errors import RequestsPerMinuteExceeded
from tenantd.tenancy.turns import MOST_AT_ONCE, MOST_WAITING
from tests.api.conftest import Api

KEY = {"authorization": "Bearer td_acme"}


def ask(api: Api, path: str, body: Any, **headers: str) -> httpx.Response:
    return api.client.post(path, json=body, headers=KEY | headers)


def refused(answer: httpx.Response, param: str | None, *words: str, status: int = 400) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert all(word in error["message"] for word in words), error["message"]


def test_a_text_becomes_tokens_and_they_become_the_text_again(api: Api) -> None:
    text = "Grüße\x00, wörld \U0001f600"
    answer = ask(api, "/tokenize", {"content": text})
    assert answer.status_code == 200 and answer.headers["x-request-id"]
    assert answer.json() == {"tokens": list(text.encode())}
    assert ask(api, "/detokenize", answer.json()).json() == {"content": text}
    assert api.service.streams == [], "the engine has no part in it"


def test_special_tokens_come_only_where_they_are_asked_for(api: Api) -> None:
    assert ask(api, "/tokenize", {"content": "a", "add_special": True}).json() == {"tokens": [256, 97]}
    assert ask(api, "/tokenize", {"content": "", "add_special": False}).json() == {"tokens": []}
    assert ask(api, "/detokenize", {"tokens": [256, 97, 257]}).json() == {"content": "a"}
    answer = ask(api, "/tokenize", {"content": "a", "parse_special": True})
    refused(answer, "parse_special", "--allow-special", status=403)
    acme = api.service.directory.tenants["acme"]
    api.service.directory.tenants["acme"] = msgspec.structs.replace(acme, allow_special=True)
    assert ask(api, "/tokenize", {"content": "a", "parse_special": True}).json() == {"tokens": [97]}


def test_pieces_are_texts_or_the_bytes_that_are_none(api: Api) -> None:
    answer = ask(api, "/tokenize", {"content": "aä\n", "with_pieces": True}).json()
    assert answer["tokens"] == [
        {"id": 97, "piece": "a"},
        {"id": 0xC3, "piece": [0xC3]},
        {"id": 0xA4, "piece": [0xA4]},
        {"id": 10, "piece": "\n"},
    ]


def test_bytes_that_are_no_text_are_replaced(api: Api) -> None:
    assert ask(api, "/detokenize", {"tokens": [0xC3]}).json() == {"content": "\ufffd"}
    assert ask(api, "/detokenize", {"tokens": []}).json() == {"content": ""}


def test_messages_become_the_prompt_that_the_model_would_see_without_what_is_hidden(api: Api) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    shown = "System: Be kind.\nUser: Hi\nAssistant:"
    assert ask(api, "/apply-template", {"messages": messages}).json() == {"prompt": shown}
    without = ask(api, "/apply-template", {"messages": messages, "add_generation_prompt": False})
    assert without.json() == {"prompt": shown.removesuffix("Assistant:")}
    tool = {"type": "function", "function": {"name": "look", "description": "Looks."}}
    with_tools = ask(api, "/apply-template", {"messages": messages, "tools": [tool]}).json()["prompt"]
    assert '{"name": "look", "description": "Looks."' in with_tools and with_tools.endswith("Hi\nAssistant:")
    acme = api.service.directory.tenants["acme"]
    api.service.directory.tenants["acme"] = msgspec.structs.replace(acme, system_prompt="the secret word is fish")
    assert ask(api, "/apply-template", {"messages": messages}).json() == {"prompt": shown}


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("/tokenize", {}, "content", ()),
        ("/tokenize", {"content": 5}, "content", ()),
        ("/tokenize", {"content": "a", "contents": "b"}, "contents", ("did you mean content",)),
        ("/tokenize", {"content": "a", "model": "other"}, "model", ("not available",)),
        ("/detokenize", {"tokens": [5, 258]}, "tokens", ("258 is not a token id",)),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]", ()),
        ("/detokenize", {"tokens": [True]}, "tokens[0]", ()),
        ("/detokenize", {"tokens": "abc"}, "tokens", ()),
        ("/apply-template", {"messages": []}, "messages", ()),
        ("/apply-template", {"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, "tools", ("type",)),
        ("/apply-template", {"messages": [{"role": "nobody", "content": "a"}]}, "messages", ("role",)),
        ("/apply-template", {"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages[0].x", ("unknown",)),
    ],
)
def test_bad_bodies_are_refused_by_name(
    api: Api, path: str, body: Any, param: str | None, words: tuple[str, ...]
) -> None:
    answer = ask(api, path, body)
    assert answer.status_code == (404 if param == "model" else 400), answer.text
    refused(answer, param, *words, status=answer.status_code)


def test_half_a_character_is_refused(api: Api) -> None:
    answer = api.client.post("/tokenize", content=b'{"content": "\\ud800"}', headers=KEY)
    refused(answer, None, "not valid JSON", "surrogate")


def test_texts_that_are_too_long_are_refused_with_the_limit(api: Api) -> None:
    for body in ({"content": "x" * (MOST_TEXT_BYTES + 1)}, {"content": "ä" * (MOST_TEXT_BYTES // 2 + 1)}):
        refused(ask(api, "/tokenize", body), "content", str(MOST_TEXT_BYTES), "in parts")
    messages = [{"role": "user", "content": "x" * (MOST_TEXT_BYTES // 2)}] * 3
    refused(ask(api, "/apply-template", {"messages": messages}), "messages", str(MOST_TEXT_BYTES))
    answer = ask(api, "/detokenize", {"tokens": [5] * (MOST_TOKENS + 1)})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "tokens"


def test_a_long_text_that_is_allowed_is_answered_whole(api: Api) -> None:
    text = "abcdefgh" * (MOST_TEXT_BYTES // 8)
    transport = httpx.HTTPTransport(uds=str(api.path))  # half a million pieces are not compared with the description
    with httpx.Client(transport=transport, base_url="http://tenantd", timeout=120) as client:
        answer = client.post("/tokenize", json={"content": text, "with_pieces": True}, headers=KEY)
    tokens = answer.json()["tokens"]
    assert len(tokens) == MOST_TEXT_BYTES
    assert "".join(each["piece"] for each in tokens) == text


def test_who_may_not_send_requests_may_not_ask_this_either(api: Api) -> None:
    body = {"content": "a"}
    assert api.client.post("/tokenize", json=body, headers={"authorization": "Bearer td_wrong"}).status_code == 401
    closed = api.client.post("/tokenize", json=body, headers={"authorization": "Bearer td_closed"})
    assert (closed.status_code, closed.json()["error"]["code"]) == (403, "tenant_suspended")
    api.service.text_requests.refusal = RequestsPerMinuteExceeded("enough", retry_after_s=3)
    answer = ask(api, "/tokenize", body)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


def test_a_tenant_that_asks_for_more_than_may_wait_is_refused(api: Api) -> None:
    may_ask, too_many = MOST_AT_ONCE + MOST_WAITING, 3
    go_on = threading.Event()

    async def ask_all() -> list[int]:
        pool, transport = api.service.pool, httpx.AsyncHTTPTransport(uds=str(api.path))
        blocked = asyncio.ensure_future(pool.run("acme", lambda: go_on.wait(120)))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://tenantd", timeout=120, headers=KEY
        ) as client:
            body, waiting = {"content": "a"}, set[asyncio.Future[httpx.Response]]()
            waiting |= {asyncio.ensure_future(client.post("/tokenize", json=body)) for _ in range(may_ask + too_many)}
            everything = list(waiting)
            while len(waiting) > may_ask:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            go_on.set()
            assert await blocked
            return sorted([answer.status_code for answer in await asyncio.gather(*everything)])

    assert api.loop.run(ask_all()) == [200] * may_ask + [429] * too_many
    assert ask(api, "/tokenize", {"content": "a"}).status_code == 200
