"""The cache of prompts, of a real daemon: what it saves is told and billed, for its tenant alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.tiny_gguf import write_tiny_gguf

PROMPT = [1, *[10 + n % 50 for n in range(199)]]
"""Token ids, so that it has as many in each vocabulary."""
LEAST_HIT = len(PROMPT) // 2
ONE = {"max_tokens": 1, "ignore_eos": True, "temperature": 0}


def settings(folder: Path, backend: str, **engine: Any) -> dict[str, Any]:
    more = {"model": {"path": str(write_tiny_gguf(folder / "tiny.gguf"))}} if backend == "llama" else {}
    return {"engine": {"backend": backend, "context_tokens": 512, **engine}, **more}


@pytest.fixture(params=["fake", "llama"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, **settings(tmp_path, request.param)) as daemon:
        yield daemon


def cached(daemon: Daemon, tenant: str, prompt: Any = PROMPT, **body: Any) -> int:
    """How many tokens of the prompt were cached."""
    answer = daemon.complete(tenant, prompt, **ONE | body)
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    assert usage["prompt_tokens"] == len(prompt)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def turn(daemon: Daemon, tenant: str, cache: str) -> None:
    answer = daemon.request("PATCH", f"/admin/v1/tenants/{tenant}", json={"cache": cache})
    assert answer.status_code == 200, answer.text
    assert answer.json()["tenant"]["effective_cache"] == (cache == "on")


def test_a_tenants_own_hit_is_told_and_billed_at_its_own_price(daemon: Daemon) -> None:
    daemon.post("/admin/v1/prices", {"input_nanos_per_million": 10**9, "cached_nanos_per_million": 10**8})
    daemon.add_tenant("acme", cache="on")
    assert cached(daemon, "acme") == 0
    hit = cached(daemon, "acme", [*PROMPT, 60, 61])
    assert LEAST_HIT <= hit <= len(PROMPT)
    again = daemon.stream("acme", PROMPT, **ONE).join()
    assert again.usage is not None and again.usage["prompt_tokens"] == len(PROMPT)
    streamed = again.usage["prompt_tokens_details"]["cached_tokens"]  # type: ignore[index]
    assert LEAST_HIT <= streamed < len(PROMPT), "at least one token is computed"
    status = daemon.status()
    assert status["cache"]["tenants"] == 1 and status["cache"]["used_bytes"] == status["tenants"][0]["cache_bytes"] > 0
    metrics = daemon.get("/metrics").text
    assert f'tenantd_cached_tokens_total{{tenant="acme"}} {float(hit + streamed)}' in metrics
    assert 'tenantd_cache_hits_total{tenant="acme"} 2.0' in metrics
    assert 'tenantd_cache_bytes{tenant="acme"}' in metrics
    assert daemon.stop() == 0
    rows = [(row["prompt_tokens"], row["cached_tokens"]) for row in daemon.rows()]
    assert rows == [(len(PROMPT), 0), (len(PROMPT) + 2 - hit, hit), (len(PROMPT) - streamed, streamed)]
    for row in daemon.rows():
        assert row["input_nanos"] == 1000 * row["prompt_tokens"]
        assert row["cached_nanos"] == 100 * row["cached_tokens"]


def test_a_hit_is_never_anothers_and_a_tenant_made_again_finds_nothing(daemon: Daemon) -> None:
    for name, cache in (("acme", "on"), ("globex", "on"), ("initech", "default")):
        daemon.add_tenant(name, cache=cache)
    assert cached(daemon, "acme") == 0 and cached(daemon, "acme") >= LEAST_HIT
    assert cached(daemon, "globex") == 0 and cached(daemon, "globex") >= LEAST_HIT
    assert [cached(daemon, "initech") for _ in range(2)] == [0, 0], "without a cache every request is independent"
    assert daemon.request("DELETE", "/admin/v1/tenants/acme").status_code == 200
    daemon.add_tenant("acme", cache="on")
    assert cached(daemon, "acme") == 0 and cached(daemon, "acme") >= LEAST_HIT


def test_it_is_turned_on_and_off_for_one_tenant_while_its_requests_run(daemon: Daemon) -> None:
    daemon.add_tenant("acme")
    running = daemon.stream("acme", PROMPT, max_tokens=200, ignore_eos=True).begun(1)
    for cache, hits in (("on", True), ("off", False), ("on", True), ("default", False)):
        turn(daemon, "acme", cache)
        found = [cached(daemon, "acme", [*PROMPT[:150], *range(20, 60)]) for _ in range(3)][1:]
        assert [each > 0 for each in found] == [hits, hits]
    assert running.join().done
    for cache in ("on", "off") * 5:
        stream = daemon.stream("acme", PROMPT, max_tokens=30, ignore_eos=True)
        turn(daemon, "acme", cache)
        stream.join()
        assert stream.done and stream.usage is not None and stream.usage["completion_tokens"] == 30
    turn(daemon, "acme", "on")
    assert cached(daemon, "acme", [*PROMPT[:100], *range(60, 120)]) == 0, "what it had is forgotten once it is off"
    assert daemon.stop() == 0
    assert {row["prompt_tokens"] + row["cached_tokens"] for row in daemon.rows()} == {190, len(PROMPT), 160}


def test_an_engine_that_dies_takes_the_cache_with_it_and_nothing_else(daemon: Daemon) -> None:
    daemon.add_tenant("acme", cache="on")
    daemon.add_tenant("globex")
    assert cached(daemon, "acme") == 0
    whole = daemon.complete("globex", PROMPT, **ONE | {"max_tokens": 300}).json()["choices"][0]["text"]
    running = daemon.stream("acme", PROMPT, **ONE | {"max_tokens": 300}).begun(1)
    os.kill(pid := daemon.engine_pid(), signal.SIGKILL)
    wait_until(lambda: daemon.is_ready() and daemon.engine_pid() != pid, "a new engine")
    assert running.join().done and running.usage is not None
    assert (running.usage["prompt_tokens"], running.usage["completion_tokens"]) == (len(PROMPT), 300)
    if daemon.get("/v1/models").json()["data"][0]["id"] == "fake":  # real logits differ in their last bits
        assert running.text == whole
    other = [*PROMPT[:120], 61, 62, 63]
    assert cached(daemon, "acme", other) in range(len(other)), "what ran is there again, the rest is lost"
    assert cached(daemon, "acme", other) >= len(other) // 2
    assert daemon.stop() == 0
    assert all(row["prompt_tokens"] + row["cached_tokens"] in (len(PROMPT), len(other)) for row in daemon.rows())


def test_the_default_is_reloaded_and_holds_for_whoever_has_no_setting_of_its_own(daemon: Daemon) -> None:
    for name, cache in (("acme", "default"), ("globex", "off")):
        daemon.add_tenant(name, cache=cache)
    assert [cached(daemon, name) for name in ("acme", "acme", "globex", "globex")] == [0] * 4
    config = daemon.config.read_text()
    daemon.config.write_text(config + '\n[cache]\ndefault = "on"\n')
    daemon.running.send_signal(signal.SIGHUP)
    wait_until(lambda: daemon.status()["cache"]["tenants"] == 1, "the new default")
    assert cached(daemon, "acme") == 0 and cached(daemon, "acme") >= LEAST_HIT
    assert [cached(daemon, "globex") for _ in range(2)] == [0, 0]


def test_a_tokens_budget_counts_what_was_cached_too(daemon: Daemon) -> None:
    daemon.add_tenant("acme", cache="on")
    body = {"budgets": [{"period": "daily", "unit": "tokens", "amount": 2 * (len(PROMPT) + 1) + 50}]}
    assert daemon.request("PATCH", "/admin/v1/tenants/acme/budgets", json=body).status_code == 200
    assert cached(daemon, "acme") == 0 and cached(daemon, "acme") >= LEAST_HIT
    refused = daemon.complete("acme", PROMPT, **ONE)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")


def test_cached_tokens_do_not_count_towards_tokens_per_minute(daemon: Daemon) -> None:
    daemon.add_tenant("acme", cache="on", limits={"tokens_per_minute": 1000})
    cached(daemon, "acme")
    hit = cached(daemon, "acme")
    left = int(daemon.complete("acme", [1, 2, 3], **ONE).headers["x-ratelimit-remaining-tokens"])
    assert left in range(1000 - 2 * (len(PROMPT) + 1) + hit - 4, 1000 - 2 * (len(PROMPT) + 1) + hit + 1)


@pytest.mark.parametrize("cache", ["on", "off"])
def test_choices_and_prompts_of_one_call_share_their_prefill(daemon: Daemon, cache: str) -> None:
    daemon.add_tenant("acme", cache=cache)
    answer = daemon.complete("acme", [PROMPT, [*PROMPT, 60]], n=3, **ONE | {"temperature": 1}).json()
    usage = answer["usage"]
    assert len(answer["choices"]) == 6 and usage["prompt_tokens"] == 2 * len(PROMPT) + 1
    assert usage["prompt_tokens_details"]["cached_tokens"] >= LEAST_HIT, "the second prompt begins with the first"
    if cache == "off":
        assert cached(daemon, "acme") == 0, "nothing is left of it"
