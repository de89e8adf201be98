"""Budgets hold with a real model, and while its engine is killed again and again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.process.test_budgets import PRICES, set_budget, uses
from tests.support.daemon import Daemon, wait_until
from tests.support.tiny_gguf import write_tiny_gguf

AMOUNTS = {"tokens": 1_200, "money": 3_500_000}
CLIENTS = 6
KILLS = 4
TOKEN_NANOS = 3_250


@pytest.mark.timeout(240)
@pytest.mark.parametrize("unit", AMOUNTS)
def test_a_budget_is_used_up_to_the_last_token_though_the_engine_is_killed(tmp_path: Path, unit: str) -> None:
    model = tmp_path / "tiny.gguf"
    write_tiny_gguf(model)
    engine = {"backend": "llama", "slots": 4, "context_tokens": 2048, "restart_delay_s": 0.01}
    with Daemon(tmp_path, engine=engine, model={"path": str(model)}, billing=PRICES) as daemon:
        daemon.add_tenant("acme")
        set_budget(daemon, unit, AMOUNTS[unit])
        streams = [daemon.stream("acme", "some words", max_tokens=400, ignore_eos=True) for _ in range(CLIENTS)]
        killed = set()
        for _ in range(KILLS):
            wait_until(lambda: daemon.engine_pid() not in (*killed, None), "an engine")
            pid = daemon.engine_pid()
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        for stream in streams:
            stream.join()
        rows, [(used, _)] = daemon.rows(), uses(daemon)
        assert daemon.stop() == 0
    assert [stream.status for stream in streams] == [200] * CLIENTS
    assert {row["state"] for row in rows} == {"length"} and not any(row["waived_nanos"] for row in rows)
    if unit == "tokens":
        assert used == sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows) == AMOUNTS[unit]
    else:
        assert used == sum(row["input_nanos"] + row["output_nanos"] for row in rows)
        assert AMOUNTS[unit] - TOKEN_NANOS < used <= AMOUNTS[unit]
