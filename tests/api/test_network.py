"""The API on TCP: who one is there, which names and pages it answers to, and limits of its own."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tenantd.api import wrong_keys
from tenantd.api.connections import Connections
from tenantd.api.doors import Door
from tenantd.events import Events
from tests.api.conftest import Api, make_config
from tests.api.conftest import serve as serve_api

PAGE = "https://chat.example.org"
FOREIGN = "https://evil.example"
KEY, ADMIN = {"authorization": "Bearer td_acme"}, {"authorization": "Bearer td_admin"}
LISTENERS: list[dict[str, Any]] = [
    {"address": "127.0.0.1:0", "origins": [PAGE], "hosts": ["llm.example.org"], "max_body_bytes": 2000},
    {"address": "127.0.0.1:0", "head_timeout_s": 2.0},
    {"address": "127.0.0.1:0", "max_connections": 8, "max_connections_per_address": 5},
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    yield from serve_api(tmp_path_factory.mktemp("tcp"), {"server": {"listen": LISTENERS}})


@pytest.fixture
def tcp(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A client of the first listener. Wrong keys are free."""
    monkeypatch.setattr(wrong_keys, "FREE", 1 << 20)
    with httpx.Client(base_url=api.url(0), timeout=120, trust_env=False) as client:
        client.event_hooks = {"response": [api.contract.check]}
        yield client


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# -- who one is


def test_a_key_is_all_that_counts(api: Api, tcp: httpx.Client) -> None:
    answer = tcp.post("/v1/completions", json={"prompt": "Hi"}, headers=KEY)
    assert answer.status_code == 200
    assert api.service.streams[-1].tenant == "acme"
    assert api.service.streams[-1].actor.uid is None
    with openai.OpenAI(api_key="td_globex", base_url=f"{api.url(0)}/v1", max_retries=0) as client:
        assert client.completions.create(model="tiny", prompt="Hi").choices[0].text == api.service.answer
    assert api.service.streams[-1].tenant == "globex"


def test_without_a_key_nothing_but_health_is_answered_also_to_the_daemons_own_user(api: Api, tcp: httpx.Client) -> None:
    document = api.client.get("/openapi.json").json()
    tried = 0
    for path, operations in document["paths"].items():
        for method in operations:
            if path != "/healthz":
                body = {} if method in ("post", "patch") else None
                answer = tcp.request(
                    method.upper(), path.replace("{name}", "acme"), json=body, headers={"x-tenant": "acme"}
                )
                assert error(answer) == (401, "invalid_api_key"), f"{method} {path}"
                tried += 1
    assert tried > 30
    assert tcp.get("/healthz").json() == {"status": "ok"}
    assert tcp.get("/healthz", headers={"authorization": "Bearer td_wrong"}).status_code == 200


def test_a_tenants_key_reads_and_a_key_that_administers_does_all(tcp: httpx.Client) -> None:
    for path in ("/readyz", "/openapi.json", "/v1/models"):
        assert tcp.get(path, headers=KEY).status_code == 200
        assert tcp.get(path, headers=ADMIN).status_code == 200
    assert "/admin/v1/status" not in tcp.get("/openapi.json", headers=KEY).json()["paths"]
    for path in ("/admin/v1/status", "/metrics"):
        assert error(tcp.get(path, headers=KEY)) == (403, "forbidden")
    assert tcp.get("/metrics", headers=ADMIN).status_code == 200
    assert error(tcp.get("/metrics", headers={"authorization": "Bearer td_wrong"})) == (401, "invalid_api_key")


def test_only_a_key_that_administers_names_a_tenant(api: Api, tcp: httpx.Client) -> None:
    def ask(**headers: str) -> httpx.Response:
        return tcp.post("/v1/completions", json={"prompt": "Hi"}, headers={"x-tenant": "globex", **headers})

    assert error(ask(**KEY)) == (403, "forbidden")
    assert error(ask()) == (401, "invalid_api_key")
    assert ask(**ADMIN).status_code == 200
    assert api.service.streams[-1].tenant == "globex"


