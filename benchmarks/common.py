"""What the benchmarks share: servers as targets of the load generator, its client, and what the machine is.

The same client measures every target, so that its own cost is the same for all of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenantctl.bench.launcher import Settings, own_daemon, own_llama_server
from tenantctl.bench.observed import Outcome, Record
from tenantctl.bench.target import Target, send


async def stream(target: Target, body: dict[str, Any]) -> Record:
    """POST `body` as a streamed completion, on a connection of its own. Raises RuntimeError unless it is complete."""
    record = Record("bench", max_tokens=body["max_tokens"])
    await send(target, body, record)
    if record.outcome is not Outcome.DONE:
        raise RuntimeError(f"{target.name}: {record.message}")
    return record


@contextmanager
def tenantd(
    settings: Settings, tenants: Mapping[str, Mapping[str, Any]], checkout: Path | None = None
) -> Iterator[Target]:
    """A daemon with these tenants; requests go to the first unless a header says so. With a `checkout` it runs that
    code, with the packages installed here."""
    with own_daemon(settings, tenants, checkout=checkout) as daemon:
        yield Target("tenantd", path=daemon.socket, headers=(("x-tenant", next(iter(tenants))),), pids=daemon.pids)


@contextmanager
def llama_server(
    binary: Path, model: Path, slots: int, context_tokens: int, threads: int, *, caches: bool = False
) -> Iterator[Target]:
    """llama-server with the same slots, context and threads; its prompt caches off, unless they are wanted."""
    given = {"slots": slots, "context_tokens": context_tokens, "threads": threads}
    with own_llama_server(binary, model, **given, caches=caches) as (server, port):
        yield Target("llama-server", port=port, extra=(("cache_prompt", caches),), pids=server.pids)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown")
    return {"cpu": model, "cores": os.cpu_count(), "python": sys.version.split()[0]}


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()
