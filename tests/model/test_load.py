"""Many tenants on the real model at once: nothing lost, nothing twice, every token and microsecond accounted for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.model.conftest import check_engine_time, idle_status
from tests.support.daemon import Daemon, Stream, wait_until

TENANTS = [f"tenant-{i}" for i in range(8)]
REQUESTS = 64
LONG_PROMPT = "The quick brown fox jumps over the lazy dog. " * 12


@pytest.fixture(scope="module", autouse=True)
def tenants(daemon: Daemon) -> None:
    for i, name in enumerate(TENANTS):
        daemon.add_tenant(name, weight=1 + i % 3)


def start(daemon: Daemon, i: int) -> Stream:
    """The i-th request: prompts from 2 to over 100 tokens, answers of at most 2 to 23, greedy and sampled."""
    prompt = LONG_PROMPT if i % 8 == 0 else " ".join(["number"] * (1 + i % 5)) + f" {i}"
    sampling = {"temperature": 0} if i % 2 else {"temperature": 0.9, "seed": i}
    return daemon.stream(TENANTS[i % 8], prompt, max_tokens=2 + i * 7 % 22, **sampling)


def test_sixty_four_requests_of_eight_tenants_all_complete_and_add_up(
    daemon: Daemon, record_property: Callable[[str, object], None]
) -> None:
    before = {row["id"] for row in daemon.rows()}
    began_s = time.monotonic()
    streams = [start(daemon, i) for i in range(REQUESTS)]
    for stream in streams:
        stream.join()
    took_s = time.monotonic() - began_s
    for i, stream in enumerate(streams):
        assert stream.error is None and stream.done, f"request {i}: {stream.error}"
        assert stream.finish_reason in ("stop", "length")
        assert stream.usage is not None
        assert stream.usage["completion_tokens"] <= 2 + i * 7 % 22
        assert (stream.usage["completion_tokens"] == 2 + i * 7 % 22) == (stream.finish_reason == "length")

    rows = {row["id"]: row for row in daemon.rows() if row["id"] not in before}
    assert len(rows) == REQUESTS == len({stream.request_id for stream in streams})
    for i, stream in enumerate(streams):
        row = rows[stream.request_id]
        assert row["tenant"] == TENANTS[i % 8]
        assert row["state"] == stream.finish_reason
        assert stream.usage is not None
        for count in ("prompt_tokens", "completion_tokens"):
            assert row[count] == stream.usage[count]
        assert row["prompt_tokens"] == row["prompt_length_tokens"]
    usage = daemon.get("/admin/v1/usage").json()["tenants"]
    for line in usage:
        if line["tenant"] in TENANTS:
            own = [row for row in rows.values() if row["tenant"] == line["tenant"]]
            assert line["requests"] == line["completed"] == len(own) == 8
            assert line["completion_tokens"] == sum(row["completion_tokens"] for row in own)

    status = idle_status(daemon)
    assert all(tenant["running"] == tenant["waiting"] == 0 for tenant in status["tenants"])
    assert status["engine_restarts"] == 0
    check_engine_time(daemon)
    completion = sum(row["completion_tokens"] for row in rows.values())
    prompt = sum(row["prompt_tokens"] for row in rows.values())
    record_property("figures", f"{completion} tokens for {prompt} prompt tokens in {took_s:.2f} s")
    print(f"\n64 requests: {prompt} prompt + {completion} completion tokens, {took_s:.2f} s")


def test_a_slot_that_was_used_before_gives_the_text_of_a_fresh_one(daemon: Daemon) -> None:
    """After the load above, whatever it left behind would show."""
    check = {"max_tokens": 8, "temperature": 0}
    texts = {daemon.stream("acme", "Water boils at", **check).join().text for _ in range(3)}
    assert len(texts) == 1


def test_sixteen_streams_survive_the_engines_death_in_the_middle(daemon: Daemon) -> None:
    tokens = 24
    before = {row["id"] for row in daemon.rows()}
    restarts = daemon.status()["engine_restarts"]
    streams = [
        daemon.stream(TENANTS[i % 8], f"Story number {i}:", max_tokens=tokens, temperature=0, ignore_eos=True)
        for i in range(16)
    ]
    wait_until(lambda: sum(stream.tokens >= 4 for stream in streams) >= 8, "eight streams in their middle")
    os.kill(daemon.engine_pid(), signal.SIGKILL)
    for stream in streams:
        stream.join()
        assert stream.error is None and stream.done
        assert stream.finish_reason == "length"
        assert stream.usage is not None and stream.usage["completion_tokens"] == tokens
    assert daemon.status()["engine_restarts"] == restarts + 1
    rows = {row["id"]: row for row in daemon.rows() if row["id"] not in before}
    assert rows.keys() == {stream.request_id for stream in streams} and len(rows) == 16
    for stream in streams:
        row = rows[stream.request_id]
        assert (row["state"], row["completion_tokens"]) == ("length", tokens)
        assert stream.usage is not None
        assert row["prompt_tokens"] == row["prompt_length_tokens"] == stream.usage["prompt_tokens"]
    idle_status(daemon)
    check_engine_time(daemon)


def test_counting_goes_on_over_the_seam_without_a_token_twice_or_missing(daemon: Daemon) -> None:
    """Computed again, logits differ in their last bits: so a text in which the model is sure of every next token."""
    stream = daemon.stream("acme", "41, 42, 43, 44, 45, 46,", max_tokens=32, temperature=0, ignore_eos=True).begun(8)
    os.kill(daemon.engine_pid(), signal.SIGKILL)
    stream.join()
    assert stream.error is None
    numbers = [int(number) for number in stream.text.strip().split(",")[:-1]]  # the last may be cut
    assert numbers == list(range(47, 47 + len(numbers))) and len(numbers) >= 7
    assert stream.usage is not None and stream.usage["completion_tokens"] == 32
