"""Which of the official client's exceptions a failure is, and what it carries: status, code, param, request id."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.conformance.conftest import MODEL, Shared, connect
from tests.support.daemon import Daemon, wait_until


def check(error: openai.APIStatusError, status: int, code: str, param: str | None = None) -> None:
    assert (error.status_code, error.code, error.param) == (status, code, param), error.message
    assert error.request_id is not None and error.request_id.startswith("req_")
    assert isinstance(error.body, dict) and error.body["message"]


# ---- who is asking -----------------------------------------------------------------------------------------------


def test_a_wrong_key_is_an_authentication_error(shared: Shared) -> None:
    for wrong in ("td_nobody", shared.keys["acme"][:-1] + "!"):
        with shared.client(wrong) as client:
            for ask in (client.models.list, lambda c=client: c.completions.create(model=MODEL, prompt="x")):
                with pytest.raises(openai.AuthenticationError) as caught:
                    ask()
                check(caught.value, 401, "invalid_api_key")


def test_a_revoked_key_is_an_authentication_error(shared: Shared) -> None:
    made = shared.daemon.post("/admin/v1/tenants/acme/keys", {"label": "to revoke"}).json()
    with shared.client(made["secret"]) as client:
        assert client.completions.create(model=MODEL, prompt="x", max_tokens=1)
        shared.daemon.request("DELETE", f"/admin/v1/keys/{made['key']['id']}").raise_for_status()
        with pytest.raises(openai.AuthenticationError):
            client.completions.create(model=MODEL, prompt="x", max_tokens=1)


def test_the_key_decides_the_tenant_even_for_an_administrator(shared: Shared) -> None:
    with shared.client(shared.keys["globex"]) as client:
        answer = client.completions.create(model=MODEL, prompt="x", max_tokens=2)
    row = next(row for row in shared.daemon.rows() if row["id"] == answer._request_id)
    assert row["tenant"] == "globex"


def test_another_tenants_name_is_a_permission_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.completions.create(model=MODEL, prompt="x", extra_headers={"X-Tenant": "globex"})
    check(caught.value, 403, "forbidden", "x-tenant")


def test_a_suspended_tenant_is_a_permission_error_until_it_is_resumed(shared: Shared) -> None:
    with shared.client(shared.daemon.add_tenant("idle")) as client:
        shared.daemon.post("/admin/v1/tenants/idle/suspend").raise_for_status()
        with pytest.raises(openai.PermissionDeniedError) as caught:
            client.completions.create(model=MODEL, prompt="x")
        check(caught.value, 403, "tenant_suspended")
        shared.daemon.post("/admin/v1/tenants/idle/resume").raise_for_status()
        assert client.completions.create(model=MODEL, prompt="x", max_tokens=1)


# ---- what is asked -----------------------------------------------------------------------------------------------


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    for ask in (
        lambda: client.models.retrieve("gpt-4"),
        lambda: client.completions.create(model="gpt-4", prompt="x"),
        lambda: client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "x"}]),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        check(caught.value, 404, "model_not_found", "model")


def test_what_is_not_enabled_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input="x")
    check(caught.value, 400, "unsupported")


@pytest.mark.parametrize("prompt", ["x" * 600, [7] * 600], ids=["text", "tokens"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_prompt_over_the_context_is_a_bad_request(client: openai.OpenAI, prompt: Any, streamed: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=prompt, stream=streamed)
    check(caught.value, 400, "context_length_exceeded", "prompt")
    assert "600" in caught.value.message or "601" in caught.value.message
    says = caught.value.body["message"] if isinstance(caught.value.body, dict) else ""
    assert says.startswith("This model's maximum context length is 512 tokens. However, ")  # what clients look for


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 100}, "n"),
        ({"stop": ["a", ""]}, "stop"),
        ({"logprobs": 6}, "logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"echo": True}, "echo"),
        ({"extra_body": {"top_k": -2}}, "top_k"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_value_is_a_bad_request_that_names_it(client: openai.OpenAI, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": MODEL, "prompt": "x", **body})
    check(caught.value, 400, "invalid_request", caught.value.param)
    assert re.match(r"\w*", caught.value.param or "")[0] == param
    assert caught.value.type == "invalid_request_error"


def test_a_grammar_that_does_not_parse_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="x", extra_body={"grammar": "broken"})
    assert "grammar" in caught.value.message


# ---- the moment --------------------------------------------------------------------------------------------------


def test_a_full_queue_is_a_rate_limit_error_that_says_when_to_come_back(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": 30_000}) as daemon:
        key = daemon.add_tenant("acme", limits={"max_queued": 0})
        running = daemon.stream("acme", max_tokens=200, ignore_eos=True).begun()
        with connect(daemon, key) as client:
            with pytest.raises(openai.RateLimitError) as caught:
                client.completions.create(model=MODEL, prompt="x")
            check(caught.value, 429, "queue_full")
            assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
            patient = client.with_options(max_retries=10)  # waits as it is told
            assert patient.completions.create(model=MODEL, prompt="x", max_tokens=1).choices
        assert running.join().error is None


def test_a_requests_own_deadline_is_not_tried_again(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 50_000}) as daemon:
        with connect(daemon, daemon.add_tenant("acme")) as client:
            patient = client.with_options(max_retries=2)
            with pytest.raises(openai.APIStatusError) as caught:
                patient.completions.create(
                    model=MODEL, prompt="x", max_tokens=1000, extra_body={"timeout_s": 2, "ignore_eos": True}
                )
            check(caught.value, 408, "request_timeout")
            assert caught.value.response.headers["x-should-retry"] == "false"
        [row] = daemon.rows()
        assert row["error"].startswith("the request was not complete")


def test_a_cancelled_request_is_not_tried_again(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 50_000}) as daemon:
        key = daemon.add_tenant("acme")
        with connect(daemon, key) as client, ThreadPoolExecutor(1) as pool:
            body = {"model": MODEL, "prompt": "x", "max_tokens": 1000, "extra_body": {"ignore_eos": True}}
            asked = pool.submit(client.with_options(max_retries=2).completions.create, **body)
            [row] = wait_until(daemon.rows, "the request")
            assert daemon.post(f"/admin/v1/requests/{row['id']}/cancel").status_code == 200
            with pytest.raises(openai.InternalServerError) as caught:
                asked.result(timeout=120)
            check(caught.value, 503, "cancelled")
            assert caught.value.response.headers["x-should-retry"] == "false"
        assert len(daemon.rows()) == 1


def test_while_the_model_loads_it_is_unavailable_and_says_when_to_come_back(tmp_path: Path) -> None:
    from tests.support.tiny_gguf import write_tiny_gguf  # needs gguf, which is not installed beside other clients

    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    daemon = Daemon(tmp_path, engine={"backend": "llama"}, model={"path": str(model)})
    try:
        daemon.launch()
        engine = psutil.Process(daemon.engine_pid())
        engine.suspend()  # long before it has imported what it needs to load
        wait_until(daemon.is_up, "the daemon to answer")
        assert daemon.get("/readyz").json()["status"] == "loading"
        with connect(daemon, daemon.add_tenant("acme")) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(model="tiny", prompt="x")
            check(caught.value, 503, "engine_unavailable")
            assert int(caught.value.response.headers["retry-after"]) >= 1
            assert [model.id for model in client.models.list()] == ["tiny"]
            engine.resume()
            wait_until(daemon.is_ready, "the model")
            assert client.completions.create(model="tiny", prompt="x", max_tokens=2).usage
    finally:
        daemon.kill()


def test_an_engine_that_crashed_too_often_is_unavailable_with_the_reason(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"max_crashes": 1, "fake_step_micros": 5000, "restart_delay_s": 3}) as daemon:
        with connect(daemon, daemon.add_tenant("acme")) as client:
            stream = client.completions.create(
                model=MODEL, prompt="x", max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
            )
            with stream:
                next(iter(stream))
                os.kill(daemon.engine_pid(), signal.SIGKILL)
                with pytest.raises(openai.APIError) as cut:
                    list(stream)
            assert cut.value.code == "engine_unavailable"
            assert "signal 9" in cut.value.message

            wait_until(daemon.is_ready, "the next engine")
            os.kill(daemon.engine_pid(), signal.SIGKILL)
            wait_until(lambda: daemon.get("/readyz").json()["status"] == "failed", "the end of trying")
            with pytest.raises(openai.InternalServerError) as refused:
                client.completions.create(model=MODEL, prompt="x")
            check(refused.value, 503, "engine_unavailable")
            assert "signal 9" in refused.value.message
            assert int(refused.value.response.headers["retry-after"]) >= 1
        [row] = daemon.rows()
        assert row["state"] == "failed" and row["completion_tokens"] >= 1


def test_a_drain_is_unavailable(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": 40_000}) as daemon:
        key = daemon.add_tenant("acme")
        running = daemon.stream("acme", max_tokens=200, ignore_eos=True).begun()
        with connect(daemon, key) as client:
            assert list(client.models.list())  # a connection from before the drain
            daemon.signal(signal.SIGTERM)
            wait_until(lambda: draining(client), "the drain")
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(model=MODEL, prompt="x")
            check(caught.value, 503, "draining")
        assert running.join().done
        assert daemon.wait() == 0


def draining(client: openai.OpenAI) -> bool:
    answer = client._client.get("http://tenantd/readyz")
    return bool(answer.json()["status"] == "draining")
