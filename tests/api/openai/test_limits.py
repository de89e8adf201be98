"""What a client sees of its tenant's limits and of its own deadline."""

from __future__ import annotations

from typing import Any

import pytest

from tenantd.errors import RequestsPerMinuteExceeded, RequestTimeout
from tenantd.tenancy.rates import RateState
from tests.api.conftest import Api
from tests.api.openai.test_completions import events

STATES = {"requests": RateState(30, 12, 59_000_001), "tokens": RateState(9000, 0, 360_000_000)}
HEADERS = {
    "x-ratelimit-limit-requests": "30",
    "x-ratelimit-remaining-requests": "12",
    "x-ratelimit-reset-requests": "1m0s",
    "x-ratelimit-limit-tokens": "9000",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-reset-tokens": "6m0s",
}


def of_limits(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("x-ratelimit-")}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": "Hi"}, 200),
        ({"prompt": "Hi", "stream": True}, 200),
        ({"prompt": "Hi", "temperature": 9}, 400),
        ({"prompt": "Hi", "model": "gpt-4"}, 404),
    ],
    ids=["whole", "stream", "bad value", "wrong model"],
)
def test_every_answer_says_what_is_left(api: Api, body: dict[str, Any], status: int) -> None:
    api.service.rate_states["acme"] = STATES
    answer = api.completion(**body)
    assert (answer.status_code, of_limits(answer.headers)) == (status, HEADERS)
    assert of_limits(api.completion(key="td_globex", **body).headers) == {}


def test_only_limits_that_a_tenant_has_are_shown(api: Api) -> None:
    api.service.rate_states["acme"] = {"tokens": RateState(10, 10, 0)}
    assert of_limits(api.chat(messages=[{"role": "user", "content": "Hi"}]).headers) == {
        "x-ratelimit-limit-tokens": "10",
        "x-ratelimit-remaining-tokens": "10",
        "x-ratelimit-reset-tokens": "0s",
    }


def test_a_refusal_says_when_to_come_back_in_seconds_rounded_up_and_in_milliseconds(api: Api) -> None:
    api.service.rate_states["acme"] = STATES
    api.service.refusal = RequestsPerMinuteExceeded("too many", retry_after_ms=12_001)
    answer = api.completion(prompt="Hi")
    assert answer.status_code == 429
    assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("13", "12001")
    assert of_limits(answer.headers) == HEADERS
    assert (answer.json()["error"]["code"], answer.json()["error"]["type"]) == (
        "requests_per_minute_exceeded",
        "rate_limit_error",
    )


@pytest.mark.parametrize("timeout_s", [None, 1, 0.5, 86_400])
def test_a_deadline_is_passed_on(api: Api, timeout_s: float | None) -> None:
    assert api.completion(prompt="Hi", timeout_s=timeout_s).status_code == 200
    assert api.service.timeouts_s == [timeout_s]


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_before_the_first_token_is_408(api: Api, stream: bool) -> None:
    api.service.failure = RequestTimeout("not complete")
    answer = api.completion(prompt="Hi", stream=stream, timeout_s=1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "request_timeout")


def test_a_deadline_later_is_the_streams_last_event(api: Api) -> None:
    api.service.failure, api.service.fail_after = RequestTimeout("not complete"), 4
    *chunks, last = events(api.completion(prompt="Hi", stream=True, timeout_s=1).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hell"
    assert last["error"]["code"] == "request_timeout"
