"""Paths that clients write in their own way, methods that come with others, and parts of OpenAI's API not served."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.api.conftest import Api

KEY = {"authorization": "Bearer td_acme"}


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    """One that does not compare answers with the description, which has the usual paths only."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(api.path)), base_url="http://tenantd", timeout=120) as one:
        yield one


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/completions", "/v1/completions/", "/completions/", "/v1/completions///"]
)
def test_a_route_is_found_without_its_version_and_with_a_slash(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json={"prompt": "Hi"}, headers=KEY)
    assert answer.status_code == 200
    assert answer.json()["object"] == "text_completion"


@pytest.mark.parametrize("path", ["/models/tiny", "/v1/models/tiny/", "/models/tiny/"])
def test_so_is_one_with_a_name_in_it(client: httpx.Client, path: str) -> None:
    assert client.get(path, headers=KEY).json()["id"] == "tiny"


def test_other_routes_keep_their_paths(client: httpx.Client) -> None:
    assert client.get("/admin/v1/status/").status_code == 200
    assert client.get("/healthz/").status_code == 200
    for path in ("/v1/healthz", "/status", "/v1/admin/v1/status", "/", "//", "/v1", "/v1/"):
        assert client.get(path).status_code == 404, path


def test_head_answers_as_get_does_without_the_body(client: httpx.Client) -> None:
    for path in ("/healthz", "/v1/models", "/models/", "/openapi.json"):
        whole, head = client.get(path, headers={"x-tenant": "acme"}), client.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert head.headers["content-length"] == whole.headers["content-length"]
        assert head.headers["content-type"] == "application/json"
    assert client.head("/v1/completions").status_code == 405
    assert client.head("/nothing").status_code == 404


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/models", "GET, HEAD, OPTIONS"),
        ("/chat/completions/", "OPTIONS, POST"),
        ("/admin/v1/tenants", "GET, HEAD, OPTIONS, POST"),
        ("/admin/v1/tenants/acme", "DELETE, GET, HEAD, OPTIONS, PATCH"),
    ],
)
def test_options_says_what_may_be_sent(client: httpx.Client, path: str, allowed: str) -> None:
    answer = client.request("OPTIONS", path, headers={"authorization": "Bearer td_wrong"})
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allowed, b"")
    assert "access-control-allow-origin" not in answer.headers


def test_options_of_nothing_is_nothing(client: httpx.Client) -> None:
    assert client.request("OPTIONS", "/nothing").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/audio/speech"),
        ("POST", "/v1/images/generations"),
        ("GET", "/v1/files"),
        ("GET", "/v1/files/file-123/content"),
        ("POST", "/v1/assistants"),
        ("POST", "/audio/transcriptions"),
        ("GET", "/v1/fine_tuning/jobs"),
        ("POST", "/v1/moderations/"),
    ],
)
def test_parts_of_openais_api_that_are_not_here_are_400_and_not_404(
    client: httpx.Client, method: str, path: str
) -> None:
    answer = client.request(method, path, json={} if method == "POST" else None)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported")
    assert answer.headers["x-request-id"]


def test_an_unknown_route_is_404(client: httpx.Client) -> None:
    for path in ("/v1/nothing", "/audios", "/v1/audiobooks", "/v2/audio"):
        assert client.get(path).status_code == 404
