"""Bulk on the way to the engine: long prompts, many at once, with the most that sampling settings may hold."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.attacks.kit import Watch, unharmed
from tests.support.daemon import Daemon, wait_until

PROMPTS, CHOICES, SLOTS = 32, 8, 4
MANY_ROWS = 2 * PROMPTS * CHOICES
CONTEXT_TOKENS = 65_536
LARGEST = json.dumps(
    {
        "prompt": [f"{number:02}" + "x" * 60_000 for number in range(PROMPTS)],
        "n": CHOICES,
        "max_tokens": 4,
        "logit_bias": {f"{number:09}": -1.5 for number in range(258)},
    }
)
PATIENCE_S = 5.0
"""The attacker hangs up and comes again, so there is always something new on the way."""


def attack(daemon: Daemon, key: str, watch: Watch) -> None:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with daemon.client(timeout_s=PATIENCE_S) as client:
        while watch.goes_on or len(daemon.rows()) <= MANY_ROWS:
            try:
                client.post("/v1/completions", content=LARGEST, headers=headers)
            except httpx.TimeoutException:
                continue


def test_the_largest_requests_in_a_loop_do_not_stand_before_a_neighbours(tmp_path: Path) -> None:
    engine = {
        "slots": SLOTS,
        "context_tokens": CONTEXT_TOKENS,
        "fake_step_micros": 10_000,
        "fake_token_micros": 20,
    }
    with Daemon(tmp_path, engine=engine) as daemon:
        key = daemon.add_tenant("bulk", limits={"max_queued": PROMPTS * CHOICES * 4})
        with unharmed(daemon) as watch:
            attack(daemon, key, watch)
        wait_until(lambda: daemon.status()["waiting"] == 0, "what was abandoned to be gone")
        assert len(daemon.rows()) > MANY_ROWS, "the attack went on"
