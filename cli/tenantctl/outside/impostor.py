"""Check `identity`: calls under another's identity, with wrong keys or without a right are all refused."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tenantctl.client import Client, url
from tenantctl.outside.visitors import BUSY, Tally, Visitors
from tenantd.domain import IsolationCheck

REFUSED: Final = (401, 403)
RUN: Final = ("POST", "/v1/completions")
TINY: Final = {"prompt": "a", "max_tokens": 1}
BODIES: Final[dict[str, Any]] = {
    "/v1/completions": TINY,
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
}
OF_NO_OTHER: Final = ("/v1/models", "/v1/identity")
"""What is here is the same for all, or only tells who asks, so it does not matter for whom it is asked."""
TENANT, ADMINISTRATOR = "tenant", "administrator"
"""Tags of operations in the API's description: who may use them."""


class Attempt(NamedTuple):
    """A call that must be refused."""

    what: str
    method: str
    path: str
    key: str | None = None
    headers: dict[str, str] = {}  # noqa: RUF012  # never changed
    body: Any = None


def check_identity(client: Client, v: Visitors) -> Tally:
    """Try everything as A and B, then remove A and try its key."""
    tally = Tally(IsolationCheck.IDENTITY)
    operations = list(_operations(client.get("/openapi.json")))
    for name, key in ((v.a, v.a_key), (v.b, v.b_key)):  # a refusal means nothing where nothing is answered
        status = v.call(*RUN, key=key, body=TINY, x_tenant=name).status_code
        if status != 200:
            tally.obstacles.append(f"a tenant's own request got HTTP {status}")
    for attempt in _attempts(v, operations):
        _try(tally, v, attempt)
    _compare(tally, v)
    client.delete(url("tenants", v.a))
    _try(tally, v, Attempt("a key of a removed tenant", *RUN, key=v.a_key, body=TINY))
    return tally


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Method, path and tag of every operation in the API's description."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation["tags"][0]


def _attempts(v: Visitors, operations: list[tuple[str, str, str]]) -> Iterator[Attempt]:
    stranger = f"td_{secrets.token_hex(24)}"
    changed = v.a_key[:-1] + ("A" if v.a_key[-1] != "A" else "B")
    for what, key in (
        ("an unknown key", stranger),
        ("a changed key", changed),
        ("a revoked key", v.revoked),
        ("a key with another tenant's name after it", f"{v.b_key} {v.a}"),
    ):
        yield Attempt(what, *RUN, key=key, body=TINY)
        yield Attempt(f"{what}, for a tenant", *RUN, key=key, headers={"x_tenant": v.a}, body=TINY)
    yield Attempt("an empty key", *RUN, headers={"authorization": "Bearer", "x_tenant": v.a}, body=TINY)
    yield Attempt("a key in another scheme", *RUN, headers={"authorization": f"Basic {v.b_key}"}, body=TINY)
    yield Attempt("a key that may only read", *RUN, key=v.looking, body=TINY)
    for method, path, tag in operations:
        filled = _filled(path, v)
        if tag == TENANT and not path.startswith(OF_NO_OTHER):
            body = BODIES.get(path, {}) if method == "POST" else None
            yield Attempt("a key for another tenant", method, filled, v.b_key, {"x_tenant": v.a}, body)
        elif tag == ADMINISTRATOR:
            body = {} if method in ("POST", "PATCH", "PUT") else None
            yield Attempt("a tenant's key for administration", method, filled, v.b_key, {}, body)
            yield Attempt("an unknown key for administration", method, filled, stranger, {}, body)
            yield Attempt("a page in a browser", method, filled, None, {"origin": "http://localhost"}, body)


def _filled(path: str, v: Visitors) -> str:
    """The path with what A or B own, so that nothing else is hit if a call is not refused."""
    values = {"name": v.a, "key_id": v.b_key_id, "request_id": f"req_{secrets.token_hex(16)}", "month": "this"}
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    return path


def _try(tally: Tally, v: Visitors, attempt: Attempt) -> None:
    answer = v.call(attempt.method, attempt.path, key=attempt.key, body=attempt.body, **attempt.headers)
    tally.tried += 1
    where = f"{attempt.what}: {attempt.method} {attempt.path} got HTTP {answer.status_code}"
    if answer.status_code in BUSY:
        tally.obstacles.append(where)
    elif answer.status_code not in REFUSED:
        tally.failures.append(where)


def _compare(tally: Tally, v: Visitors) -> None:
    """Whether a tenant exists must not show in how its name is refused."""
    nobody = v.a[:-1] + ("x" if v.a[-1] != "x" else "y")
    for method, path in (RUN, ("GET", "/v1/queue")):
        body = TINY if method == "POST" else None
        found = [v.call(method, path, key=v.b_key, body=body, x_tenant=name) for name in (v.a, nobody)]
        shown = [
            (one.status_code, one.text.replace(name, "NAME"), sorted(one.headers.keys()))
            for one, name in zip(found, (v.a, nobody), strict=True)
        ]
        tally.tried += 1
        if shown[0] != shown[1]:
            tally.failures.append(f"{method} {path} reveals whether another tenant exists")
