"""/openapi.json is valid, complete and true. All tests of the API check that answers are as it says."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from tenantd.api import server
from tenantd.watching.metrics import Meter
from tenantd.watching.request_log import RequestLog
from tests.api.conftest import Api, no_webhook
from tests.api.described import DescribedDaemon
from tests.support.contract import contract_of
from tests.support.examples import SLOW, examples

PUBLIC = {
    "/apply-template",
    "/detokenize",
    "/healthz",
    "/openapi.json",
    "/readyz",
    "/tokenize",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/history",
    "/v1/invoices/{month}",
    "/v1/identity",
    "/v1/limits",
    "/v1/live",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/models/{name}",
    "/v1/queue",
    "/v1/rerank",
    "/v1/requests",
    "/v1/requests/{request_id}",
    "/v1/requests/{request_id}/cancel",
    "/v1/responses",
    "/v1/responses/{response_id}",
    "/v1/responses/{response_id}/cancel",
    "/v1/responses/{response_id}/input_items",
    "/v1/usage",
    "/v1/usage/{by}",
}
BEYOND_FORM = {
    "adapter": ("no such file", "absolute"),
    "billing": ("control characters",),
    "best_of": ("n answers",),
    "dimensions": ("numbers",),
    "expires_micros": ("in the future", "within", "not both"),
    "grammar": ("grammar",),
    "input": ("is not a token id of this model", "at a time"),
    "label": ("printable",),
    "limits.reserved_slots": ("reserve",),
    "logit_bias": ("is not a token id of this model",),
    "add_generation_prompt": ("must be false",),
    "chat_template_kwargs": ("does not read",),
    "continue_final_message": ("must be an assistant's",),
    "messages": (
        "printable",
        "JSON object",
        "cannot read images",
        "is not a text part",
        "not the id of an earlier call",
        "only an assistant's",
        "not a valid name of a tool",  # in Python, "$" of the schema's pattern allows a newline
    ),
    "reasoning_effort": ("has no setting",),
    "tool_choice": ("needs tools", "not the name of one"),
    "tools": ("again", "always an 'object'", "cannot be used", "must have 1 to 64 characters"),
    "model": ("not available",),
    "parse_special": ("special tokens",),
    "prompt": ("is not a token id of this model", "maximum context length"),
    "response_format": ("response_format", "needs json_schema.schema"),
    "scopes": ("scope admin",),
    "stream_options": ("only allowed",),
    "suffix": ("cannot fill in", "only allowed"),
    "tokens": ("is not a token id of this model",),
    "top_logprobs": ("only allowed",),
    "timeout_s": ("not complete within",),
}
"""What may be wrong with a body although each field has the form it must have: words of the message, by field."""
PLAIN = {"prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "tokens": [72]}
"""What is sent in place of a field that must be there."""

some_bodies = examples(60, suppress_health_check=[*SLOW, HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DescribedDaemon]:
    folder = tmp_path_factory.mktemp("openapi")
    with DescribedDaemon(folder, engine={"slots": 8}, embeddings={"pooling": "mean"}) as daemon:
        yield daemon


def send(
    client: httpx.Client, method: str, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> None:
    """Sends the body until it is taken, each time without the field it was refused for, by no fault of its form."""
    headers = headers or ({} if path.startswith("/admin") else {"authorization": "Bearer td_acme"})
    while (answer := client.request(method, path, json=body, headers=headers)).is_error:
        error = answer.json()["error"]
        param = "timeout_s" if error["code"] == "request_timeout" else error["param"]
        assert any(words in error["message"] for words in BEYOND_FORM.get(param, ())), (error, body)
        field, _, inner = param.partition(".")
        if inner:
            del body[field][inner]
        elif field in PLAIN:
            assert body[field] != PLAIN[field]
            body[field] = PLAIN[field]
        else:
            del body[field]


def test_the_document_is_valid_for_administrators_and_for_others(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = api.client.get("/openapi.json").json()
    from_a_browser = api.client.get("/openapi.json", headers={"Origin": "http://evil.example"}).json()
    monkeypatch.setattr("tenantd.api.openapi.is_admin", lambda request: False)
    public = api.client.get("/openapi.json").json()
    assert from_a_browser == public
    for document in (whole, public):
        OpenAPIV31SpecValidator(document).validate()
    assert set(public["paths"]) == PUBLIC and set(whole["paths"]) > PUBLIC
    assert "Tenant" in whole["components"]["schemas"] and "Tenant" not in public["components"]["schemas"]


def test_the_document_has_every_route_that_answers_and_no_other(api: Api) -> None:
    events = api.service.events
    log = RequestLog(events)
    declared = server.operations(api.service, Meter(events), no_webhook(), log, api.pages)  # type: ignore[arg-type]
    routes = server.make_routes(declared, api.service).routes  # type: ignore[arg-type]
    served = {
        (method, route.path_format)
        for route in routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"  # which is answered where GET is
    }
    assert len(served) == len(routes), "each is of a kind that is looked at"
    paths = api.client.get("/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path, operations in paths.items() for method in operations} == served


def test_every_operation_says_what_it_is_for_and_what_it_answers(api: Api) -> None:
    for path, operations in api.client.get("/openapi.json").json()["paths"].items():
        for method, described in operations.items():
            assert described["summary"], path
            assert "default" in described["responses"], path
            takes_body = method in ("post", "patch") and not path.endswith(
                ("/suspend", "/resume", "/cancel", "/forget", "/clear", "/alerts/test", "/web")
            )
            assert ("requestBody" in described) == takes_body, path


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/apply-template"]
)
def test_bodies_of_the_schema_are_not_refused_for_their_form(api: Api, path: str) -> None:
    bodies = api.contract.values(api.contract.body_schema("POST", path))

    @some_bodies
    @given(bodies)
    def check(body: Any) -> None:
        send(api.client, "POST", path, body)

    check()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/admin/v1/tenants"),
        ("PATCH", "/admin/v1/tenants/described"),
        ("POST", "/admin/v1/tenants/described/keys"),
        ("POST", "/admin/v1/keys"),
    ],
)
def test_bodies_of_administration_are_not_refused_for_their_form(
    daemon: DescribedDaemon, method: str, path: str
) -> None:
    contract = daemon.contract()
    daemon.post("/admin/v1/tenants", {"name": "described"})

    @some_bodies
    @given(contract.values(contract.body_schema(method, path)))
    def check(body: dict[str, Any]) -> None:
        if "name" in body:
            body["name"] = f"{body['name'][:30].rstrip()}{uuid.uuid4().hex[:30]}"
        with daemon.client() as client:
            send(client, method, path, body)
            if "name" in body:
                client.delete(f"{path}/{body['name']}")

    check()


def test_bodies_that_ask_for_vectors_are_not_refused_for_their_form(daemon: DescribedDaemon) -> None:
    contract = daemon.contract()
    daemon.post("/admin/v1/tenants", {"name": "vectors"})

    @some_bodies
    @given(contract.values(contract.body_schema("POST", "/v1/embeddings")))
    def check(body: dict[str, Any]) -> None:
        with daemon.client() as client:
            send(client, "POST", "/v1/embeddings", body, {"x-tenant": "vectors"})

    check()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("more", [{}, {"logprobs": 2}, {"stream_options": {"include_usage": True}}])
def test_the_events_of_a_stream_are_as_described(api: Api, path: str, more: dict[str, Any]) -> None:
    body = {"stream": True, **more}
    if path == "/v1/completions":
        body["prompt"] = "Hi"
    else:
        body["messages"] = [{"role": "user", "content": "Hi"}]
        body |= {"logprobs": True, "top_logprobs": 2} if "logprobs" in more else {}
    answer = api.client.post(path, json=body, headers={"authorization": "Bearer td_acme"})
    described = api.contract.operation("POST", path)
    assert described is not None
    schema = described["responses"]["200"]["content"]["text/event-stream"]["schema"]["contentSchema"]
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    assert len(events) > 10
    for event in events:
        api.contract.check_value(json.loads(event), schema)


@given(st.data())
@examples(20)
def test_what_is_made_of_a_schema_is_valid_for_it(daemon: DescribedDaemon, data: st.DataObject) -> None:
    contract = daemon.contract()
    name = data.draw(st.sampled_from(["CompletionRequest", "ChatRequest", "NewTenant", "TenantChange"]))
    schema = {"$ref": f"#/components/schemas/{name}"}
    contract.check_value(data.draw(contract.values(schema)), schema)


def test_an_answer_that_is_not_as_described_is_noticed(api: Api) -> None:
    answer = api.client.get("/v1/models", headers={"authorization": "Bearer td_acme"})
    contract = contract_of(api.client)
    for change in ({"object": "lists"}, {"more": 1}):
        wrong = httpx.Response(200, json={**answer.json(), **change}, request=answer.request)
        with pytest.raises(Exception, match="Failed validating"):
            contract.check(wrong)
