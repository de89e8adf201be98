"""Budgets of a real daemon: never over by one, and nearly all of them usable."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.daemon import Daemon, Stream, wait_until

PRICES = {"input_price_per_million": "1.5", "output_price_per_million": "3.25"}
PROMPT = "x" * 20
BUSY = "budget_busy"


def ledger(daemon: Daemon) -> sqlite3.Connection:
    return sqlite3.connect(daemon.folder / "state" / "ledger.db", timeout=10, isolation_level=None)


def set_budget(daemon: Daemon, unit: str, amount: int, key_id: str = "", tenant_id: int = 1) -> None:
    """Write it into the ledger, and make the daemon read it."""
    reloads = daemon.log.read_text().count("tenants reloaded")
    conn = ledger(daemon)
    conn.execute(
        """INSERT INTO budgets (tenant_id, key_id, period, unit, amount, warn, set_micros)
        VALUES (?, ?, 'monthly', ?, ?, '50,100', 0) ON CONFLICT DO UPDATE SET amount = excluded.amount""",
        (tenant_id, key_id, unit, amount),
    )
    conn.close()
    os.kill(daemon.running.pid, signal.SIGHUP)
    wait_until(lambda: daemon.log.read_text().count("tenants reloaded") > reloads, "the daemon to read its budgets")


def uses(daemon: Daemon) -> list[tuple[int, int]]:
    """Used and warned of each budget, in order."""
    conn = ledger(daemon)
    found = conn.execute("SELECT used, warned FROM budget_uses ORDER BY budget_id").fetchall()
    conn.close()
    return found


def drain(daemon: Daemon, clients: int, max_tokens: int) -> list[httpx.Response]:
    """Each client sends again and again, until it is refused for good. What they got last."""

    def client(number: int) -> httpx.Response:
        while True:
            answer = daemon.complete("acme", PROMPT, max_tokens=max_tokens, ignore_eos=True)
            if answer.status_code == 200:
                continue
            if answer.json()["error"]["code"] != BUSY:
                return answer
            threading.Event().wait(0.02)

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(client, range(clients)))


@pytest.mark.parametrize(("unit", "amount"), [("tokens", 20_000), ("money", 60_000_000)])
def test_128_streams_on_8_slots_use_nearly_all_of_a_budget_and_not_one_more(
    tmp_path: Path, unit: str, amount: int
) -> None:
    with Daemon(tmp_path, engine={"slots": 8, "fake_step_micros": 500}, billing=PRICES) as daemon:
        daemon.add_tenant("acme")
        set_budget(daemon, unit, amount)
        refused = drain(daemon, 128, 60)
        rows, [(used, warned)] = daemon.rows(), uses(daemon)
        assert daemon.stop() == 0
    assert {answer.json()["error"]["code"] for answer in refused} == {"insufficient_quota"}
    assert all(answer.headers["x-should-retry"] == "false" for answer in refused)
    if unit == "tokens":
        assert used == sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    else:
        assert used == sum(row["input_nanos"] + row["output_nanos"] - row["waived_nanos"] for row in rows)
        assert not any(row["waived_nanos"] for row in rows), "nothing was given away"
    assert 0.995 * amount <= used <= amount
    assert warned == 100


def test_a_stream_that_reaches_its_budget_says_so_with_its_usage(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        set_budget(daemon, "tokens", 100)
        body = {"prompt": PROMPT, "max_tokens": 200, "ignore_eos": True, "stream": True}
        answer = daemon.post("/v1/completions", body, headers={"X-Tenant": "acme"})
        *_, last, done = [line for line in answer.text.splitlines() if line]
        [row] = daemon.rows()
        assert daemon.stop() == 0
    assert done == "data: [DONE]"
    event = httpx.Response(200, content=last.removeprefix("data: ")).json()
    assert event["choices"][0]["finish_reason"] == "length"
    assert event["x_tenantd"] == {"reason": "budget"}
    assert event["usage"]["total_tokens"] == 100 == row["prompt_tokens"] + row["completion_tokens"]
    assert row["state"] == "length"


def test_a_whole_answer_says_so_too_and_a_finished_one_does_not(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        set_budget(daemon, "tokens", 100)
        whole = daemon.complete("acme", PROMPT, max_tokens=10, ignore_eos=True).json()
        assert "x_tenantd" not in whole
        cut = daemon.complete("acme", PROMPT, max_tokens=200, ignore_eos=True).json()
        assert (cut["x_tenantd"], cut["choices"][0]["finish_reason"]) == ({"reason": "budget"}, "length")
        assert whole["usage"]["total_tokens"] + cut["usage"]["total_tokens"] == 100
        assert daemon.stop() == 0


def test_what_running_requests_hold_is_waited_for_and_used_when_they_give_it_back(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 200_000}) as daemon:
        daemon.add_tenant("acme")
        set_budget(daemon, "tokens", 100)
        running = daemon.stream("acme", PROMPT, max_tokens=79, ignore_eos=True).begun(60)
        busy = daemon.complete("acme", PROMPT, max_tokens=1)
        assert (busy.status_code, busy.json()["error"]["code"]) == (429, BUSY)
        assert int(busy.headers["retry-after"]) >= 1 and "x-should-retry" not in busy.headers
        assert daemon.post(f"/admin/v1/requests/{running.request_id}/cancel").status_code == 200
        running.join()
        [(used, _)] = uses(daemon)
        assert daemon.complete("acme", "x", max_tokens=1).status_code == (200 if used <= 97 else 429)
        assert daemon.stop() == 0


def test_choices_hold_their_prompt_once(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        prompt_tokens = daemon.complete("acme", PROMPT, max_tokens=1).json()["usage"]["prompt_tokens"]
        used = sum(row["prompt_tokens"] + row["completion_tokens"] for row in daemon.rows())
        set_budget(daemon, "tokens", used + prompt_tokens + 4 * 10)  # what was used before counts
        answer = daemon.complete("acme", PROMPT, max_tokens=10, n=4, ignore_eos=True)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["total_tokens"] == prompt_tokens + 40
        refused = daemon.complete("acme", PROMPT, max_tokens=1)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert uses(daemon) == [(used + prompt_tokens + 40, 100)]
        assert daemon.stop() == 0


def begun(daemon: Daemon, count: int, **body: Any) -> Sequence[Stream]:
    streams = [daemon.stream("acme", PROMPT, ignore_eos=True, **body) for _ in range(count)]
    return [stream.begun() for stream in streams]


def test_a_daemon_that_is_killed_counts_what_ran_and_the_next_goes_on_from_there(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 5_000}) as daemon:
        daemon.add_tenant("acme")
        set_budget(daemon, "tokens", 3_000)
        streams = begun(daemon, 4, max_tokens=2_000)
        wait_until(lambda: all(row["completion_tokens"] for row in daemon.rows()), "a checkpoint")
        daemon.kill()
        for stream in streams:
            stream.join()
        daemon.start()
        [(before, _)] = uses(daemon)
        assert before == sum(row["prompt_tokens"] + row["completion_tokens"] for row in daemon.rows()) > 0
        drain(daemon, 4, 500)
        [(used, _)] = uses(daemon)
        assert used == sum(row["prompt_tokens"] + row["completion_tokens"] for row in daemon.rows())
        assert 0.99 * 3_000 <= used <= 3_000
        assert daemon.stop() == 0


def test_a_budget_outlives_the_engine(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 2_000}) as daemon:
        daemon.add_tenant("acme")
        set_budget(daemon, "tokens", 2_000)
        streams = begun(daemon, 4, max_tokens=2_000)
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        for stream in streams:
            assert stream.join().finish_reason == "length"
        [(used, _)] = uses(daemon)
        assert used == 2_000 == sum(row["prompt_tokens"] + row["completion_tokens"] for row in daemon.rows())
        assert daemon.stop() == 0


def test_the_tightest_of_two_budgets_decides_and_each_counts_its_own(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        secret = daemon.add_tenant("acme")
        [key] = daemon.get("/admin/v1/tenants/acme/keys").json()["keys"]
        set_budget(daemon, "tokens", 300)
        set_budget(daemon, "tokens", 100, key["id"])
        headers = {"Authorization": f"Bearer {secret}"}
        body = {"prompt": PROMPT, "max_tokens": 500, "ignore_eos": True}
        first = daemon.post("/v1/completions", body, headers=headers).json()
        assert first["usage"]["total_tokens"] == 100
        refused = daemon.post("/v1/completions", body, headers=headers).json()["error"]
        assert refused["code"] == "insufficient_quota" and key["id"] in refused["message"]
        rest = daemon.complete("acme", PROMPT, max_tokens=500, ignore_eos=True).json()
        assert rest["usage"]["total_tokens"] == 200
        assert [used for used, _ in uses(daemon)] == [300, 100]
        assert daemon.stop() == 0


def test_a_budget_that_is_lowered_ends_what_runs_on_it_at_once_and_one_removed_lets_it_go_on(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 20_000}) as daemon:
        daemon.add_tenant("acme")
        daemon.add_tenant("globex")
        set_budget(daemon, "tokens", 100_000)
        set_budget(daemon, "tokens", 450, tenant_id=2)
        [ended] = begun(daemon, 1, max_tokens=3_000)
        set_budget(daemon, "tokens", 1)
        assert ended.join().finish_reason == "length" and ended.tokens < 3_000
        other = daemon.stream("globex", PROMPT, max_tokens=500, ignore_eos=True).begun()
        conn = ledger(daemon)
        conn.execute("PRAGMA foreign_keys = ON")
        conn.execute("DELETE FROM budgets WHERE tenant_id = 2")
        conn.close()
        os.kill(daemon.running.pid, signal.SIGHUP)
        assert other.join().tokens == 500
        assert daemon.stop() == 0


def test_engine_time_beyond_a_budget_is_waived(tmp_path: Path) -> None:
    billing = {**PRICES, "engine_hour_price": "3600"}
    with Daemon(tmp_path, engine={"fake_step_micros": 5_000}, billing=billing) as daemon:
        daemon.add_tenant("acme")
        set_budget(daemon, "engine", 300_000)
        [ended] = begun(daemon, 1, max_tokens=3_000)
        assert ended.join().finish_reason == "length"
        [row] = daemon.rows()
        assert daemon.stop() == 0
    assert row["engine_micros"] >= 300_000
    over_micros = row["engine_micros"] - 300_000
    assert row["waived_nanos"] == pytest.approx(over_micros * 1_000, abs=1_000)


def test_a_bill_never_passes_a_budget_of_money_whatever_engine_time_costs(tmp_path: Path) -> None:
    billing = {**PRICES, "engine_hour_price": "3600"}
    with Daemon(tmp_path, engine={"fake_step_micros": 5_000}, billing=billing) as daemon:
        daemon.add_tenant("acme")
        set_budget(daemon, "money", 500_000_000)
        for stream in begun(daemon, 4, max_tokens=3_000):
            assert stream.join().finish_reason == "length"
        rows, [(used, warned)] = daemon.rows(), uses(daemon)
        assert daemon.stop() == 0
    billed = [row["input_nanos"] + row["output_nanos"] + row["engine_nanos"] - row["waived_nanos"] for row in rows]
    assert sum(billed) == used <= 500_000_000
    assert used >= 0.9 * 500_000_000 and warned >= 50


@pytest.mark.parametrize("choices", [1, 3])
def test_what_gets_the_last_of_a_budget_ends_and_leaves_its_slot(tmp_path: Path, choices: int) -> None:
    """The prompt and one token of each choice are all that there is."""
    with Daemon(tmp_path, engine={"slots": 3}) as daemon:
        daemon.add_tenant("acme")
        daemon.add_tenant("other")
        set_budget(daemon, "tokens", len(PROMPT) + 1 + choices)  # and the BOS
        answer = daemon.complete("acme", PROMPT, max_tokens=25, ignore_eos=True, n=choices)
        assert answer.status_code == 200, answer.text
        assert [choice["finish_reason"] for choice in answer.json()["choices"]] == ["length"] * choices
        assert daemon.complete("other", PROMPT, n=3).status_code == 200
