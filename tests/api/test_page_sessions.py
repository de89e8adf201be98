"""Sessions of the web page: proved by two secrets, in bounded memory, and over with what they stand for."""

from __future__ import annotations

import asyncio
import os
from typing import Any, cast

import pytest

from tenantd.api.web.page_sessions import (
    BURST,
    IDLE_S,
    INVITATION_S,
    LONGEST_S,
    MOST_AT_ONCE,
    MOST_INVITATIONS,
    MOST_OF_ONE,
    MOST_SESSIONS,
    PageSessions,
    TooManyPageRequests,
)
from tenantd.api.web.pages import Pages
from tenantd.config import ServerConfig
from tenantd.domain import Actor, Scope, Tenant
from tenantd.errors import Forbidden, Unauthenticated
from tenantd.tenancy.directory import KnownKey

DOOR = "server.listen, entry 1"
OWNER = Actor(uid=1000, pid=1)


class Keys:
    """A directory of keys that a test may revoke."""

    def __init__(self) -> None:
        self.keys: dict[str, KnownKey] = {}

    def add(self, number: int, *scopes: Scope) -> KnownKey:
        tenant = None if Scope.ADMIN in scopes else Tenant(name=f"t{number}", id=number)
        key = KnownKey(tenant, f"key_{number}", frozenset(scopes or (Scope.READ,)), is_used=True)
        self.keys[key.id] = key
        return key

    def key_by_id(self, key_id: str) -> KnownKey | None:
        return self.keys.get(key_id)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(keys: Keys, clock: Clock) -> PageSessions:
    return PageSessions(cast(Any, keys), clock)


def test_an_invitation_works_once_and_for_a_minute(sessions: PageSessions, clock: Clock) -> None:
    opened = sessions.accept(invitation := sessions.invite(OWNER), "web")
    assert sessions.find(opened.cookie, opened.page, "web") is opened.session
    asker = sessions.asker(opened.session)
    assert asker is not None and asker.actor == OWNER and asker.key.scopes == {Scope.ADMIN}
    late = sessions.invite(OWNER)
    clock.now_s += INVITATION_S + 1
    for refused in (invitation, late, "", "x", "\ud800"):
        with pytest.raises(Unauthenticated, match="used before or has expired"):
            sessions.accept(refused, "web")
    first, *_ = [sessions.invite(OWNER) for _ in range(MOST_INVITATIONS + 1)]
    with pytest.raises(Unauthenticated):
        sessions.accept(first, "web")


def test_both_secrets_are_needed_and_only_where_the_session_began(sessions: PageSessions, keys: Keys) -> None:
    one, other = (sessions.log_in(keys.add(number), DOOR) for number in (1, 2))
    assert sessions.find(one.cookie, one.page, DOOR) is one.session
    for cookie, page, door in (
        (one.cookie, other.page, DOOR),
        (one.cookie, "", DOOR),
        (one.cookie, one.cookie, DOOR),
        (one.page, one.page, DOOR),
        (one.cookie, one.page, "web"),
    ):
        assert sessions.find(cookie, page, door) is None
    kept = repr(vars(sessions)) + "".join(repr(getattr(one.session, name)) for name in one.session.__slots__)
    assert one.cookie not in kept and one.page not in kept


