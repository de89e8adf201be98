"""`Idempotency-Key` with the official client, which sends it as an extra header and tries again by itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.conformance.conftest import MODEL, Shared
from tests.support.daemon import wait_until


def test_a_request_that_is_sent_again_gets_the_first_answer(shared: Shared, client: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": "conformance 1"}
    messages = [{"role": "user", "content": "hello"}]

    def ask() -> openai.types.chat.ChatCompletion:
        return client.chat.completions.create(model=MODEL, messages=messages, max_tokens=9, extra_headers=headers)  # type: ignore[arg-type]

    first = ask()
    wait_until(lambda: state_of(shared, first._request_id) != "running", "a settled row")
    again = ask()
    assert again == first and again._request_id == first._request_id
    with pytest.raises(openai.ConflictError) as caught:
        client.chat.completions.create(model=MODEL, messages=messages, max_tokens=8, extra_headers=headers)  # type: ignore[arg-type]
    assert caught.value.code == "idempotency_key_reused"


def test_a_stream_is_given_again_as_a_stream(shared: Shared, client: openai.OpenAI) -> None:
    def ask() -> list[openai.types.Completion]:
        headers = {"Idempotency-Key": "conformance 2"}
        stream = client.completions.create(
            model=MODEL, prompt="hello", max_tokens=9, stream=True, n=2, extra_headers=headers
        )
        return list(stream)

    first = ask()
    request_id = first[0].id.replace("cmpl-", "req_")
    wait_until(lambda: state_of(shared, request_id) != "running", "a settled row")
    assert ask() == first and len(first) > 2


def test_the_client_waits_for_a_first_attempt_that_still_runs(shared: Shared) -> None:
    """It tries again after a 409, when it is told to, and then gets the answer of the first."""

    def ask(retries: int) -> openai.types.Completion:
        with shared.client() as client:
            return client.with_options(max_retries=retries).completions.create(
                model=MODEL,
                prompt="hello",
                max_tokens=200,
                extra_body={"ignore_eos": True},
                extra_headers={"Idempotency-Key": "conformance 3"},
            )

    with ThreadPoolExecutor(5) as threads:
        answers = list(threads.map(ask, [10] * 5))
    assert len({one.id for one in answers}) == 1 and len({one.choices[0].text for one in answers}) == 1


def state_of(shared: Shared, request_id: str | None) -> str:
    return str(next(row["state"] for row in shared.daemon.rows() if row["id"] == request_id))
