"""Whether another tenant exists: no answer tells. Answers are compared byte by byte, without ids and dates."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tenantd.request_ids import new_request_id
from tenantd.tenancy.keys import new_secret
from tests.support.daemon import Daemon, wait_until
from tests.support.program import estrange, stranger_uid

OTHER = "globex"
METHODS = ("GET", "POST", "PATCH", "DELETE", "PUT")
BODIES = {"/v1/completions": {"prompt": "Hi", "max_tokens": 1}, "/v1/chat/completions": {"messages": []}}
DIFFERENT = re.compile(rb"(?:req_|key_|chatcmpl-|cmpl-)[0-9A-Za-z]+|\r\ndate: [^\r]*")
ASKER = """
import json, os, socket, sys
path, uid = sys.argv[1], int(sys.argv[2])
asked = json.load(sys.stdin)
if uid != os.geteuid():
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
answers = []
for request in asked:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(120)
        sock.connect(path)
        sock.sendall(request.encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    answers.append(answer.hex())
json.dump(answers, sys.stdout)
"""
"""Sends requests as another user, each on a connection of its own, and prints the whole answers."""


class Ids(NamedTuple):
    """What is put into paths."""

    key: str = "key_0123456789ab"
    request: str = "req_0123456789abcdef0123456789abcdef"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="td-"))
    folder.chmod(0o711)  # other users may pass through
    engine = {"context_tokens": 200_000, "fake_step_micros": 2000}
    with Daemon(folder, engine=engine, server={"socket_mode": "0666"}) as daemon:
        daemon.add_tenant("acme", uids=[stranger_uid()])
        yield daemon
    shutil.rmtree(folder)


def operations(daemon: Daemon) -> list[tuple[str, str]]:
    """Method and path of all that is described, and of what is not."""
    paths = daemon.get("/openapi.json").json()["paths"]
    described = [(method.upper(), path) for path, found in paths.items() for method in found]
    assert len(described) > 25
    others = ("/v1/requests/{request_id}", "/v1/requests/{request_id}/cancel", f"/v1/{OTHER}", "/v1/queue", "/nothing")
    return [*described, *((method, path) for method in METHODS for path in others)]


def answers(asked: list[tuple[str, str]], daemon: Daemon, ids: Ids, **headers: str) -> dict[str, bytes]:
    """The whole answer to each operation, without ids and dates."""
    requests = []
    for method, path in asked:
        target = f"{path}?since=9{'0' * 15}" if path == "/v1/history" else path  # which grows all the time
        for name, value in (("name", OTHER), ("key_id", ids.key), ("request_id", ids.request), ("month", "this")):
            target = target.replace(f"{{{name}}}", value)
        body = json.dumps(BODIES.get(path, {}))
        own = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n{own}"
        requests.append(f"{head}\r\n{body}")
    done = subprocess.run(
        [sys.executable, "-c", ASKER, str(daemon.socket), str(stranger_uid())],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    found = [bytes.fromhex(answer) for answer in json.loads(done.stdout)]
    assert all(b"x-request-id: req_" in answer for answer in found)
    return {f"{m} {p}": DIFFERENT.sub(b"", answer) for (m, p), answer in zip(asked, found, strict=True)}


def by(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def is_status(answer: bytes, status: int) -> bool:
    return answer.startswith(b"HTTP/1.1 %d " % status)


def settle_in(daemon: Daemon) -> Ids:
    """The other tenant comes, with a key and a running request."""
    daemon.add_tenant(OTHER)
    running = daemon.stream(OTHER, max_tokens=100_000, ignore_eos=True).begun()
    [key] = daemon.get(f"/admin/v1/tenants/{OTHER}/keys").json()["keys"]
    return Ids(key["id"], running.request_id)


def test_nobody_learns_of_another_tenant_from_any_answer(daemon: Daemon) -> None:
    """Asked before it comes, while it is there, and after it was removed; with ids of its own once it has some."""
    acme = daemon.post("/admin/v1/tenants/acme/keys", {}).json()["secret"]
    reader = daemon.post("/admin/v1/tenants/acme/keys", {"scopes": ["read"]}).json()["secret"]
    estrange(daemon)
    all_of_them = operations(daemon)
    quiet = [(method, path) for method, path in all_of_them if (method, path) != ("POST", "/v1/completions")]
    kinds = {
        "a key for itself": (quiet, by(acme)),
        "a key for the other": (all_of_them, {**by(acme), "x_tenant": OTHER}),
        "a key that only reads": (all_of_them, {**by(reader), "x_tenant": OTHER}),
        "a key from a browser": (all_of_them, {**by(acme), "x_tenant": OTHER, "origin": "http://x"}),
        "an unknown key": (all_of_them, {**by(new_secret()), "x_tenant": OTHER}),
        "a user for itself": (quiet, {}),
        "a user for the other": (all_of_them, {"x_tenant": OTHER}),
    }

    def ask(ids: Ids) -> dict[str, dict[str, bytes]]:
        return {name: answers(asked, daemon, ids, **headers) for name, (asked, headers) in kinds.items()}

    before = ask(Ids())
    beside = ask(settle_in(daemon))
    gone = daemon.get(f"/admin/v1/tenants/{OTHER}/keys").json()["keys"][0]["id"]
    assert daemon.request("DELETE", f"/admin/v1/tenants/{OTHER}").status_code == 200
    after = ask(Ids(key=gone, request=new_request_id()))
    for name, found in before.items():
        for operation, answer in found.items():
            assert answer == beside[name][operation] == after[name][operation], (name, operation)
    for who in ("key", "user"):
        assert is_status(before[f"a {who} for itself"]["GET /v1/queue"], 200)
        assert is_status(before[f"a {who} for the other"]["GET /v1/queue"], 403)
        assert is_status(before[f"a {who} for itself"]["GET /admin/v1/tenants/{name}"], 403)


def test_a_user_of_no_tenant_learns_of_none(daemon: Daemon) -> None:
    assert daemon.request("PATCH", "/admin/v1/tenants/acme", json={"uids": []}).status_code == 200
    estrange(daemon)
    asked = operations(daemon)
    nobody = answers(asked, daemon, Ids(), x_tenant=OTHER)
    assert is_status(nobody["GET /v1/queue"], 401) and is_status(nobody["POST /v1/completions"], 401)
    ids = settle_in(daemon)
    for named in (OTHER, "acme"):
        assert answers(asked, daemon, ids, x_tenant=named) == nobody, named


def test_a_key_that_ended_is_answered_like_one_that_never_was(daemon: Daemon) -> None:
    removed = daemon.add_tenant("gone")
    expired = daemon.post("/admin/v1/tenants/acme/keys", {"expires_in_s": 1}).json()["secret"]
    administered = daemon.post("/admin/v1/keys", {"expires_in_s": 1}).json()["secret"]
    revoked = daemon.post("/admin/v1/tenants/acme/keys", {}).json()
    assert daemon.request("DELETE", f"/admin/v1/keys/{revoked['key']['id']}").status_code == 200
    assert daemon.request("DELETE", "/admin/v1/tenants/gone").status_code == 200
    estrange(daemon)

    def have_ended() -> bool:
        return all(daemon.get("/v1/queue", headers=by(key)).status_code == 401 for key in (expired, administered))

    wait_until(have_ended, "their end")
    asked = operations(daemon)
    for more in ({}, {"x_tenant": "acme"}, {"x_tenant": OTHER}):
        never = answers(asked, daemon, Ids(), **by(new_secret()), **more)
        assert is_status(never["GET /v1/queue"], 401) and is_status(never["GET /admin/v1/status"], 401)
        assert is_status(never["GET /healthz"], 200)
        for key in (expired, administered, revoked["secret"], removed, "td_nothing"):
            assert answers(asked, daemon, Ids(), **by(key), **more) == never, (key, more)
