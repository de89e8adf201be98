"""Health, readiness and metrics."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tenantd.errors import QueueFull
from tenantd.events import Events
from tenantd.watching.metrics import LAG_INTERVAL_S, Meter
from tests.api.conftest import Api
from tests.serving.daemon_kit import until


def samples(api: Api) -> dict[tuple[str, ...], float]:
    """Name and label values of every sample, the tenant first."""
    answer = api.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels, reverse=True))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_ready_says_ready(api: Api) -> None:
    answer = api.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "progress": 1.0, "reason": ""})


def test_while_loading_it_is_alive_not_ready_and_says_how_far(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    supervisor = api.service.supervisor
    supervisor.state, supervisor.progress, supervisor.info = "loading", 0.25, None
    answer = api.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "loading", "progress": 0.25, "reason": ""})
    assert api.client.get("/healthz").status_code == 200
    refused = api.completion(prompt="Hi")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert int(refused.headers["retry-after"]) > 0
    assert not caplog.records, "a client that comes early is no news"


def test_while_isolation_is_checked_it_says_so_and_how_far(api: Api) -> None:
    api.service.checking = SimpleNamespace(progress=0.5, doing="isolation is being checked: logits")
    expected = {"status": "checking", "progress": 0.5, "reason": "isolation is being checked: logits"}
    answer = api.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, expected)
    assert api.client.get("/readyz", headers={"authorization": "Bearer td_acme"}).json() == expected


def test_while_draining_new_requests_get_503(api: Api) -> None:
    api.service.draining = True
    assert api.client.get("/readyz").json()["status"] == "draining"
    refused = api.completion(prompt="Hi")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")


def test_metrics_count_what_was_billed_by_tenant(api: Api) -> None:
    tokens = api.completion(prompt="Hi").json()["usage"]["completion_tokens"]
    api.completion(prompt="Hi", stream=True, max_tokens=2)
    api.completion(prompt="Hi", key="td_globex")
    found = samples(api)
    assert found["tenantd_requests_total", "acme", "stop"] == 1
    assert found["tenantd_requests_total", "acme", "length"] == 1
    assert found["tenantd_requests_total", "globex", "stop"] == 1
    assert found["tenantd_prompt_tokens_total", "acme"] == 6
    assert found["tenantd_completion_tokens_total", "acme"] == tokens + 2
    assert found["tenantd_first_token_seconds_count", "acme"] == 2
    assert found["tenantd_request_seconds_count", "acme"] == 2
    assert found["tenantd_ready",] == 1


def test_metrics_count_refusals_by_reason(api: Api) -> None:
    api.service.refusal = QueueFull("full", retry_after_s=1)
    api.completion(prompt="Hi")
    found = samples(api)
    assert found["tenantd_refused_requests_total", "acme", "queue_full"] == 1
    assert not any(name == "tenantd_requests_total" for name, *_ in found)


def test_how_late_the_event_loop_is_is_a_metric() -> None:
    async def main() -> None:
        meter = Meter(Events())
        watching = asyncio.create_task(meter.watch_loop())
        await asyncio.sleep(LAG_INTERVAL_S / 10)
        began_s = time.monotonic()
        while time.monotonic() - began_s < LAG_INTERVAL_S * 2:
            pass
        late_s = lambda: meter.registry.get_sample_value("tenantd_loop_lag_seconds_sum") or 0.0  # noqa: E731
        await until(lambda: late_s() >= LAG_INTERVAL_S / 2)
        watching.cancel()

    asyncio.run(main())
