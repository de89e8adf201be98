"""Budgets as administrators set them: with what was used before, audited, and announced with the levels they reach."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tenantd import clock
from tenantd.actions import Action
from tenantd.budget_events import BudgetReached
from tenantd.domain import Actor, BudgetUnit, Tenant, Usage
from tenantd.errors import Conflict, InvalidRequest, LedgerUnavailable, NotFound, TenantdError
from tenantd.events import Administered, Event, Events
from tenantd.ledger.ledger import Ledger
from tenantd.periods import Period, bounds
from tenantd.tenancy import keys, tenants
from tenantd.tenancy.budget_administration import BudgetAdministration
from tenantd.tenancy.budget_rows import MOST_AMOUNT, Wanted
from tests.ledger.books import NOW_MICROS, admission, ledger_in, settlement

ACTOR = Actor(uid=1000, pid=4711)
UTC = ZoneInfo("UTC")
MONTH = bounds(Period.MONTHLY, NOW_MICROS, UTC)
DAY_MICROS = 86_400_000_000
MONEY, TOKENS, ENGINE = BudgetUnit.MONEY, BudgetUnit.TOKENS, BudgetUnit.ENGINE
MONTHLY, DAILY = Period.MONTHLY, Period.DAILY
USED = Usage(prompt_tokens=60, completion_tokens=40, engine_micros=2_000_000)


class Clock:
    micros = NOW_MICROS


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Clock.micros = NOW_MICROS
    monkeypatch.setattr(clock, "now_micros", lambda: Clock.micros)
    yield


class Running:
    """Counts how often it was told that budgets have changed."""

    def __init__(self) -> None:
        self.told = 0
        self.is_readable = True

    async def budgets_changed(self) -> None:
        self.told += 1
        if not self.is_readable:
            raise LedgerUnavailable("cannot read the ledger: it was moved away")


class Scene:
    """A ledger with the tenants acme and globex, each with one key."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.running, self.events = ledger, Running(), Events()
        self.heard: list[Event] = []
        self.events.call("test", self.heard.append)
        self.admin = BudgetAdministration(ledger, self.running, self.events)
        self.keys: dict[str, str] = {}

    async def fill(self) -> None:
        for name in ("acme", "globex"):
            await self.ledger.write(lambda conn, name=name: tenants.add_tenant(conn, Tenant(name=name)))
            self.keys[name] = await self.new_key(name)

    async def new_key(self, name: str) -> str:
        key, _ = await self.ledger.write(lambda conn: keys.create_key(conn, name, "", NOW_MICROS))
        return key.id

    async def use(self, number: int, usage: Usage = USED, *, key_id: str | None = None, days_ago: int = 0) -> None:
        request_id = f"req_{number}"
        created = NOW_MICROS - days_ago * DAY_MICROS
        await self.ledger.admit(admission(request_id, key_id=key_id, created_micros=created))
        await self.ledger.settle(settlement(request_id, usage))

    async def set(self, period: Period, unit: BudgetUnit, amount: int | None, **more: Any) -> Any:
        given: dict[str, Any] = {"name": "acme", "key_id": None, "warn": None, **more}
        [changed] = await self.admin.set_budgets(
            ACTOR, given["name"], given["key_id"], [Wanted(period, unit, amount)], given["warn"]
        )
        return changed

    async def entries(self) -> list[dict[str, Any]]:
        rows = await self.ledger.read(
            lambda conn: conn.execute(
                "SELECT detail FROM audit WHERE event = 'administered' ORDER BY number"
            ).fetchall()
        )
        return [json.loads(detail) for (detail,) in rows]

    def levels(self) -> list[tuple[str, int]]:
        return [(e.unit.value, e.level) for e in self.heard if isinstance(e, BudgetReached)]


