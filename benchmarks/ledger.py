"""A large ledger: how fast reports, start and settling are, and whether a request waits for reports.

    python benchmarks/ledger.py [--rows 1000000] [--rounds 200] [--folder DIR] [--json FILE]

Rows are made by SQL from a seed: 20 tenants over 90 days, with sums of hours as an upgrade makes them. The folder needs
about a kilobyte for each row, and is removed at the end. First tokens are those of requests with and without reports
that run all the time, in turn, on an engine without a model that takes the same time for each step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sqlite3
import statistics
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil

from common import machine, stream
from tenantctl.bench.launcher import OwnDaemon
from tenantctl.bench.target import Target
from tenantd.config import BillingConfig
from tenantd.domain import FinishReason, RequestKind, Usage
from tenantd.ledger.accounted import add_up_rows
from tenantd.ledger.ledger import Admitted, Ledger, Settlement
from tenantd.ledger.reports import last_minute, recent_usage

TENANTS = 20
DAYS = 90
DAY_MICROS = 86_400_000_000
STEP_MICROS = 5_000
ENGINE = {"backend": "fake", "slots": 8, "fake_step_micros": STEP_MICROS}
IDLE_S = 2.0
HALF_LIFE_S = 60.0
EXAMPLE = 12_345
"""The number of the request that is looked for by the end of its id."""
MOST_S = {"invoice": 1.0, "stats": 1.0, "compare": 1.0, "start": 2.0}
"""What is aimed at, with ten million rows."""
MAKE = """WITH RECURSIVE row (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM row WHERE n + 1 < :rows),
    made AS (SELECT n, (n * 2654435761 + :seed) % 4294967296 AS a, (n * 40503 + 12345 * :seed) % 65536 AS b FROM row)
    INSERT INTO requests (id, tenant, tenant_id, kind, model, state, created_micros, prompt_length_tokens, max_tokens,
    prompt_tokens, completion_tokens, engine_micros, first_token_micros, duration_micros, price_id, input_nanos,
    output_nanos, engine_nanos, ended_micros, cause)
    SELECT printf('req_%032x', n), printf('tenant-%02d', 1 + a % 20), 1 + a % 20, 'chat', 'model.gguf',
    CASE WHEN b % 50 = 0 THEN 'failed' WHEN b % 7 = 0 THEN 'length' ELSE 'stop' END,
    :since + n * :gap, 10 + b % 3000, 512, 10 + b % 3000, 1 + a % 500, 2000 * (1 + a % 500), 20000 + b * 7,
    20000 + b * 7 + 5000 * (a % 500), 1, (2 * (10 + b % 3000) * 100000000 + 1000000) / 2000000,
    (2 * (1 + a % 500) * 400000000 + 1000000) / 2000000, 0, :since + n * :gap + 20000 + b * 7 + 5000 * (a % 500),
    CASE WHEN b % 50 = 0 THEN 'engine_failure' ELSE '' END FROM made"""


def make(path: Path, rows: int) -> float:
    """Seconds it took."""
    began_s, now_micros = time.perf_counter(), time.time_ns() // 1000
    since = now_micros - DAYS * DAY_MICROS
    asyncio.run(Ledger.open(path, BillingConfig(), lambda: since).close())
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA synchronous = OFF")
        conn.execute("PRAGMA cache_size = -262144")
        conn.execute("BEGIN")
        for number in range(1, TENANTS + 1):
            conn.execute(
                """INSERT INTO tenants (id, name, weight, priority, state, uids, limits, created_micros, audit_key)
                VALUES (?, ?, 1, 'standard', 'active', '[]', '{}', ?, randomblob(32))""",
                (number, f"tenant-{number:02}", since),
            )
        gap = (DAYS * DAY_MICROS - 60_000_000) // rows
        conn.execute(MAKE, {"rows": rows, "seed": 7, "since": since, "gap": gap})
        add_up_rows(conn)
        conn.execute("COMMIT")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return time.perf_counter() - began_s


async def open_and_read(path: Path) -> float:
    """Seconds that the ledger takes of a start: it is opened, and what tenants used lately is read."""
    began_s, now = time.perf_counter(), time.time_ns() // 1000
    ledger = Ledger.open(path, BillingConfig(), lambda: now)
    await ledger.read(lambda conn: recent_usage(conn, now, 10 * HALF_LIFE_S))
    await ledger.read(lambda conn: last_minute(conn, now))
    taken_s = time.perf_counter() - began_s
    await ledger.close()
    return taken_s


async def settle_rate(path: Path, count: int) -> float:
    """Rows admitted and settled a second by 64 at a time, each on disk."""
    ledger = Ledger.open(path, BillingConfig(), lambda: time.time_ns() // 1000)
    numbers = iter(range(count))

    async def client() -> None:
        for n in numbers:
            row = Admitted(
                id=f"settled_{n}",
                tenant="tenant-01",
                tenant_id=1,
                kind=RequestKind.CHAT,
                model="model.gguf",
                created_micros=time.time_ns() // 1000,
                prompt_length_tokens=10,
                max_tokens=10,
            )
            await ledger.admit(row)
            usage = Usage(prompt_tokens=10, completion_tokens=10, engine_micros=1000)
            await ledger.settle(Settlement(id=row.id, state=FinishReason.STOP, usage=usage, duration_micros=5000))

    began_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(64)))
    rate = count / (time.perf_counter() - began_s)
    await ledger.close()
    return rate


def reports(client: httpx.Client, process: psutil.Process) -> dict[str, dict[str, float]]:
    """Seconds of each, elapsed and of the daemon's CPU time: medians of five."""
    month = time.strftime("%Y-%m", time.gmtime(time.time() - 30 * 86400))
    until = time.time_ns() // 1000
    of_month = f"since={until - 30 * DAY_MICROS + 1234567}&until={until}"
    paths = {
        "invoice": f"/admin/v1/invoices/{month}",
        "stats": f"/admin/v1/stats?since={until - DAY_MICROS // 24}&until={until}",
        "stats_tenant": f"/admin/v1/stats?since={until - DAY_MICROS // 24}&until={until}&tenant=tenant-03",
        "compare": f"/admin/v1/stats?since={until - DAY_MICROS}&until={until}",
        "compare_month": f"/admin/v1/stats?{of_month}",
        "usage_month": f"/admin/v1/usage?{of_month}",
        "requests": "/admin/v1/requests?limit=100&tenant=tenant-03",
        "requests_past": f"/admin/v1/requests?limit=100&until={until - 59 * DAY_MICROS}",
        "requests_failed": "/admin/v1/requests?limit=100&state=failed&tenant=tenant-03",
        "requests_none": "/admin/v1/requests?limit=100&state=interrupted",
        "request_by_end": f"/admin/v1/requests/{EXAMPLE:08x}",
    }
    taken = {}
    for name, path in paths.items():
        times = []
        for _ in range(5):
            began_s, began_cpu_s = time.perf_counter(), cpu_s(process)
            client.get(path).raise_for_status()
            times.append((time.perf_counter() - began_s, cpu_s(process) - began_cpu_s))
        elapsed, used = zip(*times, strict=True)
        taken[name] = {"elapsed_s": statistics.median(elapsed), "cpu_s": statistics.median(used)}
    return taken


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def started(daemon: OwnDaemon) -> dict[str, float]:
    """Seconds until it is ready."""
    began_s = time.perf_counter()
    daemon.launch(None)
    daemon.wait_ready(300)
    return {"elapsed_s": time.perf_counter() - began_s, "cpu_s": cpu_s(psutil.Process(daemon.running.pid))}