def test_a_session_ends_without_use_after_a_time_and_with_its_key(
    sessions: PageSessions, keys: Keys, clock: Clock
) -> None:
    used, unused = (sessions.log_in(keys.add(number), DOOR) for number in (1, 2))
    for _ in range(int(LONGEST_S // IDLE_S)):
        assert sessions.find(used.cookie, used.page, DOOR)
        sessions.use(used.session)
        used.session.leave()
        clock.now_s += IDLE_S
    assert sessions.find(unused.cookie, unused.page, DOOR) is None
    clock.now_s += 1
    assert sessions.find(used.cookie, used.page, DOOR) is None and len(sessions) == 0
    revoked = sessions.log_in(keys.add(3), DOOR)
    del keys.keys["key_3"]
    assert sessions.find(revoked.cookie, revoked.page, DOOR) is None


def test_an_administrators_session_ends_with_the_key_that_asked_for_it(sessions: PageSessions, keys: Keys) -> None:
    key = keys.add(1, Scope.ADMIN)
    opened = sessions.accept(sessions.invite(Actor(uid=1000, key_id=key.id)), "web")
    invitation = sessions.invite(Actor(uid=1000, key_id=key.id))
    assert sessions.find(opened.cookie, opened.page, "web")
    keys.keys[key.id] = key._replace(scopes=frozenset({Scope.READ}))
    assert sessions.find(opened.cookie, opened.page, "web") is None
    with pytest.raises(Unauthenticated):
        sessions.accept(invitation, "web")


def test_all_that_was_invited_can_be_ended_and_is_forgotten(sessions: PageSessions, keys: Keys, clock: Clock) -> None:
    tenants = sessions.log_in(keys.add(1), DOOR)
    assert not sessions.has_invited()
    opened = sessions.accept(sessions.invite(OWNER), "web")
    invitation = sessions.invite(OWNER)
    assert sessions.has_invited() and sessions.end_invited() == 1 and not sessions.has_invited()
    assert sessions.find(opened.cookie, opened.page, "web") is None
    with pytest.raises(Unauthenticated):
        sessions.accept(invitation, "web")
    assert sessions.find(tenants.cookie, tenants.page, DOOR), "a tenant's goes on"
    sessions.invite(OWNER)
    clock.now_s += INVITATION_S + 1
    assert not sessions.has_invited()


def test_a_tenant_pushes_out_only_sessions_of_its_own(sessions: PageSessions, keys: Keys) -> None:
    victim = sessions.log_in(keys.add(1), DOOR)
    greedy = [sessions.log_in(keys.add(2), DOOR) for _ in range(MOST_OF_ONE + 3)]
    assert len(sessions) == MOST_OF_ONE + 1 and sessions.find(victim.cookie, victim.page, DOOR)
    assert [sessions.find(one.cookie, one.page, DOOR) is None for one in greedy] == [True] * 3 + [False] * MOST_OF_ONE
    for number in range(3, MOST_SESSIONS + 3):
        sessions.log_in(keys.add(number), DOOR)
    assert len(sessions) == MOST_SESSIONS


def test_tenants_push_out_no_administrator_and_those_with_most_sessions_lose_them_first(
    sessions: PageSessions, keys: Keys
) -> None:
    owner = sessions.accept(sessions.invite(OWNER), "web")
    modest = sessions.log_in(keys.add(1), DOOR)
    for number in range(2, MOST_SESSIONS // MOST_OF_ONE + 4):
        for _ in range(MOST_OF_ONE):
            sessions.log_in(keys.add(number), DOOR)
    assert len(sessions) == MOST_SESSIONS + 1
    assert sessions.find(owner.cookie, owner.page, "web") and sessions.find(modest.cookie, modest.page, DOOR)
    owners = [sessions.accept(sessions.invite(OWNER), "web") for _ in range(MOST_OF_ONE)]
    assert len(sessions) == MOST_SESSIONS + MOST_OF_ONE
    assert sessions.find(owner.cookie, owner.page, "web") is None, "an administrator's make room for each other"
    assert all(sessions.find(one.cookie, one.page, "web") for one in owners)


class Accepting:
    """Takes no connections; knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def close(self) -> None:
        self.closed.set()


@pytest.mark.anyio
async def test_a_page_ends_when_its_user_leaves_the_group_that_administers(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantd.api.web.pages.LOOK_EVERY_S", 0.01)
    members = {4_000_001, 4_000_002}
    pages = Pages(cast(Any, keys), ServerConfig, lambda uid, group: uid in members)
    accepting = Accepting()
    pages.listen_with(lambda sock, door: accepting)
    url = await pages.invite(Actor(uid=4_000_001, pid=1))
    await pages.invite(Actor(uid=4_000_002, pid=2))
    opened = pages.sessions.accept(url.partition("#")[2], "web")
    assert pages.sessions.by_group() == members
    members.clear()
    await asyncio.wait_for(accepting.closed.wait(), 60)
    assert pages.sessions.find(opened.cookie, opened.page, "web") is None and not pages.sessions.has_invited()
    with pytest.raises(Forbidden, match=r"no longer in server\.admin_group"):
        await pages.invite(Actor(uid=4_000_001, pid=1))
    await pages.invite(Actor(uid=os.geteuid(), pid=1))
    pages.close()


def test_a_session_asks_only_so_often_and_for_so_much_at_once(sessions: PageSessions, keys: Keys, clock: Clock) -> None:
    session = sessions.log_in(keys.add(1), DOOR).session
    for _ in range(MOST_AT_ONCE):
        sessions.use(session)
    with pytest.raises(TooManyPageRequests):
        sessions.use(session)
    for _ in range(MOST_AT_ONCE):
        session.leave()
    for _ in range(BURST - MOST_AT_ONCE):
        sessions.use(session)
        session.leave()
    with pytest.raises(TooManyPageRequests, match="close some of its tabs"):
        sessions.use(session)
    clock.now_s += 1
    sessions.use(session)
