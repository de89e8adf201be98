"""The first budget of a tenant that has requests already."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tenantd.domain import Tenant
from tenantd.errors import BudgetBusy
from tenantd.ledger.schema import SCHEMA
from tests.serving.daemon_kit import run, until
from tests.serving.scene import Scene

T = TypeVar("T")
ACME = Tenant(id=1, name="acme")


def with_budget(scene: Scene, amount: int) -> None:
    """From now on, the ledger has a monthly budget of tokens, of which nothing is counted."""

    async def work(work: Callable[[sqlite3.Connection], T], *_: Any) -> T:
        with contextlib.closing(sqlite3.connect(":memory:")) as conn:
            for statement in SCHEMA:
                conn.execute(statement)
            conn.execute(
                """INSERT INTO budgets (tenant_id, key_id, period, unit, amount, warn, set_micros)
                VALUES (1, '', 'monthly', 'tokens', ?, '', 0)""",
                (amount,),
            )
            return work(conn)

    scene.ledger.read = work  # type: ignore[method-assign]
    scene.ledger.write = work  # type: ignore[attr-defined]


def test_what_has_ended_and_is_not_settled_is_held_of_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, tenants=(ACME,)) as s:
            s.ledger.settle_gate.clear()
            await (await s.submit([1], 30, ACME)).finished
            with_budget(s, 40)
            await s.service.changes.budgets_changed()
            [state] = s.service.budgets.states(1)
            assert state.reserved == 31, "its prompt, and what was generated"
            with pytest.raises(BudgetBusy, match=r"held by running requests"):
                await s.submit([3] * 10, 1, ACME)
            s.ledger.settle_gate.set()
            await until(lambda: s.service.budgets.states(1)[0].reserved == 0)

    run(scene())
