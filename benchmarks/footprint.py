"""Memory over many requests with the cache of prompts on: resident memory of both processes, and bytes of the cache.

    python benchmarks/footprint.py [--model GGUF] [--requests 10000] [--cache-bytes N] [--json FILE]

Eight clients of four tenants send prompts that grow turn by turn, more than the cache can keep, to the engine without a
model or to a model. The cache is looked at again and again, resident memory after every tenth of the requests. Fails if
the cache is ever over its budget or at the end too little of it is used, or if resident memory grew too much since the
first fifth of the requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from common import machine, stream, tenantd
from tenantctl.bench.target import Target
from tenantctl.client import Client, url

TENANTS = ("one", "two", "three", "four")
CLIENTS = 8
SLOTS = 4
CONTEXT_TOKENS = 1024
MIB = 1 << 20
LOOKS = 500
"""How often the cache is looked at."""


async def client(target: Target, number: int, is_next: Callable[[], bool]) -> None:
    """Chats, one after another, while there are requests left."""
    rng, prompt = random.Random(number), [1]
    while is_next():
        if len(prompt) > CONTEXT_TOKENS - 300:
            prompt = [1]
        prompt += [rng.randrange(65, 91) for _ in range(rng.randrange(20, 200))]
        await stream(target, {"prompt": prompt, "max_tokens": rng.randrange(1, 17), "ignore_eos": True})


class Watch:
    """Looks at the daemon while requests are counted."""

    def __init__(self, target: Target, requests: int) -> None:
        self.rows: list[dict[str, Any]] = []
        self.most_cached = 0
        self.cached = 0
        self._target = target
        self._requests = requests
        self._begun = 0
        self._processes = [psutil.Process(pid) for pid in target.pids[:2]]

    def is_next(self) -> bool:
        """Whether one more request may begin; counts it."""
        if self._begun >= self._requests:
            return False
        self._begun += 1
        return True

    async def watch(self) -> None:
        """Until it is cancelled."""
        looks = tenths = 0
        while True:
            if self._begun >= looks * self._requests / LOOKS:
                looks += 1
                await asyncio.to_thread(self._look)
            if self._begun >= tenths * self._requests / 10:
                tenths += 1
                self.note()
            await asyncio.sleep(0.01)

    def _look(self) -> None:
        assert self._target.path is not None
        with Client(self._target.path) as admin:
            self.cached = int(admin.get(url("status"))["cache"]["used_bytes"])
        self.most_cached = max(self.most_cached, self.cached)

    def note(self) -> None:
        """Resident memory now."""
        daemon, engine = (process.memory_info().rss for process in self._processes)
        self.rows.append({"requests": self._begun, "daemon": daemon, "engine": engine, "cached": self.cached})
        print(
            f"{self._begun:7,} requests: daemon {daemon / MIB:6.1f} MiB, engine {engine / MIB:6.1f} MiB, cache "
            f"{self.cached / MIB:.2f} MiB",
            flush=True,
        )

    def growth(self, process: str) -> float:
        """Of resident memory since a fifth of the requests."""
        first = next(row for row in self.rows if row["requests"] >= self._requests / 5)
        return float(self.rows[-1][process] / first[process] - 1)


async def load(target: Target, watch: Watch) -> None:
    watching = asyncio.create_task(watch.watch())
    targets = [target.acting_for(TENANTS[number % len(TENANTS)]) for number in range(CLIENTS)]
    await asyncio.gather(*(client(its, number, watch.is_next) for number, its in enumerate(targets)))
    watching.cancel()
    await asyncio.sleep(1.5)  # an idle engine has told what it holds
    await asyncio.to_thread(watch._look)
    watch.note()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="GGUF", help="default: the engine without a model")
    parser.add_argument("--requests", type=int, default=10_000, metavar="N")
    parser.add_argument("--cache-bytes", type=int, metavar="N", help="default: 16 MiB with a model, else 1 MiB")
    parser.add_argument("--most-growth", type=float, default=0.05, metavar="PART", help="of resident memory")
    parser.add_argument("--least-used", type=float, default=0.95, metavar="PART", help="of the cache's budget")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    arguments = parser.parse_args()
    budget = arguments.cache_bytes or (16 * MIB if arguments.model else MIB)
    settings: dict[str, Any] = {
        "engine": {"slots": SLOTS, "context_tokens": CONTEXT_TOKENS, "backend": "llama" if arguments.model else "fake"},
        "cache": {"host_bytes": budget},
    }
    settings |= {"model": {"path": str(arguments.model)}} if arguments.model else {}
    began_s = time.monotonic()
    with tenantd(settings, {name: {"cache": "on"} for name in TENANTS}) as target:
        watch = Watch(target, arguments.requests)
        asyncio.run(load(target, watch))
    growth = {process: watch.growth(process) for process in ("daemon", "engine")}
    figures = {
        "machine": machine(),
        "model": arguments.model.name if arguments.model else None,
        "seconds": time.monotonic() - began_s,
        "budget": budget,
        "most": watch.most_cached / budget,
        "last": watch.cached / budget,
        "growth": growth,
        "rows": watch.rows,
    }
    print(
        f"cache: at most {figures['most']:.1%} of its budget, {figures['last']:.1%} at the end; resident memory since "
        f"a fifth of the requests: daemon {growth['daemon']:+.1%}, engine {growth['engine']:+.1%}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    is_flat = max(growth.values()) <= arguments.most_growth
    return 0 if is_flat and arguments.least_used * budget <= watch.cached <= watch.most_cached <= budget else 1


if __name__ == "__main__":
    raise SystemExit(main())
