"""When keys end, with clocks that go wrong; and when they were last used."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tenantd.domain import Actor, Scope, Tenant
from tenantd.errors import LedgerUnavailable
from tenantd.events import Event, Events, KeyFirstUsed
from tenantd.ledger.ledger import Ledger
from tenantd.tenancy import keys
from tenantd.tenancy import tenants as store
from tenantd.tenancy.directory import Directory, KnownKey
from tenantd.tenancy.key_ends import KeyEnds
from tenantd.tenancy.key_uses import INTERVAL_S, KeyUses
from tests.ledger.books import ledger_in

NOW = 1_800_000_000_000_000
HOUR = 3600 * 1_000_000


class Clocks:
    """A wall clock that can be set, and a monotonic one that cannot."""

    def __init__(self) -> None:
        self.micros = NOW
        self.s = 50.0

    def passes(self, seconds: float) -> None:
        self.s += seconds
        self.micros += round(seconds * 1e6)

    def ends(self, **expires_micros: int) -> KeyEnds:
        return KeyEnds(lambda: self.micros, lambda: self.s).next(expires_micros)


def test_a_key_ends_at_its_time_and_one_without_an_end_never() -> None:
    clocks = Clocks()
    ends = clocks.ends(a=NOW + HOUR)
    clocks.passes(3599.9)
    assert not ends.has_come("a") and ends.count() == (0, 0)
    clocks.passes(0.1)
    assert ends.has_come("a") and not ends.has_come("endless")
    assert ends.count() == (1, 1)


def test_a_clock_set_forward_ends_keys_and_set_right_again_gives_them_back() -> None:
    clocks = Clocks()
    ends = clocks.ends(a=NOW + HOUR, b=NOW + 900 * HOUR)
    clocks.micros += 10 * HOUR
    assert (ends.has_come("a"), ends.has_come("b"), ends.count()) == (True, False, (1, 0))
    clocks.micros -= 10 * HOUR
    assert not ends.has_come("a") and ends.count() == (0, 0)
    clocks.passes(3600)
    assert ends.has_come("a")


def test_a_clock_set_back_prolongs_nothing() -> None:
    clocks = Clocks()
    ends = clocks.ends(a=NOW + HOUR)
    clocks.passes(1800)
    clocks.micros -= 100 * HOUR
    assert not ends.has_come("a")
    ends = ends.next({"a": NOW + HOUR, "b": clocks.micros + HOUR})  # as after any change
    clocks.passes(1800)
    assert ends.has_come("a") and not ends.has_come("b")
    clocks.passes(1800)
    assert ends.has_come("b")


def test_a_machine_that_slept_ends_keys_by_their_date() -> None:
    clocks = Clocks()
    ends = clocks.ends(a=NOW + HOUR)
    clocks.micros += 2 * HOUR  # the monotonic clock stood still
    assert ends.has_come("a")


def test_an_end_that_changed_counts_from_now() -> None:
    clocks = Clocks()
    ends = clocks.ends(a=NOW + 900 * HOUR)
    ends = ends.next({"a": NOW + HOUR})
    clocks.passes(3600)
    assert ends.has_come("a")
    ends = ends.next({})
    assert not ends.has_come("a") and ends.count() == (0, 0)


def test_the_directory_knows_no_key_whose_end_has_come(tmp_path: Path) -> None:
    clocks = Clocks()

    def make(conn: sqlite3.Connection) -> dict[str, str]:
        store.add_tenant(conn, Tenant(name="acme"))
        made = {"endless": keys.create_key(conn, "acme", "", NOW)[1], "admin": keys.create_key(conn, None, "", NOW)[1]}
        return made | {"short": keys.create_key(conn, "acme", "", NOW, expires_micros=NOW + HOUR)[1]}

    async def main() -> None:
        directory = Directory(now_micros=lambda: clocks.micros, clock_s=lambda: clocks.s)
        async with ledger_in(tmp_path) as ledger:
            secrets = await ledger.write(make)
            await directory.reload(ledger)
            found = {name: directory.key_for(secret) for name, secret in secrets.items()}
            short, admin = found["short"], found["admin"]
            assert short is not None and admin is not None
            assert short.tenant is directory.tenants["acme"] and directory.has_key(short.id)
            assert (admin.tenant, admin.scopes) == (None, {Scope.ADMIN})
            ended = directory.keys_ended()
            clocks.passes(3600)
            assert directory.keys_ended() != ended
            assert directory.key_for(secrets["short"]) is None and not directory.has_key(short.id)
            assert directory.key_for(secrets["endless"]) is not None and directory.has_key(admin.id)
            await directory.reload(ledger)
            assert directory.key_for(secrets["short"]) is None
            directory.remove(1)
            assert directory.key_for(secrets["endless"]) is None and directory.has_key(admin.id)
            directory.revoke(admin.id)
            assert directory.key_for(secrets["admin"]) is None

    asyncio.run(main())


# -- uses


ACTOR = Actor(uid=1000, pid=5)


class Used:
    """A ledger with two keys, uses noted in it, and what was announced."""

    def __init__(self, ledger: Ledger, made: list[keys.KeyInfo]) -> None:
        self.ledger = ledger
        self.clocks = Clocks()
        self.heard: list[Event] = []
        self.written = 0
        self.is_stuck = False
        events = Events()
        events.call("test", self.heard.append)
        clock = {"now_micros": lambda: self.clocks.micros, "clock_s": lambda: self.clocks.s}
        self.uses = KeyUses(self, events, **clock)  # type: ignore[arg-type]
        tenant = Tenant(id=1, name="acme")
        self.first, self.second = (KnownKey(tenant, key.id, frozenset(key.scopes), is_used=False) for key in made)

    async def write(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        self.written += 1
        if self.is_stuck:
            raise LedgerUnavailable("cannot write the ledger: the disk is full")
        return await self.ledger.write(work)

    async def last_used(self) -> list[int | None]:
        """After all that is being written."""
        if (writing := self.uses._writing) is not None:
            await writing
        listed = await self.ledger.read(lambda conn: keys.list_keys(conn, 1))
        used = {key.id: key.last_used_micros for key in listed}
        return [used[self.first.id], used[self.second.id]]


def use(folder: Path, work: Callable[[Used], Awaitable[None]]) -> None:
    def make(conn: sqlite3.Connection) -> list[keys.KeyInfo]:
        store.add_tenant(conn, Tenant(name="acme"))
        return [keys.create_key(conn, "acme", "", NOW)[0] for _ in range(2)]

    async def main() -> None:
        async with ledger_in(folder) as ledger:
            await work(Used(ledger, await ledger.write(make)))

    asyncio.run(main())


def test_a_use_is_written_at_most_once_a_minute_for_each_key(tmp_path: Path) -> None:
    async def work(used: Used) -> None:
        for _ in range(1000):
            used.uses.note(used.first, ACTOR)
        assert await used.last_used() == [NOW, None]
        assert used.written == 1
        used.clocks.passes(INTERVAL_S - 0.001)
        used.uses.note(used.first, ACTOR)
        used.uses.note(used.second, ACTOR)
        then = used.clocks.micros
        assert await used.last_used() == [NOW, then] and used.written == 2
        used.clocks.passes(0.001)
        used.uses.note(used.first, ACTOR)
        assert await used.last_used() == [NOW + INTERVAL_S * 1e6, then] and used.written == 3

    use(tmp_path, work)


def test_a_first_use_is_announced_once_and_never_again(tmp_path: Path) -> None:
    async def work(used: Used) -> None:
        for _ in range(3):
            used.uses.note(used.first, ACTOR)
            used.uses.note(used.second._replace(is_used=True), ACTOR)
            used.clocks.passes(100)
        [event] = used.heard
        assert isinstance(event, KeyFirstUsed)
        assert (event.key_id, event.tenant, event.tenant_id, event.uid) == (used.first.id, "acme", 1, 1000)
        admin = KnownKey(None, "key_admin", frozenset({Scope.ADMIN}), is_used=False)
        used.uses.note(admin, Actor(key_id="key_admin"))
        event = used.heard[-1]
        assert isinstance(event, KeyFirstUsed) and (event.key_id, event.tenant, event.uid) == ("key_admin", None, None)
        await used.last_used()

    use(tmp_path, work)


def test_what_cannot_be_written_harms_nobody_and_is_written_later(tmp_path: Path) -> None:
    async def work(used: Used) -> None:
        used.is_stuck = True
        used.uses.note(used.first, ACTOR)
        assert await used.last_used() == [None, None]
        for _ in range(100):
            used.uses.note(used.first, ACTOR)
        await used.last_used()
        assert used.written == 1, "it is not tried again with every request"
        used.is_stuck = False
        used.uses.note(used.second, ACTOR)
        assert await used.last_used() == [NOW, NOW]
        used.uses.forget_unless(lambda key_id: key_id == used.first.id)
        used.uses.note(used.first, ACTOR)
        assert used.written == 2
        used.uses.note(used.second, ACTOR)
        await used.last_used()
        assert used.written == 3, "what is forgotten is noted anew"

    use(tmp_path, work)


@pytest.mark.parametrize("set_back_s", [1, 10_000_000])
def test_a_clock_set_back_does_not_hold_up_the_next_use(tmp_path: Path, set_back_s: int) -> None:
    async def work(used: Used) -> None:
        used.uses.note(used.first, ACTOR)
        await used.last_used()
        used.clocks.passes(INTERVAL_S)
        used.clocks.micros -= set_back_s * 1_000_000
        used.uses.note(used.first, ACTOR)
        assert await used.last_used() == [used.clocks.micros, None]

    use(tmp_path, work)