def starts(folder: Path) -> dict[str, dict[str, float]]:
    """Of the daemon with this ledger and with an empty one, in turn: medians of three."""
    found: dict[str, list[dict[str, float]]] = {"large": [], "empty": []}
    for _ in range(3):
        with tempfile.TemporaryDirectory(dir=folder) as other:
            for name, place in (("large", folder), ("empty", Path(other))):
                daemon = OwnDaemon(place, {"engine": ENGINE})
                try:
                    found[name].append(started(daemon))
                finally:
                    daemon.kill()
    return {
        name: {what: statistics.median(each[what] for each in all_of) for what in all_of[0]}
        for name, all_of in found.items()
    }


def wait_until_idle(process: psutil.Process) -> float:
    """Seconds until a daemon that has just started has checked its ledger for damage, which it does beside its work."""
    began_s = time.perf_counter()
    before = -1.0
    while (now := cpu_s(process)) - before > 0.02 * IDLE_S:
        before = now
        time.sleep(IDLE_S)
    return time.perf_counter() - began_s


def first_tokens(daemon: OwnDaemon, rounds: int) -> dict[str, Any]:
    """Milliseconds to the first token, alone and beside reports, in turn."""
    target = Target("tenantd", path=daemon.socket, headers=(("x-tenant", "tenant-01"),), pids=())
    body = {"prompt": "hello", "max_tokens": 2, "ignore_eos": True}
    wanted, is_over = threading.Event(), threading.Event()

    def ask_reports() -> None:
        with own_client(daemon) as client:
            while not is_over.is_set():
                if wanted.wait(0.1):
                    reports(client, psutil.Process(daemon.running.pid))

    asker = threading.Thread(target=ask_reports)
    asker.start()
    times: dict[str, list[float]] = {"alone": [], "beside": []}
    try:
        for number in range(2 * rounds):
            kind = ("alone", "beside")[number // 10 % 2]
            if kind == "beside":
                wanted.set()
            else:
                wanted.clear()
            record = asyncio.run(stream(target, body))
            assert record.ttft_s is not None, "it has a token"
            times[kind].append(1000 * record.ttft_s)
    finally:
        is_over.set()
        asker.join()
    found: dict[str, Any] = {}
    for kind, each in times.items():
        cuts = statistics.quantiles(each, n=100)
        found[kind] = {"p50_ms": cuts[49], "p99_ms": cuts[98], "requests": len(each)}
    found["p50_ratio"] = found["beside"]["p50_ms"] / found["alone"]["p50_ms"]
    found["p99_ratio"] = found["beside"]["p99_ms"] / found["alone"]["p99_ms"]
    return found


def own_client(daemon: OwnDaemon) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(daemon.socket), verify=False)
    return httpx.Client(transport=transport, base_url="http://tenantd", timeout=120, trust_env=False)


