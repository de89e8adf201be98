"""Claims of idempotency keys that nobody lets go of."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tenantd.domain import Tenant
from tenantd.serving.attempts import UNANSWERED_S, Attempt, Attempts, IdempotencyInProgress
from tests.ledger.books import NOW_MICROS, ledger_in

ACME = Tenant(id=1, name="acme")
NAME = (1, "k")


def test_a_claim_that_nobody_begins_to_answer_ends_after_a_while_and_another_does_not(tmp_path: Path) -> None:
    now_s = 0.0

    async def main() -> None:
        nonlocal now_s
        async with ledger_in(tmp_path) as ledger:
            attempts = Attempts(ledger, 1 << 20, lambda: NOW_MICROS, lambda: now_s, lambda: 1.0)
            first = await attempts.begin(ACME, "k", b"body")
            now_s = UNANSWERED_S
            with pytest.raises(IdempotencyInProgress):
                await attempts.begin(ACME, "k", b"body")
            now_s += 1
            second = await attempts.begin(ACME, "k", b"body")
            assert isinstance(first, Attempt) and isinstance(second, Attempt)
            second.is_answered = True
            first.let_go()  # it was only slow
            now_s += 10 * UNANSWERED_S
            with pytest.raises(IdempotencyInProgress):
                await attempts.begin(ACME, "k", b"body")
            second.let_go()
            third = await attempts.begin(ACME, "k", b"other")
            assert isinstance(third, Attempt)
            third.let_go()

    asyncio.run(main())


def test_abandoned_claims_are_forgotten_though_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    async def main() -> None:
        nonlocal now_s
        async with ledger_in(tmp_path) as ledger:
            attempts = Attempts(ledger, 1 << 20, lambda: NOW_MICROS, lambda: now_s, lambda: 1.0)
            await attempts.begin(ACME, "k", b"body")
            now_s = UNANSWERED_S + 1
            pruning = asyncio.create_task(attempts.prune())
            await asyncio.sleep(0)
            pruning.cancel()
            assert not attempts._claimed

    asyncio.run(main())
