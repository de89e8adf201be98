"""Whose request it is: by key, by the kernel's word, and by name only for administrators."""

from __future__ import annotations

import grp
import os
import socket

import httpx
import pytest

from tenantd.api.connection import Connection
from tenantd.api.peers import Administrators, Peer, groups_of, peer_of
from tenantd.errors import ConfigError, EngineUnavailable
from tests.api.conftest import Api

FOREIGN_UID = 54321


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every peer is another user than the daemon's."""
    monkeypatch.setattr("tenantd.api.connection.peer_of", lambda sock: Peer(1, FOREIGN_UID, 1))


def ask(api: Api, **headers: str) -> httpx.Response:
    return api.client.post("/v1/completions", json={"prompt": "Hi"}, headers=headers)


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def tenants(api: Api) -> list[str]:
    return [stream.tenant for stream in api.service.streams]


def test_a_key_decides_the_tenant(api: Api) -> None:
    assert ask(api, authorization="Bearer td_globex").status_code == 200
    assert tenants(api) == ["globex"]


@pytest.mark.parametrize("value", ["Bearer td_wrong", "Basic YWNtZTp4", "td_acme", "Bearer td_acme td_globex"])
def test_a_wrong_key_is_401_even_for_an_administrator(api: Api, value: str) -> None:
    answer = ask(api, authorization=value, **{"x-tenant": "acme"})
    assert error(answer) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_key_cannot_act_for_another_tenant(api: Api) -> None:
    assert error(ask(api, authorization="Bearer td_acme", **{"x-tenant": "globex"})) == (403, "forbidden")


def test_an_administrator_names_any_tenant(api: Api) -> None:
    assert ask(api, **{"x-tenant": "globex"}).status_code == 200
    assert error(ask(api, **{"x-tenant": "nobody"})) == (404, "not_found")
    assert error(ask(api)) == (400, "invalid_request")
    assert tenants(api) == ["globex"]


def test_a_user_acts_for_the_one_tenant_that_lists_it(api: Api) -> None:
    api.service.directory.uids[os.geteuid()] = ["globex"]
    assert ask(api).status_code == 200
    assert tenants(api) == ["globex"]


@pytest.mark.usefixtures("foreign")
def test_a_user_of_several_tenants_chooses_among_them_and_no_others(api: Api) -> None:
    api.service.directory.uids[FOREIGN_UID] = ["acme", "closed"]
    assert error(ask(api)) == (400, "invalid_request")
    assert ask(api, **{"x-tenant": "acme"}).status_code == 200
    assert error(ask(api, **{"x-tenant": "globex"})) == (403, "forbidden")
    assert tenants(api) == ["acme"]


@pytest.mark.usefixtures("foreign")
def test_a_stranger_without_a_key_gets_nothing(api: Api) -> None:
    assert error(ask(api)) == (401, "invalid_api_key")
    assert error(ask(api, **{"x-tenant": "acme"})) == (401, "invalid_api_key")
    assert error(api.client.get("/v1/models")) == (401, "invalid_api_key")
    assert ask(api, authorization="Bearer td_acme").status_code == 200


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("path", ["/admin", "/admin/v1/status", "/admin/v1/tenants", "/metrics"])
def test_only_administrators_administer_and_a_key_does_not_help(api: Api, path: str) -> None:
    assert error(api.client.get(path, headers={"authorization": "Bearer td_acme"})) == (403, "forbidden")


@pytest.mark.usefixtures("foreign")
def test_health_is_for_everybody(api: Api) -> None:
    assert api.client.get("/healthz").json() == {"status": "ok"}
    api.service.supervisor.reason = "/models/tiny.gguf: gone"
    assert api.client.get("/readyz").json() == {"status": "ready"}
    assert api.client.get("/readyz", headers={"authorization": "Bearer td_wrong"}).json() == {"status": "ready"}
    known = api.client.get("/readyz", headers={"authorization": "Bearer td_acme"}).json()
    assert known == {"status": "ready", "progress": 1.0, "reason": "<path>: gone"}


def test_a_wrong_key_of_the_daemons_own_user_is_not_shown_what_administrators_see(api: Api) -> None:
    api.service.supervisor.reason = "/models/tiny.gguf: gone"
    assert api.client.get("/readyz").json()["reason"] == "/models/tiny.gguf: gone"
    assert "/admin/v1/status" in api.client.get("/openapi.json").json()["paths"]
    for wrong in ("Bearer td_wrong", "Bearer", ""):
        headers = {"authorization": wrong}
        assert api.client.get("/readyz", headers=headers).json() == {"status": "ready"}
        assert "/admin/v1/status" not in api.client.get("/openapi.json", headers=headers).json()["paths"]


def test_a_suspended_tenant_is_refused(api: Api) -> None:
    assert error(ask(api, authorization="Bearer td_closed")) == (403, "tenant_suspended")


def test_the_kernel_says_who_connected(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Peer | None] = []
    begin = Connection.on_message_begin

    def remember(connection: Connection) -> None:
        seen.append(connection.peer)
        begin(connection)

    monkeypatch.setattr(Connection, "on_message_begin", remember)
    api.client.get("/healthz")
    assert seen == [Peer(os.getpid(), os.geteuid(), os.getegid())]


def test_the_kernel_says_which_groups_the_other_end_is_in() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert sorted(groups_of(one)) == sorted(os.getgroups())
        own, nobody = peer_of(one), Peer(1, FOREIGN_UID, 2**31)
        assert own is not None and Administrators("").include(own, one)
        assert not Administrators("").include(nobody, one)
        for group in grp.getgrall():
            is_member = group.gr_gid in os.getgroups()
            assert Administrators(group.gr_name).include(nobody, one) == is_member
            assert Administrators(group.gr_name).include(nobody._replace(gid=group.gr_gid), other)
    with socket.socket() as tcp:
        assert groups_of(tcp) == []
    with pytest.raises(ConfigError, match="there is no group 'no-such-group'"):
        Administrators("no-such-group")


def test_models_need_an_identity_and_have_openais_shape(api: Api) -> None:
    listed = api.client.get("/v1/models", headers={"authorization": "Bearer td_acme"}).json()
    assert listed["object"] == "list"
    [model] = listed["data"]
    assert (model["id"], model["object"], model["created"]) == ("tiny", "model", 1_700_000_000)
    assert error(api.client.get("/v1/models", headers={"authorization": "Bearer no"})) == (401, "invalid_api_key")
    assert error(api.client.get("/v1/models/gpt-4")) == (404, "model_not_found")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("when", ["refused", "failed"])
def test_only_administrators_see_paths_in_errors(api: Api, when: str, stream: bool) -> None:
    error = EngineUnavailable("the engine does not run: /srv/models/x.gguf: gone")
    if when == "refused":
        api.service.refusal = error
    else:
        api.service.failure, api.service.fail_after = error, 2

    def told(**headers: str) -> str:
        return api.client.post("/v1/completions", json={"prompt": "Hi", "stream": stream}, headers=headers).text

    assert "/srv" not in told(authorization="Bearer td_acme") and "<path>: gone" in told(authorization="Bearer td_acme")
    assert "/srv/models/x.gguf: gone" in told(**{"x-tenant": "acme"})
