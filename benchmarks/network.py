"""What clients on TCP notice of as many others that are slow, rude or broken: times to their first token.

    python benchmarks/network.py [--clients 200] [--seconds 20] [--rounds 3] [--json FILE]

Half of the clients send one short request after the other; the other half misbehave as in tests/attacks/hostile.py. The
first half is measured alone and beside the others in turn. The engine makes up text, with a fixed time for a step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from common import machine
from tenantctl.bench.launcher import OwnDaemon, own_daemon
from tenantctl.bench.observed import Outcome, Record
from tenantctl.bench.target import Target, send
from tenantctl.client import url

ROOT = Path(__file__).parent.parent
STEP_MICROS = 5000
THINK_S = 3.0
"""Mean pause of a client between its requests: 100 clients send about 30 requests a second."""
LIMITS = {"head_timeout_s": 5, "body_timeout_s": 5, "idle_timeout_s": 30, "write_timeout_s": 10}
BODY = {"prompt": "hello there", "max_tokens": 8, "ignore_eos": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    settings = {
        "server": {"listen": [{"address": "127.0.0.1:0", **LIMITS}]},
        "engine": {"backend": "fake", "slots": 64, "fake_step_micros": STEP_MICROS, "context_tokens": 4096},
    }
    times: dict[str, list[list[float]]] = {"alone": [], "beside": []}
    failed = {"alone": 0, "beside": 0}
    half = arguments.clients // 2
    with own_daemon(settings, {"good": {}, "rude": {}}) as daemon:
        host, port = _listens_at(daemon)
        keys = {name: _key(daemon, name) for name in ("good", "rude")}
        target = Target("tenantd", host=host, port=port).with_key(keys["good"])
        asyncio.run(_run(target, half, 1.0))  # warms everything up
        for _ in range(arguments.rounds):
            for name in times:
                others = (
                    _rude(host, port, arguments.clients - half, keys["rude"]) if name == "beside" else nullcontext()
                )
                with others:
                    found, lost = asyncio.run(_run(target, half, arguments.seconds))
                times[name].append(found)
                failed[name] += lost
    result = {name: _figures(half, times[name], failed[name]) for name in times}
    ratio = statistics.median(
        statistics.median(beside) / statistics.median(alone)
        for alone, beside in zip(times["alone"], times["beside"], strict=True)
    )
    for name, figures in result.items():
        print(
            f"{name:7} {figures['requests']:6} requests, {figures['failed']} failed, first token p50 "
            f"{figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms, longest {figures['longest_ms']:.0f} ms"
        )
    print(f"p50 beside / alone: {ratio:.2f} (target: at most 1.25; longest at most 2000 ms)")
    if arguments.json:
        everything = {"machine": machine(), **result, "ratio": ratio}
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n")


async def _run(target: Target, clients: int, seconds: float) -> tuple[list[float], int]:
    """Seconds to the first token of each request, and how many failed. Every client sends one at least."""
    ends_s = time.perf_counter() + seconds
    records: list[Record] = []

    async def client(number: int) -> None:
        dice = random.Random(number)
        await asyncio.sleep(dice.random() * THINK_S)
        while True:
            record = Record("good", max_tokens=BODY["max_tokens"])
            records.append(record)
            await send(target, BODY, record)
            await asyncio.sleep(dice.expovariate(1 / THINK_S))
            if time.perf_counter() >= ends_s:
                return

    await asyncio.gather(*(client(number) for number in range(clients)))
    lost = sum(record.outcome is not Outcome.DONE for record in records)
    return [record.ttft_s for record in records if record.ttft_s is not None], lost


@contextmanager
def _rude(host: str, port: int, count: int, key: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.attacks.hostile", host, str(port), str(count), key]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _listens_at(daemon: OwnDaemon) -> tuple[str, int]:
    found = re.search(r"listening on http://(.+):(\d+)$", daemon.log.read_text(), re.MULTILINE)
    assert found is not None
    return found[1], int(found[2])


def _key(daemon: OwnDaemon, tenant: str) -> str:
    with daemon.admin() as client:
        return str(client.post(url("tenants", tenant, "keys"), {})["secret"])


def _figures(clients: int, rounds: list[list[float]], failed: int) -> dict[str, Any]:
    """Medians of the rounds; `longest_ms` and the counts are over all of them."""

    def median_ms(part: float) -> float:
        return 1000 * statistics.median(sorted(times)[int(part * (len(times) - 1))] for times in rounds)

    return {
        "clients": clients,
        "requests": sum(map(len, rounds)) + failed,
        "failed": failed,
        "p50_ms": median_ms(0.5),
        "p99_ms": median_ms(0.99),
        "longest_ms": 1000 * max(map(max, rounds)),
    }


if __name__ == "__main__":
    main()
