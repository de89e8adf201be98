"""Requests that schemathesis makes from the daemon's own description, right and wrong ones, by tenants, administrators
and strangers: none is answered with 500, and every answer has the form that the description says.

`make test` sends a few of a fixed seed to each operation; `make night` sends them for ten minutes from a new one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode

from tests.support.contract import Contract
from tests.support.daemon import Daemon

MINUTES = float(os.environ.get("TENANTD_REQUESTS_MINUTES", "0"))
SEED = int(os.environ.get("TENANTD_SEED") or (secrets.randbits(32) if MINUTES else 1))
EXAMPLES = 15 if MINUTES else 4
REPLAY = (
    f"TENANTD_SEED={SEED} TENANTD_REQUESTS_MINUTES={MINUTES:g} python -m pytest tests/process/{Path(__file__).name}"
)
MINUTES_LONG = {"POST /admin/v1/isolation"}
"""What would check the engine all the time. Only those who may not ask for it do so here."""
BASE_URL = "http://tenantd"
UNAVAILABLE = 503
"""With a time to come back, where the daemon has too much to do: an answer, and no failure."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("described"), engine={"context_tokens": 128}) as daemon:
        yield daemon


@dataclass
class Asker:
    """Sends cases, and notes what was answered."""

    client: httpx.Client
    statuses: Counter[int] = field(default_factory=Counter)
    identities: dict[str, dict[str, str]] = field(default_factory=dict)  # headers, by who sends them
    known: dict[str, str] = field(default_factory=dict)  # what parameters may name

    def look_around(self, number: int) -> None:
        """Add a tenant, as requests remove those before it, and find out what there is to name."""
        name = f"t{number}"
        key = self.tell("POST", "/admin/v1/tenants", {"name": name})["key"]
        admin_key = self.tell("POST", "/admin/v1/keys", {"label": name})["secret"]
        self.identities = {
            "its key": {"authorization": f"Bearer {key}"},
            "its name": {"x-tenant": name},
            "the user": {},
            "a key that administers": {"authorization": f"Bearer {admin_key}", "x-tenant": name},
            "a stranger": {"authorization": "Bearer td_0"},
        }
        self.tell("POST", "/v1/completions", {"prompt": "hi", "max_tokens": 1}, tenant=name)
        self.known = {
            "name": name,
            "tenant": name,
            "key_id": self.tell("GET", f"/admin/v1/tenants/{name}/keys")["keys"][0]["id"],
            "request_id": self.tell("GET", f"/admin/v1/requests?tenant={name}")["requests"][0]["id"],
            "month": "this",
        }

    def tell(self, method: str, path: str, body: Any = None, tenant: str = "") -> Any:
        """What the daemon's own user is answered."""
        headers = {"x-tenant": tenant} if tenant else {}
        return self.client.request(method, path, json=body, headers=headers).raise_for_status().json()

    def send(self, case: Case, who: str, is_named: bool) -> None:
        """As one of `identities`. `is_named`: with the names of what there is in the path and in the query."""
        if is_named:
            for parameters in (case.path_parameters, case.query):
                for name, value in (parameters or {}).items():
                    parameters[name] = self.known.get(name, value)
        made = case.as_transport_kwargs(base_url=BASE_URL)
        made = {name: made.get(name) for name in ("method", "url", "headers", "params", "data", "json", "cookies")}
        prepared = requests.Request(**made).prepare()
        sent = {"content-type": prepared.headers.get("content-type", "application/json"), **self.identities[who]}
        answer = self.client.request(str(prepared.method), str(prepared.url), headers=sent, content=prepared.body)
        self.statuses[answer.status_code] += 1
        what = f"{prepared.method} {prepared.url} as {who}: {prepared.body!r} was answered {answer.status_code}"
        assert answer.status_code < 500 or answer.status_code == UNAVAILABLE, f"{what}: {answer.text}"


@pytest.fixture(scope="module")
def asker(daemon: Daemon) -> Iterator[Asker]:
    document = daemon.get("/openapi.json").json()
    contract = Contract(json.loads(json.dumps(document)))
    with daemon.client() as client:
        client.event_hooks = {"response": [contract.check]}
        yield Asker(client)


def ask(asker: Asker, operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, number: int) -> None:
    """Some requests to one operation."""
    asker.look_around(number)
    case = operation.as_strategy(generation_mode=mode)
    others = ("its key", "a stranger")
    who = st.sampled_from(others if operation.label in MINUTES_LONG else sorted(asker.identities))

    @seed(SEED + number)
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=case, who=who, is_named=st.sampled_from([True, True, False]))
    def send(case: Case, who: str, is_named: bool) -> None:
        asker.send(case, who, is_named)

    with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with a request to some operations
        send()


def test_no_request_made_from_the_description_is_answered_with_500(daemon: Daemon, asker: Asker) -> None:
    schema = schemathesis.openapi.from_dict(daemon.get("/openapi.json").json())
    operations = [one.ok() for one in schema.get_all_operations()]
    assert {one.label for one in operations} > {"POST /v1/chat/completions", "DELETE /admin/v1/tenants/{name}"}
    asked = list(itertools.product(operations, (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)))
    until_s = time.monotonic() + 60 * MINUTES
    for number, (operation, mode) in enumerate(itertools.cycle(asked)):
        if number >= len(asked) and time.monotonic() > until_s:
            break
        try:
            ask(asker, operation, mode, number)
        except BaseException as e:
            e.add_note(f"replay: {REPLAY}")
            raise
    print(f"\n{sum(asker.statuses.values())} requests: {dict(asker.statuses)}")
    assert daemon.get("/readyz").status_code == 200
    assert asker.statuses[200] > sum(asker.statuses.values()) / 10, "some of them are right"
