"""The real engine process, without a model, killed with -9 under load."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from sqlite3 import Connection

import pytest

from tenantd.domain import FinishReason, Sampling, Tenant
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.records import RequestRecord
from tenantd.ledger.reports import recent_requests
from tenantd.live.generation import Generation
from tenantd.live.streams import LiveStream
from tenantd.serving.service import Service
from tenantd.tenancy.directory import Directory
from tenantd.tenancy.tenants import add_tenant
from tenantd.text.chat import ChatFormatter
from tenantd.text.vocabulary import ByteVocabulary
from tests.serving.daemon_kit import config, run, until

VOCABULARY = ByteVocabulary()
TENANTS = [Tenant(name="acme", weight=2.0), Tenant(name="globex")]
PROMPTS = [list(b"prompt %d " % n) * (1 + n * 3) for n in range(16)]


async def serve(folder: Path, kill_at: list[int]) -> tuple[list[tuple[list[int], str]], list[RequestRecord]]:
    """Run all prompts at once; kill the engine each time so many tokens have come. What was read, and the rows."""
    folder.mkdir()
    settings = config(slots=8, fake_step_micros=1000, max_crashes=5)
    ledger = Ledger.open(folder / "ledger.db", settings.billing, lambda: time.time_ns() // 1000)
    directory = Directory()
    for tenant in TENANTS:
        await ledger.write(lambda conn, tenant=tenant: add_tenant(conn, tenant))
    service = Service(settings, ledger, directory, VOCABULARY, ChatFormatter(VOCABULARY))
    await service.start()
    await service.supervisor.wait_ready()
    streams: list[LiveStream] = []
    for number, prompt in enumerate(PROMPTS):
        sampling = Sampling(ignore_eos=number < 8)
        generation = Generation(kind="completion", prompt=prompt, max_tokens=80, sampling=sampling)
        streams.append(await service.submit(directory.tenants[TENANTS[number % 2].name], generation))
    reading = [asyncio.create_task(read(stream)) for stream in streams]
    for count in kill_at:
        await until(lambda count=count: sum(len(s.generated) for s in streams) >= count and service.supervisor.is_ready)
        pid = service.supervisor.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda pid=pid: service.supervisor.pid != pid)
    results = await asyncio.gather(*reading)
    status = service.status()
    assert status["engine_restarts"] == len(kill_at)
    await service.drain(1)
    service.idle_check()
    await service.stop()
    rows = {row.id: row for row in await ledger.read(all_requests)}
    await ledger.close()
    assert rows.keys() == {stream.id for stream in streams}, "one row each"
    billed_micros = sum(row.engine_micros for row in rows.values())
    assert billed_micros + status["engine_unbilled_micros"] == status["engine_busy_micros"], "all engine time is booked"
    return results, [rows[stream.id] for stream in streams]


def all_requests(conn: Connection) -> list[RequestRecord]:
    return recent_requests(conn, None, 100)


async def read(stream: LiveStream) -> tuple[list[int], str]:
    await stream.started()
    tokens: list[int] = []
    text = ""
    while deltas := await stream.take():
        tokens += [delta.token for delta in deltas if delta.token >= 0]
        text += "".join(delta.text for delta in deltas)
    assert stream.error is None
    return tokens, text


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_sixteen_streams_give_the_tokens_of_an_undisturbed_run_and_one_row_each(tmp_path: Path, loop: str) -> None:
    calm, calm_rows = run(serve(tmp_path / "calm", []), loop)
    shaken, shaken_rows = run(serve(tmp_path / "shaken", [40, 300, 301, 700]), loop)
    assert shaken == calm
    assert {row.state for row in calm_rows} == {FinishReason.LENGTH, FinishReason.STOP}
    for rows in (calm_rows, shaken_rows):
        assert [row.state for row in rows] == [row.state for row in calm_rows]
        assert [row.prompt_tokens for row in rows] == [len(prompt) for prompt in PROMPTS], "none is billed twice"
        assert [row.completion_tokens for row in rows] == [len(tokens) for tokens, _ in calm]
