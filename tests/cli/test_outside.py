"""What the doctor tries over the socket: daemons that let too much through are found."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from tenantctl.client import Client
from tenantctl.outside.eavesdropper import check_canaries, is_part_in
from tenantctl.outside.impostor import check_identity
from tenantctl.outside.lookalike import check_cache
from tenantctl.outside.visitors import Visitors
from tenantctl.places import SocketPlace
from tenantd.errors import EngineUnavailable
from tests.support.daemon import Daemon

DESCRIBED = {
    ("POST", "/v1/completions"): "tenant",
    ("GET", "/v1/queue"): "tenant",
    ("GET", "/v1/models"): "tenant",
    ("GET", "/healthz"): "anyone",
    ("GET", "/admin/v1/tenants/{name}"): "administrator",
    ("DELETE", "/admin/v1/tenants/{name}"): "administrator",
    ("POST", "/admin/v1/requests/{request_id}/cancel"): "administrator",
}
KEYS = {"key_a": "a", "key_b": "b", "key_looking": "b"}


class Administrator:
    """The client of an administrator, for whom everything works."""

    def __init__(self, visitors: AtDoor) -> None:
        self._visitors = visitors
        self.system_prompt = ""

    def get(self, path: str) -> Any:
        paths: dict[str, Any] = {}
        for (method, at), tag in DESCRIBED.items():
            paths.setdefault(at, {})[method.lower()] = {"tags": [tag]}
        return {"paths": paths}

    def patch(self, path: str, body: Any) -> Any:
        self.system_prompt = body.get("system_prompt", "")

    def delete(self, path: str) -> Any:
        self._visitors.removed.append(path.rpartition("/")[2])


class AtDoor(Visitors):
    """Visitors of a daemon that answers as one should, but for what `lets_in` is true of."""

    removed: list[str]

    @classmethod
    def of(cls, **changes: Any) -> AtDoor:
        own = {"a": "doctor-a", "b": "doctor-b", "a_key": "key_a", "b_key": "key_b", "b_key_id": "k1"}
        made = cls(place=SocketPlace(Path("/nowhere")), **own, looking="key_looking", revoked="key_revoked")
        object.__setattr__(made, "removed", [])
        for name, value in changes.items():
            object.__setattr__(made, name, value)
        return made

    def call(
        self, method: str, path: str, *, key: str | None = None, body: Any = None, **headers: str
    ) -> httpx.Response:
        if self.lets_in(method, path, key, headers):
            return httpx.Response(200, json={})
        known = KEYS.get(key or "")
        if known is None or f"doctor-{known}" in self.removed:
            return httpx.Response(401 if "origin" not in headers else 403, json={})
        if path.startswith("/admin") or (key == "key_looking" and method == "POST"):
            return httpx.Response(403, json={})
        named = headers.get("x_tenant", f"doctor-{known}")
        if named != f"doctor-{known}":
            return httpx.Response(self.stranger_status(named), json={"message": f"not for {named}"})
        return httpx.Response(200, json={"text": self.answer()})

    def lets_in(self, method: str, path: str, key: str | None, headers: dict[str, str]) -> bool:
        return False

    def stranger_status(self, named: str) -> int:
        return 403

    def answer(self) -> str:
        return ""


def identity(**changes: Any) -> dict[str, Any]:
    visitors = AtDoor.of(**changes)
    return check_identity(cast(Client, Administrator(visitors)), visitors).result()


def test_a_daemon_that_refuses_all_of_it_holds() -> None:
    result = identity()
    assert result["result"] == "held" and result["n"] > 20 and not result["detail"]


HOLES = {
    "a key for another tenant": lambda method, path, key, h: key == "key_b" and h.get("x_tenant") == "doctor-a",
    "a revoked key": lambda method, path, key, h: key == "key_revoked",
    "a changed key": lambda method, path, key, h: (
        key not in KEYS and (key or "").startswith("key_") and "x_tenant" not in h
    ),
    "a key that may only read": lambda method, path, key, h: key == "key_looking",
    "a tenant's key for administration": lambda method, path, key, h: key == "key_b" and method == "DELETE",
    "a page in a browser": lambda method, path, key, h: "origin" in h,
    "a key in another scheme": lambda method, path, key, h: "Basic" in h.get("authorization", ""),
}


@pytest.mark.parametrize(("what", "lets_in"), HOLES.items(), ids=HOLES)
def test_a_call_that_is_let_through_is_a_failure_and_named(what: str, lets_in: Any) -> None:
    result = identity(lets_in=lets_in)
    assert result["result"] == "failed" and what in result["detail"]


def test_a_key_that_outlives_its_tenant_is_a_failure() -> None:
    result = identity(removed=["ignored"], lets_in=lambda method, path, key, h: key == "key_a" and "x_tenant" not in h)
    assert result["result"] == "failed" and "a key of a removed tenant" in result["detail"]


def test_an_answer_that_tells_whether_a_tenant_exists_is_a_failure() -> None:
    result = identity(stranger_status=lambda named: 403 if named == "doctor-a" else 401)
    assert result["result"] == "failed" and "reveals whether another tenant exists" in result["detail"]


def test_a_daemon_that_refuses_everybody_proves_nothing() -> None:
    class Closed(AtDoor):
        def call(self, *arguments: Any, **more: Any) -> httpx.Response:
            return httpx.Response(503, json={})

    visitors = Closed.of()
    for check in (
        check_identity(cast(Client, Administrator(visitors)), visitors),
        check_canaries(cast(Client, Administrator(visitors)), visitors, quick=True),
        check_cache(cast(Client, Administrator(visitors)), visitors, quick=True),
    ):
        result = check.result()
        assert result["result"] == "inconclusive" and "HTTP 503" in result["detail"]


def test_text_of_another_tenant_in_an_answer_is_a_failure() -> None:
    visitors = AtDoor.of()
    administrator = Administrator(visitors)
    client = cast(Client, administrator)
    assert check_canaries(client, visitors, quick=True).result() == {
        "name": "canaries",
        "result": "held",
        "n": 4,
        "detail": "",
    }
    leaking = AtDoor.of(answer=lambda: administrator.system_prompt)
    result = check_canaries(client, leaking, quick=True).result()
    assert result["result"] == "failed" and "what another tenant sent" in result["detail"]


class Caching(AtDoor):
    """Keeps the prompts of each key, or of all of them together, or none."""

    def call(self, method: str, path: str, *, key: str | None = None, body: Any = None, **_: str) -> httpx.Response:
        seen = self.caches.setdefault(self.keeps_for(key), set())
        cached = 200 if body["prompt"] in seen else 1
        seen.add(body["prompt"])
        return httpx.Response(200, json={"usage": {"prompt_tokens_details": {"cached_tokens": cached}}})


@pytest.mark.parametrize(
    ("keeps_for", "result", "detail"),
    [
        (lambda key: key, "held", ""),
        (lambda key: "all", "failed", "another tenant had sent it"),
        (lambda key: object(), "inconclusive", "a tenant's own prompt was not in its cache"),
    ],
)
def test_a_cache_must_be_of_use_to_its_tenant_and_to_nobody_else(keeps_for: Any, result: str, detail: str) -> None:
    client = cast(Client, Administrator(visitors := Caching.of(caches={}, keeps_for=keeps_for)))
    client.patch = lambda path, body: turned_on.append((path.rpartition("/")[2], body))  # type: ignore[method-assign]
    turned_on: list[Any] = []
    found = check_cache(client, visitors, quick=False).result()
    assert turned_on == [("doctor-a", {"cache": "on"}), ("doctor-b", {"cache": "on"})]
    assert (found["name"], found["result"], found["n"]) == ("canaries", result, 3)
    assert detail in found["detail"]


def test_a_daemon_that_does_not_answer_in_time_is_busy_and_not_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantctl.outside.visitors.ANSWER_TIMEOUT_S", 0.05)
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        visitors = replace(AtDoor.of(), place=SocketPlace(path))
        with pytest.raises(EngineUnavailable, match="too busy") as caught:
            Visitors.call(visitors, "GET", "/healthz")
    assert caught.value.exit_code == 75


def test_a_part_of_the_secret_is_enough() -> None:
    secret = "0123456789abcdef"
    assert is_part_in(secret, "…23456789…") and is_part_in(secret, secret)
    assert not is_part_in(secret, "2345678") and not is_part_in(secret, "")


def test_a_real_daemon_has_an_operation_of_every_kind_to_try(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        document = daemon.get("/openapi.json").json()
    tags = [operation["tags"][0] for methods in document["paths"].values() for operation in methods.values()]
    assert tags.count("tenant") >= 3 and tags.count("administrator") >= 20
