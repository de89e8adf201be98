"""Several answers to one prompt, of a real daemon: the prompt is computed and paid for once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_until

PROMPT, ANSWER, CHOICES = "x" * 99, 6, 4
PROMPT_TOKENS = 100  # with the token that begins a text


def usage_of(daemon: Daemon, tenant: str) -> float:
    return float(next(t["usage"] for t in daemon.status()["tenants"] if t["name"] == tenant))


def test_choices_are_computed_billed_and_counted_as_one_prompt(tmp_path: Path) -> None:
    with Daemon(tmp_path, scheduler={"half_life_s": 86_400}) as daemon:
        daemon.add_tenant("acme", limits={"tokens_per_minute": 1000})
        answer = daemon.complete("acme", [PROMPT] * 2, n=CHOICES, max_tokens=ANSWER, ignore_eos=True)
        assert answer.json()["usage"] == {
            "prompt_tokens": 2 * PROMPT_TOKENS,
            "completion_tokens": 2 * CHOICES * ANSWER,
            "total_tokens": 2 * (PROMPT_TOKENS + CHOICES * ANSWER),
            "prompt_tokens_details": {"cached_tokens": PROMPT_TOKENS - 1},
        }
        left = daemon.complete("acme", "y", max_tokens=1, ignore_eos=True).headers["x-ratelimit-remaining-tokens"]
        counted = PROMPT_TOKENS + 1 + 2 * CHOICES * ANSWER
        assert int(left) in range(1000 - counted - 3, 1000 - counted + 1)
        shared = 2 * CHOICES - 1
        computed = PROMPT_TOKENS + shared * (1 + 0.1 * (PROMPT_TOKENS - 1)) + 2 * CHOICES * 2 * ANSWER
        usage = wait_until(lambda: (now := usage_of(daemon, "acme")) >= 0.99 * computed and now, "its usage")
        assert usage < 1.02 * computed
        assert daemon.stop() == 0
        rows = daemon.rows()
        assert [row["prompt_tokens"] for row in rows[:8]] == [PROMPT_TOKENS, 0, 0, 0, 1, 0, 0, 0]
        assert [row["cached_tokens"] for row in rows[:8]] == [0, 0, 0, 0, PROMPT_TOKENS - 1, 0, 0, 0]
        assert {row["prompt_length_tokens"] for row in rows[:8]} == {PROMPT_TOKENS}
        assert [row["input_nanos"] > 0 for row in rows[:8]] == [True, False, False, False] * 2
        assert all(row["engine_micros"] > 0 for row in rows)
        daemon.start()
        assert usage_of(daemon, "acme") > 0.95 * computed, "a restart forgets nothing of it"


def test_a_prompt_is_billed_once_through_the_engines_death_before_and_after_its_first_token(tmp_path: Path) -> None:
    engine = {"slots": 2, "fake_step_micros": 3000, "fake_token_micros": 50}
    with Daemon(tmp_path, engine=engine) as daemon:
        daemon.add_tenant("acme")
        stream = daemon.stream("acme", PROMPT * 20, n=CHOICES, max_tokens=200, ignore_eos=True)
        for tokens in (0, 20, 500):
            wait_until(lambda tokens=tokens: stream.tokens >= tokens and daemon.status()["state"] == "ready", "tokens")
            pid = daemon.engine_pid()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda dead=pid: daemon.engine_pid() != dead, "a new engine")
        stream.join()
        assert stream.done and stream.usage is not None
        assert (stream.usage["prompt_tokens"], stream.usage["completion_tokens"]) == (99 * 20 + 1, CHOICES * 200)
        status = daemon.status()
        assert daemon.stop() == 0
        rows = daemon.rows()
        assert [row["prompt_tokens"] for row in rows] == [99 * 20 + 1, 0, 0, 0]
        assert [row["completion_tokens"] for row in rows] == [200] * CHOICES
        billed_micros = sum(row["engine_micros"] for row in rows)
        assert billed_micros + status["engine_unbilled_micros"] == status["engine_busy_micros"]


@pytest.mark.parametrize("by_tenant", [True, False])
def test_to_cancel_one_choice_is_to_cancel_the_request(tmp_path: Path, by_tenant: bool) -> None:
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": 10_000}) as daemon:
        daemon.add_tenant("acme")

        def cancel(request_id: str) -> None:
            prefix = "/v1" if by_tenant else "/admin/v1"
            daemon.post(f"{prefix}/requests/{request_id}/cancel", headers={"X-Tenant": "acme"}).raise_for_status()

        runs = daemon.stream("acme", "x", max_tokens=4000, ignore_eos=True).begun()
        waits = daemon.stream("acme", PROMPT, n=CHOICES, max_tokens=50, ignore_eos=True)
        rows = wait_until(lambda: len(found := daemon.rows()) == 1 + CHOICES and found, "all rows")
        cancel(next(row["id"] for row in rows if row["prompt_length_tokens"] == PROMPT_TOKENS))
        assert waits.join().error is not None and waits.error["code"] == "cancelled" and waits.status == 503
        cancel(runs.request_id)
        runs.join()
        assert daemon.stop() == 0
        ended = [row for row in daemon.rows() if row["prompt_length_tokens"] == PROMPT_TOKENS]
        assert [(row["state"], row["engine_micros"]) for row in ended] == [("cancelled", 0)] * CHOICES


def test_a_stream_of_which_one_choice_is_cancelled_ends_at_once(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 2, "fake_step_micros": 10_000}) as daemon:
        daemon.add_tenant("acme")
        stream = daemon.stream("acme", PROMPT, n=2, max_tokens=4000, ignore_eos=True).begun(10)
        second = daemon.rows()[1]["id"]
        daemon.post(f"/v1/requests/{second}/cancel", headers={"X-Tenant": "acme"}).raise_for_status()
        assert stream.join().error is not None and stream.error["code"] == "cancelled"
        assert daemon.stop() == 0
        rows = daemon.rows()
        assert [row["state"] for row in rows] == ["cancelled"] * 2
        assert rows[0]["prompt_tokens"] == PROMPT_TOKENS and all(row["completion_tokens"] < 4000 for row in rows)
