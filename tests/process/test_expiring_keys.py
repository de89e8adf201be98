"""Keys that end while requests run with them, on a real daemon, with clocks that are right and that are set."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.test_audit_trail import trail
from tests.support.daemon import Daemon, wait_until

LONG = {"prompt": "hello", "max_tokens": 100_000, "ignore_eos": True}
SLOW = {"engine": {"context_tokens": 200_000, "fake_step_micros": 2000}}
WITHIN_S = 10.0
"""A fraction of what such a request takes, and enough for a busy machine."""
CLOCK = """
import time
real = time.time_ns
time.time_ns = lambda: real() + int(open({path!r}).read()) * 10**9
"""
"""Makes the wall clock of the daemon's process one that can be set."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("keys"), **SLOW) as daemon:
        daemon.add_tenant("acme")
        yield daemon


def new_key(daemon: Daemon, tenant: str | None = "acme", **settings: Any) -> tuple[str, str]:
    """Id and secret."""
    answer = daemon.post(f"/admin/v1/tenants/{tenant}/keys" if tenant else "/admin/v1/keys", settings)
    assert answer.status_code == 201, answer.text
    return answer.json()["key"]["id"], answer.json()["secret"]


def rotate(daemon: Daemon, key_id: str, **settings: Any) -> Any:
    answer = daemon.post(f"/admin/v1/keys/{key_id}/rotate", settings)
    assert answer.status_code == 201, answer.text
    return answer.json()


def listed(daemon: Daemon, key_id: str, tenant: str = "acme") -> dict[str, Any]:
    [found] = [key for key in daemon.get(f"/admin/v1/tenants/{tenant}/keys").json()["keys"] if key["id"] == key_id]
    return dict(found)