def test_models_tell_a_tenant_what_it_may_use(api: Api, tcp: httpx.Client) -> None:
    [model] = tcp.get("/v1/models", headers=KEY).json()["data"]
    assert model["context_length"] == model["max_model_len"] == 512
    assert model["chat_template"] is False, "the vocabulary of these tests has none"
    assert model["limits"]["max_concurrent"] is None
    assert "limits" not in tcp.get("/v1/models/tiny", headers=ADMIN).json(), "it has no tenant"
    answer = tcp.post("/v1/completions", json={"prompt": "Hi"}, headers=KEY).json()
    assert answer["system_fingerprint"] == model["system_fingerprint"] != ""


# -- names and pages


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:1234", "localhost", "LocalHost:80", "a.localhost.", "[::1]:8", "192.0.2.1", "llm.example.org:443"],
)
def test_names_of_this_machine_and_those_it_is_told_are_answered(tcp: httpx.Client, host: str) -> None:
    assert tcp.get("/v1/models", headers={"host": host, **KEY}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "localhost.evil.example", "xlocalhost", "", "1.2"]
)
@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/admin/v1/status"])
def test_another_name_is_refused_whatever_the_key(tcp: httpx.Client, host: str, path: str) -> None:
    """A page can give this address a name of its own (DNS rebinding)."""
    assert error(tcp.get(path, headers={"host": host, **ADMIN})) == (403, "forbidden")


def test_a_request_without_a_name_is_refused(api: Api) -> None:
    with socket.create_connection(api.address(0)) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n")
        assert sock.makefile("rb").read().startswith(b"HTTP/1.1 400 ")


def preflight(client: httpx.Client, path: str, origin: str) -> httpx.Response:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
        "access-control-request-private-network": "true",
    }
    return client.request("OPTIONS", path, headers=asked)


def test_a_page_that_is_named_asks_and_reads(api: Api, tcp: httpx.Client) -> None:
    allowed = preflight(tcp, "/v1/chat/completions", PAGE)
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert allowed.headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
    assert allowed.headers["access-control-allow-private-network"] == "true"
    answer = tcp.post("/v1/completions", json={"prompt": "Hi"}, headers={"origin": PAGE, **KEY})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-expose-headers"] == "*"
    refused = tcp.post("/v1/completions", json={"prompt": 1}, headers={"origin": PAGE, **KEY})
    assert refused.headers["access-control-allow-origin"] == PAGE, "so that the page can read why"
    assert "access-control-allow-origin" not in tcp.get("/v1/models", headers=KEY).headers
    assert tcp.get("/v1/models", headers=KEY).headers["vary"] == "Origin"


@pytest.mark.parametrize(
    "origin", [FOREIGN, "null", "https://chat.example.org.evil.example", "http://chat.example.org"]
)
def test_a_page_that_is_not_named_may_neither_ask_nor_read(api: Api, tcp: httpx.Client, origin: str) -> None:
    refused = preflight(tcp, "/v1/chat/completions", origin)
    assert error(refused) == (403, "forbidden")
    answer = tcp.get("/v1/models", headers={"origin": origin, **KEY})
    for one in (refused, answer):
        assert not [name for name in one.headers if name.startswith("access-control-")]
    over_socket = preflight(api.client, "/v1/chat/completions", PAGE)
    assert error(over_socket) == (403, "forbidden"), "the socket names nobody"


def test_no_page_administers_but_the_listeners_own(api: Api, tcp: httpx.Client) -> None:
    own = api.url(0)
    for origin in (PAGE, FOREIGN, "null", own.replace("http", "https"), api.url(1)):
        assert error(tcp.get("/admin/v1/status", headers={"origin": origin, **ADMIN})) == (403, "forbidden")
        assert error(preflight(tcp, "/admin/v1/tenants", origin)) == (403, "forbidden")
    assert tcp.get("/metrics", headers={"origin": own, **ADMIN}).status_code == 200
    rebound = {"host": "evil.example", "origin": "http://evil.example", **ADMIN}
    assert error(tcp.get("/admin/v1/status", headers=rebound)) == (403, "forbidden")


# -- wrong keys


