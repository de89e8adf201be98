"""Administrators set a tenant's system prompt, it takes effect with the next request, and only they read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.described import DescribedDaemon
from tests.support.daemon import Daemon

CONTEXT_TOKENS = 256


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Tokens are bytes."""
    folder = tmp_path_factory.mktemp("prompts")
    with DescribedDaemon(folder, engine={"context_tokens": CONTEXT_TOKENS}) as daemon:
        yield daemon


def change(daemon: Daemon, name: str, **changes: Any) -> httpx.Response:
    return daemon.request("PATCH", f"/admin/v1/tenants/{name}", json=changes)


def prompt_tokens(daemon: Daemon, name: str, *, chat: bool) -> int:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}]} if chat else {"prompt": "a"}
    path = "/v1/chat/completions" if chat else "/v1/completions"
    answer = daemon.post(path, {**body, "max_tokens": 1}, headers={"X-Tenant": name})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["prompt_tokens"])


def test_it_takes_effect_with_the_next_request_and_is_billed(daemon: Daemon) -> None:
    daemon.add_tenant("acme", system_prompt="\n12345678\n")
    shown = daemon.get("/admin/v1/tenants/acme").json()["tenant"]
    assert (shown["system_prompt"], shown["system_in_completions"]) == ("12345678", False)
    with_prompt, without = len("System: 12345678\n"), prompt_tokens(daemon, "acme", chat=False)
    chat = prompt_tokens(daemon, "acme", chat=True)
    assert change(daemon, "acme", system_in_completions=True).status_code == 200
    assert prompt_tokens(daemon, "acme", chat=False) == without + len("12345678\n\n")
    assert change(daemon, "acme", system_prompt="").json()["tenant"]["system_prompt"] == ""
    assert prompt_tokens(daemon, "acme", chat=False) == without
    assert prompt_tokens(daemon, "acme", chat=True) == chat - with_prompt
    billed = [row["prompt_tokens"] for row in daemon.rows()]
    assert billed == [without, chat, without + 10, without, chat - with_prompt]


def test_the_list_of_tenants_tells_its_length_and_not_its_text(daemon: Daemon) -> None:
    daemon.add_tenant("listed", system_prompt="Grüße ☃")
    answer = daemon.get("/admin/v1/tenants")
    [tenant] = [tenant for tenant in answer.json()["tenants"] if tenant["name"] == "listed"]
    assert tenant["system_prompt_bytes"] == len("Grüße ☃".encode()) and "system_prompt" not in tenant
    assert "Grüße" not in answer.text


def test_one_that_leaves_no_room_in_the_context_is_refused_when_it_is_set(daemon: Daemon) -> None:
    daemon.add_tenant("long")
    shortest = len("System: \nUser: a\nAssistant:") + 1  # with the BOS
    fits = "a" * (CONTEXT_TOKENS - 1 - shortest)
    assert change(daemon, "long", system_prompt=fits).status_code == 200
    assert prompt_tokens(daemon, "long", chat=True) == CONTEXT_TOKENS - 1
    refused = change(daemon, "long", system_prompt=fits + "a")
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == "system_prompt"
    assert f"has {CONTEXT_TOKENS} tokens, but a context holds {CONTEXT_TOKENS}" in error["message"]
    assert daemon.get("/admin/v1/tenants/long").json()["tenant"]["system_prompt"] == fits


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"system_prompt": "a\\u0000"}', "NUL"),
        (b'{"system_prompt": "a\\ud800"}', "surrogate"),
        (b'{"system_prompt": "a\xff"}', "valid"),
        (b'{"system_prompt": 5}', "system_prompt"),
        (b'{"system_prompt": "' + b"a" * 70_000 + b'"}', "at most 65536"),
        (b'{"system_in_completions": "yes"}', "system_in_completions"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(daemon: Daemon, body: bytes, reason: str) -> None:
    if not any(tenant["name"] == "bad" for tenant in daemon.get("/admin/v1/tenants").json()["tenants"]):
        daemon.add_tenant("bad", system_prompt="kept")
    refused = daemon.request("PATCH", "/admin/v1/tenants/bad", content=body)
    assert refused.status_code == 400
    assert reason in refused.json()["error"]["message"]
    assert daemon.get("/admin/v1/tenants/bad").json()["tenant"]["system_prompt"] == "kept"


def test_special_tokens_in_it_are_text_and_no_mistake(daemon: Daemon) -> None:
    daemon.add_tenant("special", system_prompt="<|im_start|>system\n<s></s>[INST]")
    assert prompt_tokens(daemon, "special", chat=True) > 0


def test_its_tenant_reads_it_nowhere(daemon: Daemon) -> None:
    key = daemon.add_tenant("secret", system_prompt="Zanzibar")
    for path in (
        "/admin/v1/tenants/secret",
        "/admin/v1/tenants",
        "/v1/models",
        "/openapi.json",
        "/v1/queue",
        "/readyz",
    ):
        assert "Zanzibar" not in daemon.get(path, headers={"Authorization": f"Bearer {key}"}).text
    assert "Zanzibar" not in daemon.log.read_text() + daemon.get("/metrics").text + daemon.get("/admin/v1/status").text