def administering(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.get("/admin/v1/keys").json()["keys"]
    return found


def by(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def status(daemon: Daemon, key: str, **headers: str) -> int:
    return daemon.get("/v1/models", headers={**by(key), **headers}).status_code


class Running:
    """A request with a key, read in a thread, with the wall clock at its end."""

    def __init__(self, daemon: Daemon, key: str, *, stream: bool = True, **headers: str) -> None:
        self.status = 0
        self.text = ""
        self.ended_micros = 0.0
        self._thread = threading.Thread(target=self._run, args=(daemon, {**by(key), **headers}, stream), daemon=True)
        self._thread.start()

    def _run(self, daemon: Daemon, headers: dict[str, str], stream: bool) -> None:
        body = {**LONG, "stream": stream}
        with (
            contextlib.suppress(httpx.TransportError),  # the daemon was killed
            daemon.client(120) as client,
            client.stream("POST", "/v1/completions", json=body, headers=headers) as answer,
        ):
            self.status = answer.status_code
            for text in answer.iter_text():
                self.text += text
        self.ended_micros = time.time() * 1e6

    def begun(self) -> Running:
        wait_until(lambda: self.text, "its first token")
        return self

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    @property
    def code(self) -> str:
        """Of the last event, or the whole answer, once it has ended."""
        self._thread.join(300)
        assert self.has_ended
        return str(json.loads(self.text.strip().split("\n")[-1].removeprefix("data: "))["error"]["code"])


@pytest.mark.parametrize("stream", [True, False])
def test_what_runs_with_a_key_ends_with_it_and_is_billed(daemon: Daemon, stream: bool) -> None:
    tenant = f"ends-{stream}".lower()
    daemon.add_tenant(tenant)
    key_id, key = new_key(daemon, tenant, expires_in_s=5)
    ends_micros = listed(daemon, key_id, tenant)["expires_micros"]
    running = Running(daemon, key, stream=stream)
    assert running.code == "key_revoked"
    assert 0 <= running.ended_micros - ends_micros <= WITHIN_S * 1e6
    assert running.status == (200 if stream else 401)
    [row] = [row for row in daemon.rows() if row["tenant"] == tenant]
    assert row["state"] == "cancelled" and row["completion_tokens"] and row["input_nanos"], "what came is billed"
    assert status(daemon, key) == 401


def test_a_request_that_waits_for_its_tenants_limits_ends_with_its_key(daemon: Daemon) -> None:
    limits = {"requests_per_minute": 1, "on_limit": "queue", "max_wait_s": 60}
    daemon.add_tenant("waits", limits=limits)
    assert daemon.complete("waits", max_tokens=1).status_code == 200
    key_id, key = new_key(daemon, "waits", expires_in_s=5)
    waiting = Running(daemon, key, stream=False)
    assert (waiting.code, waiting.status) == ("key_revoked", 401)
    assert waiting.ended_micros - listed(daemon, key_id, "waits")["expires_micros"] <= WITHIN_S * 1e6


def test_a_rotated_key_ends_after_its_grace_and_what_runs_with_the_new_one_goes_on(daemon: Daemon) -> None:
    key_id, old = new_key(daemon, label="ci")
    first = Running(daemon, old).begun()
    rotated = rotate(daemon, key_id, grace_s=10)
    new = rotated["secret"]
    assert rotated["key"]["label"] == "ci" and rotated["replaced"]["id"] == key_id
    second = Running(daemon, new).begun()
    assert status(daemon, old) == status(daemon, new) == 200 and not first.has_ended
    assert first.code == "key_revoked"
    assert 0 <= first.ended_micros - rotated["replaced"]["expires_micros"] <= WITHIN_S * 1e6
    assert (status(daemon, old), status(daemon, new), second.has_ended) == (401, 200, False)
    rotate(daemon, rotated["key"]["id"], grace_s=0)
    assert second.code == "key_revoked" and status(daemon, new) == 401


def test_what_an_administrators_key_runs_for_a_tenant_ends_with_the_key(daemon: Daemon) -> None:
    _, key = new_key(daemon, None, expires_in_s=10)
    assert daemon.get("/admin/v1/status", headers=by(key)).status_code == 200
    running = Running(daemon, key, **{"X-Tenant": "acme"}).begun()
    assert running.code == "key_revoked"
    assert daemon.get("/admin/v1/status", headers=by(key)).status_code == 401
    assert daemon.rows()[-1]["tenant"] == "acme"


def test_a_tenant_removed_during_the_grace_takes_both_keys_along(daemon: Daemon) -> None:
    daemon.add_tenant("gone")
    key_id, old = new_key(daemon, "gone", label="ci")
    new = rotate(daemon, key_id, grace_s=3600)["secret"]
    running = [Running(daemon, key).begun() for key in (old, new)]
    assert daemon.request("DELETE", "/admin/v1/tenants/gone").status_code == 200
    assert {each.code for each in running} <= {"key_revoked", "cancelled"}

    def is_free() -> bool:
        return daemon.post("/admin/v1/tenants", {"name": "gone"}).status_code == 201

    wait_until(is_free, "the name to be free")
    new_key(daemon, "gone", label="ci")
    assert status(daemon, old) == status(daemon, new) == 401, "the same name and label bring nothing back"


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"expires_micros": 5}, "expires_micros"),
        ({"expires_in_s": 0}, "expires_in_s"),
        ({"expires_in_s": 10**30}, "expires_in_s"),
        ({"expires_in_s": 1.5}, "expires_in_s"),
        ({"expires_micros": 2**63 - 1}, "expires_micros"),
        ({"expires_micros": 2**63}, "expires_micros"),
        ({"expires_in_s": 5, "expires_micros": 2**62}, "expires_micros"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"scopes": ["write"]}, "scopes[0]"),
        ({"scopes": "run"}, "scopes"),
        ({"tenant": "globex"}, "tenant"),
    ],
    ids=str,
)
def test_bad_rights_and_ends_are_refused_and_nothing_is_made(daemon: Daemon, settings: Any, param: str) -> None:
    before = daemon.get("/admin/v1/tenants/acme/keys").json()
    answer = daemon.post("/admin/v1/tenants/acme/keys", settings)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    for path, wrong in (
        ("/admin/v1/keys", {"scopes": ["admin"]}),
        ("/admin/v1/keys", {"tenant": "acme"}),
        (f"/admin/v1/keys/{before['keys'][0]['id']}/rotate", {"grace_s": -1}),
        (f"/admin/v1/keys/{before['keys'][0]['id']}/rotate", {"grace_s": 10**18}),
        (f"/admin/v1/keys/{before['keys'][0]['id']}/rotate", {"expires_in_s": 0}),
    ):
        assert daemon.post(path, wrong).status_code == 400, path
    assert daemon.get("/admin/v1/tenants/acme/keys").json() == before