def test_wrong_keys_are_answered_later_and_later_and_right_ones_at_once(
    api: Api, tcp: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrong_keys, "FREE", 3)
    monkeypatch.setattr(wrong_keys, "LONGEST_PAUSE_S", 8.0)
    monkeypatch.setattr(wrong_keys, "MOST_HELD", 2)

    def ask_wrongly(_: int) -> httpx.Response | None:
        with httpx.Client(base_url=api.url(0), timeout=3, trust_env=False) as client:
            try:
                return client.get("/v1/models", headers={"authorization": "Bearer td_wrong"})
            except httpx.ReadTimeout:
                return None

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask_wrongly, range(40)))
    refused = [answer for answer in answers if answer is not None and answer.status_code == 429]
    assert refused and all(answer.json()["error"]["code"] == "too_many_wrong_keys" for answer in refused)
    assert int(refused[0].headers["retry-after"]) > 0 and refused[0].headers["x-should-retry"] == "false"
    began_s = time.monotonic()
    for _ in range(20):
        assert tcp.get("/v1/models", headers=KEY).status_code == 200
    assert time.monotonic() - began_s < 60, "held up, they would take minutes"
    again = api.client.get("/v1/models", headers={"authorization": "Bearer td_wrong"})
    assert error(again) == (401, "invalid_api_key"), "the socket is no address"


# -- limits of its own


def test_a_body_may_be_as_large_as_the_listener_allows(api: Api, tcp: httpx.Client) -> None:
    long = {"prompt": "x" * 3000}
    answer = tcp.post("/v1/completions", json=long, headers=KEY)
    assert error(answer) == (413, "body_too_large")
    assert api.completion(**long).status_code == 400, "the socket reads it: too long for the context"


def test_a_slow_head_is_ended_by_the_listeners_own_clock(api: Api) -> None:
    with socket.create_connection(api.address(1)) as sock, socket.create_connection(api.address(0)) as patient:
        for one in (sock, patient):
            one.settimeout(60)
            one.sendall(b"GET /healthz HTTP/1.1\r\nhost: ")
        assert sock.makefile("rb").read().startswith(b"HTTP/1.1 408 ")
        patient.sendall(b"localhost\r\nconnection: close\r\n\r\n")
        assert patient.makefile("rb").read().startswith(b"HTTP/1.1 200 ")


def test_an_address_has_so_many_connections_and_loses_its_oldest_idle_one(api: Api) -> None:
    socks = [socket.create_connection(api.address(2)) for _ in range(6)]
    try:
        socks[0].settimeout(60)
        assert socks[0].recv(1) == b""
        socks[5].sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert socks[5].makefile("rb").read().startswith(b"HTTP/1.1 200 ")
    finally:
        for sock in socks:
            sock.close()


def test_one_that_answers_is_not_ended_for_a_new_one(api: Api) -> None:
    body = b'{"prompt": "Hi", "stream": true}'
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer td_acme\r\ncontent-length: "
    before, api.service.hold_after = len(api.service.streams), 0
    socks = []
    try:
        for number in range(5):
            socks.append(socket.create_connection(api.address(2), timeout=60))
            socks[-1].sendall(head + b"%d\r\n\r\n" % len(body) + body)
            api.wait_until(lambda number=number: len(api.service.streams) == before + number + 1)  # type: ignore[misc]
        socks.append(socket.create_connection(api.address(2), timeout=60))
        refused = socks[-1].makefile("rb").read()
        assert b"429" in refused and b"max_connections_per_address" in refused
    finally:
        api.loop.call(api.service.release.set)
        api.service.hold_after = None
        for sock in socks:
            sock.close()


def test_a_listener_takes_no_more_than_its_part(tmp_path: Path) -> None:
    """Whoever comes from many addresses leaves the socket to others."""
    config = make_config(tmp_path, {"server": {"listen": LISTENERS}}).server
    table = Connections(lambda: config, Events(), lambda _: True, descriptors=1000)
    door = Door(lambda: config, 2)
    opened: list[Open] = []

    class Open:
        only_administers, key_id, transport, address = False, "", None, None

        def __init__(self, source: Any) -> None:
            self.source = source

        def abort(self) -> None:
            opened.remove(self)

    for number in range(100):
        source = door.address(f"192.0.2.{number}")
        assert table.admit(door, source, administers=False) is False
        opened.append(Open(source))
        table.add(opened[-1])  # type: ignore[arg-type]
        assert len(opened) <= 8
    assert opened[-1].source.name == "address 192.0.2.99"
