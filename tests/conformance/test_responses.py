"""Responses of a real daemon: what they cost, and who still knows them."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.conformance.conftest import MODEL, Shared, connect


@pytest.fixture
def name(shared: Shared, request: pytest.FixtureRequest) -> Iterator[str]:
    """A tenant of the test's own."""
    name = f"t{abs(hash(request.node.name)) % 10**8}"
    yield name
    shared.daemon.request("DELETE", f"/admin/v1/tenants/{name}")


def test_a_response_is_metered_and_billed_like_a_chat(shared: Shared, name: str) -> None:
    with connect(shared.daemon, shared.daemon.add_tenant(name)) as client:
        response = client.responses.create(model=MODEL, input="Hi", max_output_tokens=20)
        again = client.responses.create(model=MODEL, input="Hi", max_output_tokens=20, previous_response_id=response.id)
    for each in (response, again):
        [row] = [row for row in shared.daemon.rows() if row["id"] == each.id.replace("resp_", "req_")]
        assert each.usage is not None and row["state"] in ("completed", "length")
        assert row["prompt_tokens"] + row["cached_tokens"] == each.usage.input_tokens
        assert row["completion_tokens"] == each.usage.output_tokens
    shown = shared.daemon.get(f"/v1/requests/{response.id}", headers={"X-Tenant": name})
    assert shown.json()["request"]["id"] == response.id.replace("resp_", "req_")


def test_a_removed_tenant_leaves_nothing_to_one_of_its_name(shared: Shared, name: str) -> None:
    with connect(shared.daemon, shared.daemon.add_tenant(name)) as client:
        response = client.responses.create(model=MODEL, input="Hi", max_output_tokens=5)
        assert client.responses.retrieve(response.id) == response
    shared.daemon.request("DELETE", f"/admin/v1/tenants/{name}").raise_for_status()
    with connect(shared.daemon, shared.daemon.add_tenant(name)) as client:
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response.id)
        with pytest.raises(openai.BadRequestError, match="is kept"):
            client.responses.create(model=MODEL, input="Hi", previous_response_id=response.id)


def test_a_forgotten_tenant_has_no_responses(shared: Shared, name: str) -> None:
    with connect(shared.daemon, shared.daemon.add_tenant(name)) as client:
        response = client.responses.create(model=MODEL, input="Hi", max_output_tokens=5)
        shared.daemon.post(f"/admin/v1/tenants/{name}/forget").raise_for_status()
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response.id)


def test_an_idempotency_key_gives_the_same_response_again(shared: Shared) -> None:
    with shared.client() as client:
        for stream in (False, True):
            headers = {"Idempotency-Key": f"responses-{stream}"}
            texts = []
            for _ in range(2):
                answer = client.responses.with_raw_response.create(
                    model=MODEL, input="Hi", max_output_tokens=5, stream=stream, extra_headers=headers
                )
                texts.append(answer.http_response.read())
            assert texts[0] == texts[1] and answer.headers["idempotent-replayed"] == "true"
