"""What each operation asks of a key, and that it is asked."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tenantd.api.operations import Access, Operation
from tenantd.api.peers import Peer
from tenantd.api.server import operations
from tenantd.domain import Actor, Scope, Tenant
from tenantd.watching.metrics import Meter
from tenantd.watching.request_log import RequestLog
from tests.api.conftest import Api, no_webhook

FOREIGN_UID = 54321
ADMIN = {"authorization": "Bearer td_admin"}
ACME = {"authorization": "Bearer td_acme"}
COMPLETION = ("POST", "/v1/completions")
LOOKS = [("GET", "/v1/models"), ("GET", "/v1/models/tiny"), ("GET", "/v1/queue")]


@pytest.fixture
def foreign(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every peer is another user than the daemon's, as behind a bridge."""
    monkeypatch.setattr("tenantd.api.connection.peer_of", lambda sock: Peer(1, FOREIGN_UID, 1))


def ask(api: Api, method: str, path: str, **headers: str) -> httpx.Response:
    body = {"prompt": "Hi"} if method == "POST" else None
    return api.client.request(method, path, json=body, headers=headers)


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def declared(api: Api) -> list[Operation]:
    service: Any = api.service
    return operations(service, Meter(service.events), no_webhook(), RequestLog(service.events), api.pages)


def test_every_operation_declares_who_may_use_it_and_with_which_scope(api: Api) -> None:
    for one in declared(api):
        if one.access is Access.ANYONE:
            assert one.scopes == (), one.path
        elif one.access is Access.ADMINISTRATOR:
            assert one.scopes == (Scope.ADMIN,), one.path
        else:
            assert one.scopes and set(one.scopes) <= {Scope.RUN, Scope.READ}, one.path
        assert (one.access is Access.ADMINISTRATOR) == (one.path.startswith("/admin") or one.path == "/metrics")


def test_the_description_tells_the_scope_of_every_operation(api: Api) -> None:
    paths = api.client.get("/openapi.json").json()["paths"]
    for one in declared(api):
        described = paths[one.path.replace(":path}", "}")][one.method.lower()]
        scopes = [scope for each in described["security"] for scope in each.get("key", [])]
        assert scopes == list(dict.fromkeys([*one.scopes, *([Scope.ADMIN] if one.scopes else [])])), one.path
        assert ({"user": []} in described["security"]) == (one.access not in (Access.ANYONE, Access.NEAR))
        assert ({} in described["security"]) == (one.access is Access.NEAR), "not even a user of a tenant"


def test_a_key_may_do_what_its_scopes_say_and_learns_which_it_lacks(api: Api) -> None:
    for scope, allowed in ((Scope.RUN, [COMPLETION, *LOOKS]), (Scope.READ, LOOKS)):
        api.service.directory.scopes["td_acme"] = frozenset({scope})
        for operation in (COMPLETION, *LOOKS):
            answer = ask(api, *operation, **ACME)
            assert (answer.status_code == 200) == (operation in allowed), operation
    answer = ask(api, *COMPLETION, **ACME)
    assert error(answer) == (403, "forbidden")
    assert answer.json()["error"]["message"] == "this needs an API key with the scope run; this one has only: read"
    assert len(api.service.streams) == 1
    assert error(ask(api, "GET", "/admin/v1/status", **ACME)) == (403, "forbidden")


def test_a_body_that_a_key_may_not_send_is_not_read(api: Api) -> None:
    api.service.directory.scopes["td_acme"] = frozenset({Scope.READ})
    answer = api.client.post("/v1/completions", content=b"{", headers=ACME)
    assert error(answer) == (403, "forbidden"), "not 400"


@pytest.mark.usefixtures("foreign")
def test_a_key_with_the_scope_admin_administers_whoever_connects(api: Api) -> None:
    for path in ("/admin", "/metrics"):
        assert api.client.get(path, headers=ADMIN).status_code == 200
        assert error(api.client.get(path, headers=ACME)) == (403, "forbidden")
        assert error(api.client.get(path)) == (403, "forbidden")
        assert error(api.client.get(path, headers={"authorization": "Bearer td_wrong"})) == (401, "invalid_api_key")
        from_a_browser = api.client.get(path, headers={**ADMIN, "origin": "http://app.example"})
        assert error(from_a_browser) == (403, "forbidden")
    assert "/admin/v1/status" in api.client.get("/openapi.json", headers=ADMIN).json()["paths"]
    assert "/admin/v1/status" not in api.client.get("/openapi.json", headers=ACME).json()["paths"]
    assert "/admin/v1/status" not in api.client.get("/openapi.json").json()["paths"]


@pytest.mark.usefixtures("foreign")
def test_a_key_with_the_scope_admin_acts_for_the_tenant_it_names_and_for_no_other(api: Api) -> None:
    assert ask(api, *COMPLETION, **ADMIN, **{"x-tenant": "globex"}).status_code == 200
    assert [stream.tenant for stream in api.service.streams] == ["globex"]
    nameless = ask(api, *COMPLETION, **ADMIN)
    assert error(nameless) == (400, "invalid_request")
    assert "this API key has none; send the header X-Tenant" in nameless.json()["error"]["message"]
    assert error(ask(api, *COMPLETION, **ADMIN, **{"x-tenant": "nobody"})) == (404, "not_found")
    assert error(ask(api, "GET", "/v1/queue", **ADMIN)) == (400, "invalid_request")
    assert ask(api, "GET", "/v1/models", **ADMIN).status_code == 200


@pytest.mark.usefixtures("foreign")
def test_a_user_whom_a_tenant_lists_is_not_who_asks_with_a_key_that_administers(api: Api) -> None:
    api.service.directory.uids[FOREIGN_UID] = ["acme"]
    assert ask(api, *COMPLETION).status_code == 200
    assert error(ask(api, *COMPLETION, **ADMIN)) == (400, "invalid_request"), "the key has no tenant"


@pytest.mark.usefixtures("foreign")
def test_paths_are_shown_to_a_key_that_administers_and_to_no_other(api: Api) -> None:
    api.service.supervisor.reason = "/models/tiny.gguf: gone"
    assert api.client.get("/readyz", headers=ADMIN).json()["reason"] == "/models/tiny.gguf: gone"
    assert api.client.get("/readyz", headers=ACME).json()["reason"] == "<path>: gone"


def test_each_use_of_a_key_is_noted_with_who_used_it_and_no_other(api: Api) -> None:
    api.client.get("/v1/models", headers=ACME)
    api.client.get("/admin", headers=ADMIN)
    api.client.get("/v1/models", headers={"authorization": "Bearer td_wrong"})
    api.client.get("/admin")
    used = api.service.keys_used
    assert [key_id for key_id, _ in used] == ["key_acme", "key_admin"]
    assert all(isinstance(actor, Actor) and actor.key_id == key_id for key_id, actor in used)


def test_the_tenant_of_a_key_is_known_without_its_scopes(api: Api) -> None:
    """Who is refused for a scope is counted as who it is."""
    heard: list[Any] = []
    api.service.events.call("test", heard.append)
    api.service.directory.tenants["acme"] = Tenant(id=7, name="acme")
    api.service.directory.scopes["td_acme"] = frozenset({Scope.READ})
    ask(api, *COMPLETION, **ACME)
    [refused] = heard
    assert (refused.tenant_id, refused.key_id, refused.cause) == (7, "key_acme", "forbidden")
