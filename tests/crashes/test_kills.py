"""kill −9 of the daemon at random moments, and now and then of its engine before, while several tenants with budgets
generate and embed: after each, everything adds up.

TENANTD_KILLS is how often, TENANTD_MODEL_KILLS how often with a real model (`make night`).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tenantd.ledger.inspection import inspect_file
from tests.support.daemon import Daemon, Stream
from tests.support.models import gemma_path

KILLS = int(os.environ.get("TENANTD_KILLS", "10"))
MODEL_KILLS = int(os.environ.get("TENANTD_MODEL_KILLS", "0"))
SEED = int(os.environ.get("TENANTD_SEED", "1"))
STREAMS = 12
LONGEST_S = {"fake": 1.2, "llama": 8.0}
"""From the first request to the kill, by engine: longer than between two checkpoints, and than short answers take."""
PRICES = {"input_price_per_million": "0.10", "output_price_per_million": "0.40", "engine_hour_price": "1.50"}
BUDGETS = (
    ("tokens", "daily", "tokens", 3_000),
    ("tokens", "monthly", "tokens", 10_000_000),
    ("money", "daily", "money", 400_000),
    ("time", "weekly", "engine", 3_000_000),
    ("plain", "daily", "tokens", 10_000_000),
)
"""Tenant, period, unit and amount: some are used up on the way, others never."""


def ledger_of(daemon: Daemon) -> Path:
    return daemon.folder / "state" / "ledger.db"


def set_budgets(path: Path) -> None:
    """While the daemon is stopped."""
    with closing(sqlite3.connect(path)) as conn:
        for tenant, *budget in BUDGETS:
            conn.execute(
                """INSERT INTO budgets (tenant_id, period, unit, amount, warn, set_micros)
                SELECT id, ?, ?, ?, '', 0 FROM tenants WHERE name = ?""",
                (*budget, tenant),
            )
        conn.commit()


class Tally:
    """What clients were told, over all runs."""

    def __init__(self) -> None:
        self.accepted: set[str] = set()
        self.answered: dict[str, int] = {}  # tokens of complete answers
        self.embedded: dict[str, int] = {}  # tokens of texts whose vectors came
        self.refused: Counter[str] = Counter()
        self.states: Counter[str] = Counter()

    def note(self, stream: Stream) -> None:
        if stream.status == 200 and stream.request_id:
            self.accepted.add(stream.request_id)
        if stream.done and stream.usage is not None:
            self.answered[stream.request_id] = stream.usage["completion_tokens"]
        if stream.status not in (0, 200) and stream.error is not None:
            self.refused[stream.error["code"]] += 1


def embed(daemon: Daemon, tenant: str, texts: list[str], tally: Tally) -> None:
    """Texts of one request, whatever comes of it."""
    with contextlib.suppress(httpx.TransportError):
        answer = daemon.post("/v1/embeddings", {"input": texts}, headers={"X-Tenant": tenant})
        if answer.status_code == 200:
            assert len(answer.json()["data"]) == len(texts)
            tally.embedded[answer.headers["x-request-id"]] = answer.json()["usage"]["prompt_tokens"]


def run_and_kill(daemon: Daemon, rng: random.Random, tally: Tally, longest_s: float) -> None:
    """Requests of all tenants, one after another on each of several connections, until the daemon is dead."""
    streams: list[Stream] = []
    is_over = threading.Event()

    def keep_asking(own: random.Random) -> None:
        while not is_over.is_set():
            tenant = own.choice(("tokens", "money", "time", "plain"))
            if own.random() < 0.2:
                embed(daemon, tenant, ["x" * own.randint(1, 60) for _ in range(own.randint(1, 20))], tally)
                continue
            body = {"max_tokens": own.choice((1, 3, 40, 300)), "ignore_eos": True}
            stream = daemon.stream(tenant, "x" * own.randint(1, 60), **body)
            streams.append(stream)
            if own.random() < 0.8:
                stream.join()
            else:
                is_over.wait(0.02)

    askers = [threading.Thread(target=keep_asking, args=(random.Random(rng.random()),)) for _ in range(STREAMS)]
    for asker in askers:
        asker.start()
    is_over.wait(rng.uniform(0.02, longest_s))
    if rng.random() < 0.4:
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        is_over.wait(rng.uniform(0.02, longest_s))
    daemon.kill()
    is_over.set()
    for asker in askers:
        asker.join()
    for stream in streams:
        tally.note(stream.join())


def check(path: Path, tally: Tally) -> None:
    """What must hold after a start that follows a kill."""
    found = inspect_file(path)
    assert found.breaches == []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        rows: dict[str, tuple[Any, ...]] = {
            row[0]: row[1:] for row in conn.execute("SELECT id, state, completion_tokens, prompt_tokens FROM requests")
        }
        uses = conn.execute(
            """SELECT tenant_id, period, unit, used, amount + topped_up FROM budget_uses
            JOIN budgets ON id = budget_id"""
        ).fetchall()
    assert tally.accepted <= rows.keys(), "every request that was accepted has its row"
    assert "running" not in {row[0] for row in rows.values()}
    assert {name: rows[name][:2] for name in tally.answered} == {
        name: ("length", tokens) for name, tokens in tally.answered.items()
    }
    assert {name: rows[name] for name in tally.embedded} == {
        name: ("stop", 0, tokens) for name, tokens in tally.embedded.items()
    }
    assert [use for use in uses if use[2] != "engine" and use[3] > use[4]] == [], "no budget is passed"
    tally.states = Counter(row[0] for row in rows.values())


def kill_often(folder: Path, kills: int, settings: dict[str, Any], longest_s: float) -> Tally:
    tally, rng = Tally(), random.Random(SEED)
    with Daemon(folder, billing=PRICES, **settings) as daemon:
        for tenant in ("tokens", "money", "time", "plain"):
            daemon.add_tenant(tenant)
        assert daemon.stop() == 0
        set_budgets(ledger_of(daemon))
        daemon.start()
        for number in range(kills):
            run_and_kill(daemon, rng, tally, longest_s)
            daemon.start()
            check(ledger_of(daemon), tally)
            if number % 10 == 9:
                print(f"{number + 1} kills: {tally.states}, refused {tally.refused}", flush=True)
    print(f"{kills} kills: {len(tally.accepted)} accepted, {tally.states}, refused {tally.refused}")
    return tally


RUNS = [("fake", KILLS)] + ([("llama", MODEL_KILLS)] if MODEL_KILLS else [])


@pytest.mark.timeout(900 + 30 * KILLS + 120 * MODEL_KILLS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets whose daemon was killed
@pytest.mark.parametrize(("backend", "kills"), RUNS)
def test_after_each_kill_every_request_has_one_row_and_all_sums_hold(tmp_path: Path, backend: str, kills: int) -> None:
    settings: dict[str, Any] = {"engine": {"backend": backend, "slots": 8, "fake_step_micros": 1000}}
    if backend == "llama":
        settings = {"engine": {"backend": "llama", "slots": 4, "context_tokens": 2048}}
        settings["model"] = {"path": str(gemma_path())}
    settings["embeddings"] = {"pooling": "mean", "max_input_tokens": 64}
    tally = kill_often(tmp_path, kills, settings, LONGEST_S[backend])
    assert tally.states["interrupted"] and tally.states["length"], "kills hit running requests, and not only those"
    assert tally.embedded and tally.states["stop"] >= len(tally.embedded)
    assert tally.refused["insufficient_quota"] or kills < 10, "a budget was used up on the way"
