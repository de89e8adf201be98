"""A tenant's only budget is removed while a request runs, and set again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tenantd import clock
from tenantd.domain import Sampling, Tenant
from tenantd.ledger.ledger import Ledger
from tenantd.live.generation import Generation
from tenantd.live.streams import LiveStream
from tenantd.serving.service import Service
from tenantd.tenancy.directory import Directory
from tenantd.tenancy.tenants import add_tenant
from tenantd.text.chat import ChatFormatter
from tenantd.text.vocabulary import ByteVocabulary
from tests.serving.daemon_kit import config, run, until

PROMPT = b"hello"


@asynccontextmanager
async def service(folder: Path) -> AsyncIterator[Service]:
    """With a ledger on disk and one tenant. Requests are settled at the end."""
    settings = config(fake_step_micros=1000, context_tokens=8192)
    ledger = Ledger.open(folder / "ledger.db", settings.billing, clock.now_micros)
    await ledger.write(lambda conn: add_tenant(conn, Tenant(name="acme")))
    vocabulary = ByteVocabulary()
    service = Service(settings, ledger, Directory(), vocabulary, ChatFormatter(vocabulary))
    await service.start()
    await service.supervisor.wait_ready()
    yield service
    await service.drain(5)
    service.budgets.idle_check()
    await service.stop()
    await ledger.close()


async def set_budget(service: Service, amount: int | None) -> None:
    """Of tokens, each day; None removes it."""
    if amount is None:
        await service.ledger.write(lambda conn: conn.execute("DELETE FROM budgets"))
    else:
        await service.ledger.write(
            lambda conn: conn.execute(
                """INSERT INTO budgets (tenant_id, period, unit, amount, warn, set_micros)
                VALUES (1, 'monthly', 'tokens', ?, '', 0)""",
                (amount,),
            )
        )
    await service.changes.budgets_changed()


async def ask(service: Service, max_tokens: int) -> LiveStream:
    generation = Generation(
        kind="completion", prompt=list(PROMPT), max_tokens=max_tokens, sampling=Sampling(ignore_eos=True)
    )
    return await service.submit(service.directory.tenants["acme"], generation)


def test_what_was_free_meanwhile_is_reined_in(tmp_path: Path) -> None:
    async def scene() -> None:
        async with service(tmp_path) as s:
            await set_budget(s, 100_000)
            stream = await ask(s, 5_000)
            await until(lambda: stream.generated)
            await set_budget(s, None)
            assert stream.allowed_tokens == 5_000
            assert s.budgets.states() == []
            amount = len(stream.generated) + 500
            await set_budget(s, amount)
            [state] = s.budgets.states()
            assert state.reserved > 0
            await stream.finished
            assert stream.is_out_of_budget
            assert len(PROMPT) + len(stream.generated) == amount

    run(scene())
