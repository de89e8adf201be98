"""How exactly budgets hold: by how much they are overshot, and how much of them can be used.

    python benchmarks/budget.py [--streams 1,8,32,128] [--json FILE]

Clients stream from the engine without a model, on eight slots. Each sends its next request as soon as the last one has
ended, until it is refused because the budget is used up. Where running requests hold the rest, clients wait and try
again. Tokens and money are added up from the rows of the ledger, not from what the budgets say.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

from common import machine
from tenantctl.bench.launcher import OwnDaemon, own_daemon
from tenantctl.bench.observed import Outcome, Record
from tenantctl.bench.target import Target, send

SLOTS = 8
AMOUNTS = {"tokens": 100_000, "money": 300_000_000}
"""In tokens, and in nano-units of the currency: about as many tokens."""
PRICES = {"input_price_per_million": "1.5", "output_price_per_million": "3.25"}
MOST_PROMPT_TOKENS, MOST_OUTPUT_TOKENS = 64, 400
PAUSE_S = 0.02
_BILLED = "sum(input_nanos + cached_nanos + output_nanos + engine_nanos - free_nanos - waived_nanos)"


async def client(target: Target, number: int) -> tuple[int, int]:
    """Requests answered, and those cut short or turned away because others held the rest."""
    rng, answered, busy = random.Random(number), 0, 0
    while True:
        prompt = [rng.randrange(65, 91) for _ in range(rng.randrange(8, MOST_PROMPT_TOKENS))]
        body = {"prompt": prompt, "max_tokens": rng.randrange(16, MOST_OUTPUT_TOKENS), "ignore_eos": True}
        record = Record("bench", max_tokens=int(body["max_tokens"]))  # type: ignore[call-overload]
        await send(target, body, record)
        if record.outcome is Outcome.DONE:
            answered += 1
        elif record.outcome is Outcome.REFUSED and record.retry_after_s is not None:
            busy += 1
            await asyncio.sleep(PAUSE_S)
        elif record.outcome is Outcome.REFUSED:
            return answered, busy
        else:
            raise RuntimeError(f"a request failed: {record.message}")


def set_budget(daemon: OwnDaemon, path: Path, unit: str, amount: int) -> None:
    """For the only tenant, in the ledger's file; then the daemon reads it."""
    with sqlite3.connect(path, timeout=10) as conn:
        conn.execute(
            """INSERT INTO budgets (tenant_id, key_id, period, unit, amount, warn, set_micros)
            VALUES (1, '', 'monthly', ?, ?, '', 0)""",
            (unit, amount),
        )
    conn.close()
    os.kill(daemon.running.pid, signal.SIGHUP)
    log = daemon.folder / "log"
    daemon.wait_until(lambda: "tenants reloaded" in log.read_text())


def measure(unit: str, streams: int) -> dict[str, Any]:
    """One budget, used up by so many streams at a time."""
    engine = {"backend": "fake", "slots": SLOTS, "context_tokens": 4096}
    amount = AMOUNTS[unit]
    with own_daemon({"engine": engine, "billing": PRICES}, {"bench": {}}) as daemon:
        path = daemon.folder / "state" / "ledger.db"
        set_budget(daemon, path, unit, amount)
        target = Target("tenantd", path=daemon.socket, headers=(("x-tenant", "bench"),), pids=daemon.pids)
        began_s = time.monotonic()
        ends = asyncio.run(all_clients(target, streams))
        took_s = time.monotonic() - began_s
        with sqlite3.connect(path, timeout=10) as conn:
            query = f"SELECT sum(prompt_tokens + completion_tokens), {_BILLED}, sum(waived_nanos) FROM requests"
            tokens, nanos, waived_nanos = conn.execute(query).fetchone()
        conn.close()
    used = tokens if unit == "tokens" else nanos
    return {
        "unit": unit,
        "streams": streams,
        "amount": amount,
        "used": used,
        "overshoot": max(0, used - amount),
        "usable": round(min(used, amount) / amount, 6),
        "waived_nanos": waived_nanos,
        "answered": sum(answered for answered, _ in ends),
        "turned_away": sum(busy for _, busy in ends),
        "seconds": round(took_s, 2),
    }


async def all_clients(target: Target, streams: int) -> list[tuple[int, int]]:
    return await asyncio.gather(*[client(target, number) for number in range(streams)])


def main() -> None:
    parser = argparse.ArgumentParser(description="How exactly budgets hold")
    parser.add_argument("--streams", default="1,8,32,128", help="how many at a time, separated by commas")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    results = []
    for unit in AMOUNTS:
        for streams in map(int, arguments.streams.split(",")):
            result = measure(unit, streams)
            results.append(result)
            print(
                f"{unit:6}  {streams:3} streams  overshoot {result['overshoot']}  "
                f"usable {result['usable']:.3%}  {result['seconds']:.1f} s"
            )
    if arguments.json is not None:
        document = {"machine": machine(), "slots": SLOTS, "results": results}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
