"""What is metered of a request besides tokens and engine time, on a real daemon."""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon, wait_until

STEP_MICROS = 4000
LONG = {"max_tokens": 300, "ignore_eos": True}
LONGER = {"max_tokens": 1000, "ignore_eos": True}


def requests(daemon: Daemon, tenant: str) -> list[dict[str, Any]]:
    """Of a tenant, the oldest first, once all have ended."""

    def all_ended() -> list[dict[str, Any]]:
        found = daemon.get(f"/admin/v1/requests?tenant={tenant}").json()["requests"]
        return found[::-1] if all(row["state"] != "running" for row in found) else []

    rows: list[dict[str, Any]] = wait_until(all_ended, "their ends")
    return rows


def most_held(row: dict[str, Any]) -> int:
    """What it would have held if all its tokens had been in a slot since it had one."""
    return int(
        (row["prompt_length_tokens"] + row["completion_tokens"]) * (row["duration_micros"] - row["queue_micros"])
    )


def test_who_waits_for_a_slot_waited_and_held_nothing_meanwhile(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": 5 * STEP_MICROS}) as daemon:
        daemon.add_tenant("acme")
        first = daemon.stream("acme", **LONG).begun()
        second = daemon.stream("acme", **LONG)
        first.join()
        second.join()
        one, other = requests(daemon, "acme")
    for row in (one, other):
        assert row["queue_micros"] + row["prefill_micros"] == row["first_token_micros"] < row["duration_micros"]
        assert row["prefill_micros"] >= 5 * STEP_MICROS, (
            "it got its slot before the step in which it got its first token"
        )
        assert most_held(row) / 3 < row["kv_token_micros"] < most_held(row)
        assert row["swaps"] == 0 and row["cached_tokens"] == 0
    assert one["queue_micros"] < STEP_MICROS * 700 < STEP_MICROS * 750 < other["queue_micros"], "half the first's time"


def test_who_gives_its_slot_up_is_counted_and_holds_nothing_while_it_is_paused(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": STEP_MICROS}) as daemon:
        for tenant in ("noisy", "quiet"):
            daemon.add_tenant(tenant)
        noisy = daemon.stream("noisy", **LONGER).begun(40)
        daemon.stream("quiet", **LONGER).join()
        noisy.join()
        rows = [*requests(daemon, "noisy"), *requests(daemon, "quiet")]
        status = daemon.status()
        assert sum(row["swaps"] for row in rows) >= status["swaps"] + status["recomputes"] > 0
        held = sum(row["kv_token_micros"] for row in rows)
        paused = sum(most_held(row) for row in rows) - held
        assert paused > held / 2, "one of two was always paused"


def test_what_was_held_survives_the_engine_but_for_a_second(tmp_path: Path) -> None:
    seen: list[tuple[float, int]] = []  # when there were how many tokens
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": STEP_MICROS}) as daemon:
        daemon.add_tenant("acme")
        shaken = daemon.stream("acme", max_tokens=1750, ignore_eos=True)

        def has_most() -> bool:
            seen.append((time.monotonic(), shaken.tokens))
            return shaken.tokens >= 1500

        wait_until(has_most, "1500 tokens")
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        assert shaken.join().done
        [row] = requests(daemon, "acme")
        metrics = daemon.get("/metrics").text
    held = sum(tokens * (later_s - s) for (s, tokens), (later_s, _) in pairwise(seen))
    assert row["kv_token_micros"] > 0.8 * (held - 1500 * 1.0) * 1e6, "in the second engine alone it was less"
    assert row["kv_token_micros"] < most_held(row)
    [line] = [line for line in metrics.splitlines() if line.startswith('tenantd_kv_token_seconds_total{tenant="acme"}')]
    assert abs(float(line.split()[-1]) - row["kv_token_micros"] / 1e6) < 0.001
