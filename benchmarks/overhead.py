"""Everything around the model: how many tokens a second reach streaming clients when the engine answers at once.

    python benchmarks/overhead.py [--clients 32] [--rounds 5] [--before CHECKOUT] [--json FILE]

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

from common import machine, stream, tenantd
from tenantctl.bench.target import Target

ROOT = Path(__file__).parent.parent
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


def measure(clients: int, checkout: Path | None) -> dict[str, float]:
    """One daemon, warmed up and measured once: tokens per second, and CPU time a token by process."""
    engine = {"backend": "fake", "slots": clients, "context_tokens": 4096}
    with tenantd({"engine": engine}, {"bench": {}}, checkout) as target:
        asyncio.run(one_round(target, clients))
        daemon, engine_pid = target.pids[:2]
        before = cpu_seconds(daemon), cpu_seconds(engine_pid), time.process_time()
        tokens_per_s = asyncio.run(one_round(target, clients))
        after = cpu_seconds(daemon), cpu_seconds(engine_pid), time.process_time()
    micros = [(b - a) / (clients * OUTPUT_TOKENS) * 1e6 for a, b in zip(before, after, strict=True)]
    return {"tokens_per_s": tokens_per_s, **dict(zip(("daemon", "engine", "clients"), micros, strict=True))}


def server_micros(figures: dict[str, float]) -> float:
    """CPU time a token of daemon and engine process together."""
    return figures["daemon"] + figures["engine"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout to compare with, in turn with this one")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    rounds: list[dict[str, Any]] = []
    for number in range(arguments.rounds):
        figures: dict[str, Any] = {"now": measure(arguments.clients, ROOT)}
        if arguments.before:
            figures["before"] = measure(arguments.clients, arguments.before.resolve())
            figures["ratio"] = server_micros(figures["now"]) / server_micros(figures["before"])
        rounds.append(figures)
        print(f"round {number + 1}: {_line(figures)}", flush=True)
    results: dict[str, Any] = {"machine": machine(), "streams": arguments.clients, "rounds": rounds}
    for name in ("tokens_per_s", "daemon", "engine", "clients"):
        results[name] = statistics.median(figures["now"][name] for figures in rounds)
    print(f"{results['tokens_per_s']:,.0f} tokens/s to {arguments.clients} clients, median; CPU time a token: ", end="")
    print(", ".join(f"{name} {results[name]:.2f} µs" for name in ("daemon", "engine", "clients")))
    if arguments.before:
        results["ratio"] = statistics.median(figures["ratio"] for figures in rounds)
        print(f"CPU time a token of daemon and engine, now to before: {results['ratio']:.3f} (median of the rounds)")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def _line(figures: dict[str, Any]) -> str:
    parts = [
        f"{name} {server_micros(figures[name]):.2f} µs, {figures[name]['tokens_per_s']:,.0f} tokens/s"
        for name in ("now", "before")
        if name in figures
    ]
    return "; ".join([*parts, f"ratio {figures['ratio']:.3f}"] if "ratio" in figures else parts)


if __name__ == "__main__":
    main()