def measure(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    state = folder / "state"
    state.mkdir(mode=0o700)
    results: dict[str, Any] = {"rows": rows, "made_s": make(state / "ledger.db", rows)}
    size = (state / "ledger.db").stat().st_size
    results["bytes_per_row"] = size / rows  # without the audit trail
    results["open_s"] = asyncio.run(open_and_read(state / "ledger.db"))
    results["start"] = starts(folder)
    daemon = OwnDaemon(folder, {"engine": ENGINE})
    try:
        started(daemon)
        process = psutil.Process(daemon.running.pid)
        results["checked_s"] = wait_until_idle(process)
        with own_client(daemon) as client:
            results["reports"] = reports(client, process)
        results["first_token"] = first_tokens(daemon, rounds)
    finally:
        daemon.kill()
    results["settled_per_s"] = asyncio.run(settle_rate(state / "ledger.db", 3000))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": {**machine(), "load_before": os.getloadavg()[0]}, "aims": MOST_S, "runs": []}
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    for rows in arguments.rows:
        if shutil.disk_usage(arguments.folder or tempfile.gettempdir()).free < 3000 * rows:
            raise SystemExit(f"no room for {rows} rows: {3000 * rows / 1e9:.0f} GB are needed")
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            results["runs"].append(measure(Path(folder), rows, arguments.rounds))
        print(json.dumps(results["runs"][-1], indent=2), flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
