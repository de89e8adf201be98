"""What the audit trail costs: short requests settled a second with it on and off; and how fast it verifies.

    python benchmarks/audit.py [--clients 16] [--requests 600] [--rounds 9] [--entries 300000] [--json FILE]

Two daemons run all the time, one with the trail and one without, on an engine without a model; rounds go to one and the
other in turn, in an order that changes. The clients are a process of their own and share the machine. Where something
else disturbs the clock, the CPU time of all for a request tells the same ratio. Verification is measured on a trail
like theirs, in a file, in CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from common import machine, stream, tenantd
from tenantctl.bench.target import Target
from tenantd.config import BillingConfig
from tenantd.ledger.audit import Entry, append
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.verify import verify_file

PROMPT_TOKENS = 16
OUTPUT_TOKENS = 4
BATCH_ENTRIES = 1000


async def one_round(target: Target, clients: int, requests: int) -> float:
    """Requests a second: every client sends one after the other, each on a connection of its own, until all are done.
    An answer ends when its row is settled."""
    body = {"prompt": list(range(65, 65 + PROMPT_TOKENS)), "max_tokens": OUTPUT_TOKENS, "ignore_eos": True}
    left = iter(range(requests))

    async def client() -> None:
        for _ in left:
            await stream(target, body)

    began_s = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(clients)])
    return requests / (time.perf_counter() - began_s)


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def measure(target: Target, clients: int, requests: int) -> dict[str, float]:
    """One round: requests a second, and CPU microseconds for each: of the daemon, and of it, engine and clients."""
    daemon, engine = target.pids[:2]
    before = cpu_seconds(daemon), cpu_seconds(engine), time.process_time()
    rate = asyncio.run(one_round(target, clients, requests))
    after = cpu_seconds(daemon), cpu_seconds(engine), time.process_time()
    micros = [(b - a) / requests * 1e6 for a, b in zip(before, after, strict=True)]
    return {"requests_per_s": rate, "daemon_micros": micros[0], "all_micros": sum(micros)}


def compare(clients: int, requests: int, rounds: int) -> list[dict[str, Any]]:
    """Rounds with the trail on and off, side by side."""
    engine = {"backend": "fake", "slots": clients, "context_tokens": 1024}
    with ExitStack() as stack:
        targets = {
            name: stack.enter_context(tenantd({"engine": engine, "security": {"audit": value}}, {"bench": {}}))
            for name, value in (("on", "required"), ("off", "off"))
        }
        for target in targets.values():
            measure(target, clients, requests)
        results = []
        for number in range(rounds):
            names = ("on", "off") if number % 2 else ("off", "on")
            figures: dict[str, Any] = {name: measure(targets[name], clients, requests) for name in names}
            figures["ratio"] = figures["on"]["requests_per_s"] / figures["off"]["requests_per_s"]
            figures["cpu_ratio"] = figures["off"]["all_micros"] / figures["on"]["all_micros"]
            results.append(figures)
            on, off = figures["on"], figures["off"]
            print(
                f"round {number + 1}: {on['requests_per_s']:.0f} on, {off['requests_per_s']:.0f} off, ratio "
                f"{figures['ratio']:.3f}, by CPU time {figures['cpu_ratio']:.3f}; daemon "
                f"{on['daemon_micros']:.0f} and {off['daemon_micros']:.0f} µs a request",
                flush=True,
            )
        return results


def entries(first: int) -> list[Entry]:
    """Entries like those of a request that was answered."""
    return [
        Entry(
            at_micros=1_790_000_000_000_000 + number,
            event=("entered", "response")[number % 2],
            tenant_id=number % 7,
            tenant="bench",
            request_id=f"req_{number // 2:032x}",
            detail={"hmac": f"{number:064x}", "length": number % 4096, "n": 1, "temperature": 0.7, "uid": 1000},
        )
        for number in range(first, first + BATCH_ENTRIES)
    ]


async def verification(count: int) -> dict[str, float]:
    """Entries verified for each second of CPU time, and of the clock."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(Path(folder) / "ledger.db", BillingConfig(), lambda: 0)
        for first in range(0, count, BATCH_ENTRIES):
            await ledger.write(lambda conn, first=first: append(conn, entries(first)))
        await ledger.close()
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        verdict = verify_file(ledger.path)
        clock_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
        assert verdict.finding is None and verdict.entries == count + 1, verdict
        return {"entries": count, "entries_per_cpu_s": count / cpu_s, "entries_per_s": count / clock_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=600, help="in each round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--entries", type=int, default=300_000)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    rounds = compare(arguments.clients, arguments.requests, arguments.rounds)
    results: dict[str, Any] = {
        "machine": {**machine(), "load_before": load},
        "clients": arguments.clients,
        "requests": arguments.requests,
        "rounds": rounds,
        "ratio": statistics.median(figures["ratio"] for figures in rounds),
        "cpu_ratio": statistics.median(figures["cpu_ratio"] for figures in rounds),
        "verify": asyncio.run(verification(arguments.entries)),
    }
    for name in ("on", "off"):
        results[name] = {
            key: statistics.median(figures[name][key] for figures in rounds)
            for key in ("requests_per_s", "daemon_micros", "all_micros")
        }
    on, off = results["on"], results["off"]
    print(
        f"requests settled a second, medians: {on['requests_per_s']:.0f} with the trail, {off['requests_per_s']:.0f} "
        f"without; ratio {results['ratio']:.3f} (median of the rounds), by CPU time of daemon, engine and clients "
        f"{results['cpu_ratio']:.3f}; CPU time of the daemon a request: {on['daemon_micros']:.0f} and "
        f"{off['daemon_micros']:.0f} µs"
    )
    print(f"{results['verify']['entries_per_cpu_s']:,.0f} entries verified a second on one core")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