def play(folder: Path, work: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        async with ledger_in(folder) as ledger:
            scene = Scene(ledger)
            await scene.fill()
            await work(scene)

    asyncio.run(main())


async def refused(work: Awaitable[object], kind: type[TenantdError], match: str | None = None) -> None:
    with pytest.raises(kind, match=match):
        await work


def test_a_budget_set_in_the_middle_of_a_period_counts_what_was_used_in_it(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        await scene.use(1)
        await scene.use(2, key_id=scene.keys["acme"], days_ago=1)
        await scene.use(3, days_ago=40)
        changed = await scene.set(MONTHLY, TOKENS, 1000)
        assert changed.before is None and changed.after is not None
        assert (changed.after.used, changed.after.cap, changed.after.warn) == (200, 1000, (80, 100))
        assert (changed.after.since_micros, changed.after.resets_micros) == tuple(MONTH)
        assert (await scene.set(DAILY, TOKENS, 1000)).after.used == 100
        assert (await scene.set(MONTHLY, ENGINE, 10_000_000)).after.used == 4_000_000
        own = await scene.set(MONTHLY, TOKENS, 1000, key_id=scene.keys["acme"])
        assert own.after.used == 100 and own.after.key_id == scene.keys["acme"]
        shown = await scene.admin.list_budgets("acme")
        assert [(one.key_id, one.period, one.unit, one.used) for one in shown] == [
            (None, DAILY, TOKENS, 100),
            (None, MONTHLY, TOKENS, 200),
            (None, MONTHLY, ENGINE, 4_000_000),
            (scene.keys["acme"], MONTHLY, TOKENS, 100),
        ]
        assert await scene.admin.list_budgets("globex") == [] and len(await scene.admin.list_budgets()) == 4
        await scene.use(4)
        assert [one.used for one in await scene.admin.list_budgets("acme")] == [200, 300, 6_000_000, 100]

    play(tmp_path, work)


def test_money_is_what_was_billed(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        await scene.use(1)
        billed = (60 * 100) + (40 * 400) + round(2_000_000 * 1.5e9 / 3.6e9)
        assert (await scene.set(MONTHLY, MONEY, 10**9)).after.used == billed
        assert (await scene.set(DAILY, MONEY, 0)).after.amount == 0, "0 blocks"

    play(tmp_path, work)


def test_a_change_is_audited_and_announced_with_before_and_after_and_its_actor(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        await scene.set(MONTHLY, TOKENS, 1000)
        await scene.set(MONTHLY, TOKENS, 500, warn=[50])
        await scene.admin.top_up(ACTOR, "acme", None, MONTHLY, TOKENS, 250, "paid, in advance")
        assert (await scene.set(MONTHLY, TOKENS, None)).after is None
        assert scene.running.told == 4
        by = {"uid": 1000, "pid": 4711, "key_id": None}
        entries = await scene.entries()
        assert [(one["action"], one["before"], one["after"]) for one in entries] == [
            ("budget_set", None, {"amount": 1000, "topped_up": 0, "warn": [80, 100]}),
            ("budget_set", {"amount": 1000, "warn": [80, 100]}, {"amount": 500, "warn": [50]}),
            ("budget_topped_up", {"topped_up": 0}, {"topped_up": 250}),
            ("budget_removed", {"amount": 500, "topped_up": 250, "warn": [50]}, None),
        ]
        assert entries[2]["reason"] == "paid, in advance" and all(one["by"] == by for one in entries)
        assert entries[0]["budget"] == {"id": 1, "period": "monthly", "unit": "tokens"}
        heard = [one for one in scene.heard if isinstance(one, Administered)]
        assert [(one.action, one.tenant, one.actor_uid, one.fields) for one in heard] == [
            (Action.BUDGET_SET, "acme", 1000, ()),
            (Action.BUDGET_SET, "acme", 1000, ("amount", "warn")),
            (Action.BUDGET_TOPPED_UP, "acme", 1000, ("topped_up",)),
            (Action.BUDGET_REMOVED, "acme", 1000, ()),
        ]

    play(tmp_path, work)


def test_a_budget_lowered_below_what_is_used_is_used_up_and_each_level_is_told_once(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        await scene.use(1)
        await scene.set(MONTHLY, TOKENS, 1000, warn=[50, 80, 100])
        assert scene.levels() == []
        await scene.set(MONTHLY, TOKENS, 200)
        await scene.set(MONTHLY, TOKENS, 199)
        assert scene.levels() == [("tokens", 50)]
        lowered = await scene.set(MONTHLY, TOKENS, 60)
        assert lowered.after.used == 100 and scene.levels()[1:] == [("tokens", 100)]
        topped_up = await scene.admin.top_up(ACTOR, "acme", None, MONTHLY, TOKENS, 940, "")
        assert topped_up.after is not None and topped_up.after.cap == 1000 and len(scene.levels()) == 2
        await scene.set(MONTHLY, TOKENS, 0)
        assert scene.levels()[2:] == [], "940 of this month are left, so 10% are used"
        await scene.set(MONTHLY, TOKENS, None)
        await scene.set(MONTHLY, TOKENS, 125)
        assert scene.levels()[2:] == [("tokens", 80)], "it is another budget"

    play(tmp_path, work)


def test_a_topup_is_for_the_current_period_and_shown_with_date_reason_and_actor(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        await scene.set(MONTHLY, TOKENS, 100)
        await scene.set(DAILY, TOKENS, 100)
        await scene.admin.top_up(ACTOR, "acme", None, MONTHLY, TOKENS, 30, "demo")
        await scene.admin.top_up(Actor(key_id="key_1"), "acme", None, MONTHLY, TOKENS, 20, "")
        daily, monthly = await scene.admin.list_budgets("acme")
        assert (daily.cap, monthly.cap, monthly.topped_up) == (100, 150, 50)
        assert [(t.amount, t.reason, t.actor, t.at_micros) for t in monthly.topups] == [
            (30, "demo", "uid 1000", NOW_MICROS),
            (20, "", "key_1", NOW_MICROS),
        ]
        Clock.micros = MONTH.until_micros
        _, monthly = await scene.admin.list_budgets("acme")
        assert (monthly.cap, monthly.used, monthly.topups) == (100, 0, ())
        assert monthly.since_micros == MONTH.until_micros

    play(tmp_path, work)


def test_a_budget_of_a_key_ends_with_its_key_and_follows_a_rotation(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        old, other = scene.keys["acme"], await scene.new_key("acme")
        await scene.use(1, key_id=old)
        await scene.set(MONTHLY, TOKENS, 1000, key_id=old)
        await scene.set(MONTHLY, TOKENS, 1000, key_id=other)

        new = (await scene.ledger.write(lambda conn: keys.rotate_key(conn, old, 3_600_000_000, NOW_MICROS))).new.id
        await scene.use(2, key_id=old)
        await scene.use(3, key_id=new)
        used = {one.key_id: one.used for one in await scene.admin.list_budgets("acme")}
        assert used == {new: 300, other: 0}, "the old key still counts in it"
        await refused(scene.set(MONTHLY, TOKENS, 5, key_id=old), Conflict, new)
        await scene.ledger.write(lambda conn: keys.revoke_key(conn, new, NOW_MICROS))
        assert [one.key_id for one in await scene.admin.list_budgets("acme")] == [other]
        await refused(scene.set(MONTHLY, TOKENS, 5, key_id=new), Conflict, "has ended")

    play(tmp_path, work)


def test_the_budgets_of_a_removed_tenant_are_gone_and_not_those_of_the_next_of_its_name(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        await scene.set(MONTHLY, TOKENS, 1000)
        await scene.ledger.write(lambda conn: tenants.remove_tenant(conn, "acme", NOW_MICROS))
        assert await scene.admin.list_budgets() == []
        await refused(scene.admin.list_budgets("acme"), NotFound)
        await scene.ledger.write(lambda conn: tenants.add_tenant(conn, Tenant(name="acme")))
        assert await scene.admin.list_budgets("acme") == []

    play(tmp_path, work)


def test_levels_alone_change_all_budgets_of_a_tenant_and_none_of_its_keys(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        await scene.set(MONTHLY, TOKENS, 1000)
        await scene.set(MONTHLY, MONEY, 1000, warn=[10])
        await scene.set(MONTHLY, TOKENS, 1000, key_id=scene.keys["acme"])
        await scene.admin.set_budgets(ACTOR, "acme", None, [], [90, 50])
        assert [one.warn for one in await scene.admin.list_budgets("acme")] == [(50, 90), (50, 90), (80, 100)]
        await refused(scene.admin.set_budgets(ACTOR, "globex", None, [], [90]), NotFound)

    play(tmp_path, work)


def test_removing_takes_those_that_are_named(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        for period in (DAILY, MONTHLY):
            for unit in (TOKENS, MONEY):
                await scene.set(period, unit, 1000)
        await scene.set(MONTHLY, TOKENS, 1000, key_id=scene.keys["acme"])
        gone = await scene.admin.remove_budgets(ACTOR, "acme", None, DAILY, MONEY)
        assert [(one.before.period, one.before.unit) for one in gone if one.before] == [(DAILY, MONEY)]
        assert len(await scene.admin.remove_budgets(ACTOR, "acme", None, MONTHLY, None)) == 2
        assert len(await scene.admin.remove_budgets(ACTOR, "acme", None, None, None)) == 1
        assert [one.key_id for one in await scene.admin.list_budgets()] == [scene.keys["acme"]]
        await refused(scene.admin.remove_budgets(ACTOR, "acme", None, None, None), NotFound, "no budget")
        assert (await scene.admin.set_budgets(ACTOR, "acme", None, [Wanted(DAILY, MONEY, None)], None)) == []

    play(tmp_path, work)


def test_what_is_wrong_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        for amount in (-1, MOST_AMOUNT + 1, True):
            await refused(scene.set(MONTHLY, TOKENS, amount), InvalidRequest, "amount")
        for warn in ([0], [101], [50, 50], [True]):
            await refused(scene.set(MONTHLY, TOKENS, 1, warn=warn), InvalidRequest, "warn")
        await refused(scene.set(MONTHLY, TOKENS, 1, name="nobody"), NotFound)
        await refused(scene.set(MONTHLY, TOKENS, 1, key_id="key_unknown"), NotFound, "tenantctl key list acme")
        await refused(scene.set(MONTHLY, TOKENS, 1, key_id=scene.keys["globex"]), NotFound, "acme has no key")
        topups = scene.admin.top_up
        await refused(topups(ACTOR, "acme", None, MONTHLY, TOKENS, 1, ""), NotFound, "no monthly token budget")
        await scene.set(MONTHLY, TOKENS, 1)
        for amount in (0, -5, MOST_AMOUNT + 1):
            await refused(topups(ACTOR, "acme", None, MONTHLY, TOKENS, amount, ""), InvalidRequest, "amount")
        await refused(topups(ACTOR, "acme", None, MONTHLY, TOKENS, 1, "x\n"), InvalidRequest, "reason")
        await topups(ACTOR, "acme", None, MONTHLY, TOKENS, MOST_AMOUNT, "")
        await refused(topups(ACTOR, "acme", None, MONTHLY, TOKENS, 1, ""), InvalidRequest, "amount")
        assert len(await scene.entries()) == 2 and scene.running.told == 2

    play(tmp_path, work)


def test_a_change_that_cannot_be_read_back_is_committed_and_says_so(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        scene.running.is_readable = False
        await refused(scene.set(MONTHLY, TOKENS, 7), LedgerUnavailable, "is committed")
        assert [one.amount for one in await scene.admin.list_budgets("acme")] == [7]
        assert [one.action for one in scene.heard if isinstance(one, Administered)] == [Action.BUDGET_SET]

    play(tmp_path, work)