# -- clocks


class Clock:
    """The wall clock of a daemon."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clock"
        self.set(0)
        (folder / "sitecustomize.py").write_text(CLOCK.format(path=str(self.path)))
        self.environment = {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}

    def set(self, ahead_s: int) -> None:
        """Away from the right time."""
        new = self.path.with_suffix(".new")
        new.write_text(str(ahead_s))
        os.replace(new, self.path)


def test_a_clock_that_is_set_ends_keys_by_their_date_and_prolongs_none(tmp_path: Path) -> None:
    clock, daemon = Clock(tmp_path), Daemon(tmp_path, **SLOW)
    try:
        daemon.start(**clock.environment)
        daemon.add_tenant("acme")
        _, endless = new_key(daemon)
        _, hour = new_key(daemon, expires_in_s=3600)
        endlessly, hourly = Running(daemon, endless).begun(), Running(daemon, hour).begun()
        clock.set(2 * 3600)
        assert hourly.code == "key_revoked" and status(daemon, hour) == 401
        clock.set(0)
        assert status(daemon, hour) == 200, "its date has not come"
        assert not endlessly.has_ended and status(daemon, endless) == 200
        _, short = new_key(daemon, expires_in_s=5)
        began_s = time.monotonic()
        shortly = Running(daemon, short).begun()
        clock.set(-30 * 86_400)
        assert shortly.code == "key_revoked" and time.monotonic() - began_s < 5 + WITHIN_S
        assert status(daemon, short) == 401
        assert (status(daemon, hour), status(daemon, endless)) == (200, 200)
        _, later = new_key(daemon, expires_in_s=60)
        assert status(daemon, later) == 200, "a new one counts from the clock as it is"
        daemon.kill()
        assert "Traceback" not in daemon.log.read_text()
    finally:
        daemon.kill()


# -- uses


def test_the_first_use_is_in_the_audit_trail_once_and_the_last_survives_a_kill(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        key_id, key = new_key(daemon)
        admin_id, admin = new_key(daemon, None)
        assert listed(daemon, key_id)["last_used_micros"] is None
        before_micros = time.time() * 1e6
        for _ in range(3):
            assert status(daemon, key) == 200
            assert daemon.get("/admin/v1/keys", headers=by(admin)).status_code == 200
        used = wait_until(lambda: listed(daemon, key_id)["last_used_micros"], "its use to be written")
        wait_until(lambda: all(each["last_used_micros"] for each in administering(daemon)), "the other's")
        assert before_micros - 1e3 <= used <= time.time() * 1e6
        daemon.kill()
        daemon.start()
        assert listed(daemon, key_id)["last_used_micros"] == used
        assert status(daemon, key) == 200
        answer: httpx.Response = daemon.post("/v1/completions", {"prompt": "x", "max_tokens": 1}, headers=by(key))
        assert answer.status_code == 200
        wait_until(lambda: listed(daemon, key_id)["last_used_micros"] > used, "the use in the next run")
        first = trail(daemon, event="key_first_used")
        assert [(e["tenant"], e["detail"]["key_id"]) for e in first] == [("acme", key_id), (None, admin_id)]
        created = trail(daemon, event="administered")
        assert {e["detail"]["by"]["key_id"] for e in created} == {None}
        assert daemon.request("DELETE", f"/admin/v1/keys/{key_id}", headers=by(admin)).status_code == 200
        assert trail(daemon, event="administered")[-1]["detail"]["by"]["key_id"] == admin_id
        assert daemon.stop() == 0
