"""Everything around the model: how many tokens a second reach streaming clients when the engine answers at once.

    python benchmarks/overhead.py [--clients 32] [--rounds 5] [--json FILE]

The engine without a model generates as fast as it can; 32 clients on the Unix socket stream. The clients are a process
of their own and share the machine, so the figure is for daemon, engine process and clients together. Where the time
goes is told by the CPU seconds of each process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import psutil

from client import machine, stream, tenantd
from tenantctl.benching.client import Target

PROMPT_TOKENS = 16
OUTPUT_TOKENS = 3000


async def one_round(target: Target, clients: int) -> float:
    """Tokens per second over all clients, counted as they arrive."""
    body = {"prompt": list(range(65, 65 + PROMPT_TOKENS)), "max_tokens": OUTPUT_TOKENS, "ignore_eos": True}
    results = await asyncio.gather(*[stream(target, body) for _ in range(clients)])
    tokens = sum(result.output_tokens for result in results)
    assert tokens == clients * OUTPUT_TOKENS, f"{tokens} tokens arrived"
    return tokens / (max(r.done_s for r in results) - min(r.sent_s for r in results))


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    engine = {"backend": "fake", "slots": arguments.clients, "context_tokens": 4096}
    with tenantd({"engine": engine}, {"bench": {}}) as target:
        asyncio.run(one_round(target, arguments.clients))  # warm up
        daemon, engine_pid = target.pids[:2]
        before = cpu_seconds(daemon), cpu_seconds(engine_pid), time.process_time()
        started_s = time.perf_counter()
        rates = [asyncio.run(one_round(target, arguments.clients)) for _ in range(arguments.rounds)]
        wall_s = time.perf_counter() - started_s
        after = cpu_seconds(daemon), cpu_seconds(engine_pid), time.process_time()
    tokens = arguments.rounds * arguments.clients * OUTPUT_TOKENS
    cpu = {name: b - a for name, a, b in zip(("daemon", "engine", "clients"), before, after, strict=True)}
    results: dict[str, Any] = {
        "machine": machine(),
        "clients": arguments.clients,
        "tokens_per_s": statistics.median(rates),
        "rounds": rates,
        "cpu_micros_per_token": {name: seconds / tokens * 1e6 for name, seconds in cpu.items()},
        "cores_used": sum(cpu.values()) / wall_s,
    }
    print(f"{statistics.median(rates):,.0f} tokens/s to {arguments.clients} clients (rounds: ", end="")
    print(", ".join(f"{rate:,.0f}" for rate in rates) + ")")
    for name, micros in results["cpu_micros_per_token"].items():
        print(f"  {name:8} {micros:6.2f} µs of CPU a token")
    print(f"  {results['cores_used']:.2f} cores used")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
