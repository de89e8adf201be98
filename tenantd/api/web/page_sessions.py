"""Who has the page open: sessions of browsers, and invitations to begin one. In bounded memory, gone with the daemon.

A browser proves a session with two secrets. One is in a cookie that scripts cannot read, the other is known only to the
page, because browsers send cookies to all ports of a name: whoever listens on another port of this machine may get the
cookie, but never what belongs to an origin. Here are only hashes of both.

A session of a key has the rights of that key as they are at each request, and ends with it. One that was begun with an
invitation has those of whoever asked for the invitation: an administrator on the Unix socket.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Container
from hashlib import sha256
from hmac import compare_digest
from typing import Final, NamedTuple

from tenantd.domain import Actor, Scope
from tenantd.errors import TenantdError, Unauthenticated
from tenantd.tenancy.directory import Directory, KnownKey

INVITATION_S: Final = 60.0
IDLE_S: Final = 30 * 60.0
"""The page asks only while somebody can see it."""
LONGEST_S: Final = 12 * 3600.0
MOST_INVITATIONS: Final = 16
MOST_OF_ONE: Final = 16
"""Sessions of a tenant, or of administrators."""
MOST_SESSIONS: Final = 1024
"""Sessions of all tenants; those of administrators have room of their own."""
MOST_AT_ONCE: Final = 6
"""Requests of a session; browsers open no more connections."""
REQUESTS_PER_S: Final = 5.0
BURST: Final = 40
SECRET_BYTES: Final = 32


class TooManyPageRequests(TenantdError):
    """A session asks for more than a few pages do."""

    code = "too_many_page_requests"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class Asker(NamedTuple):
    """Whom a session stands for, as for any other request."""

    key: KnownKey
    actor: Actor


class Opened(NamedTuple):
    """A new session, and its two secrets."""

    session: Session
    cookie: str
    page: str


class Session:
    """One browser that has the page open."""

    __slots__ = ("_room", "_room_s", "actor", "begun_s", "door", "key_id", "name", "page", "running", "used_s", "whose")

    def __init__(self, door: str, whose: str, key_id: str | None, actor: Actor | None, now_s: float) -> None:
        """`actor` is whoever was invited, None for a session of the key with `key_id`."""
        self.door, self.whose, self.key_id, self.actor = door, whose, key_id, actor
        self.name = self.page = b""  # hashes of the secrets
        self.begun_s = self.used_s = self._room_s = now_s
        self.running = 0
        self._room = float(BURST)

    def has_ended(self, now_s: float) -> bool:
        return now_s - self.used_s > IDLE_S or now_s - self.begun_s > LONGEST_S

    def enter(self, now_s: float) -> None:
        """Count a request, which must `leave`. Raises TooManyPageRequests."""
        room = min(BURST, self._room + (now_s - self._room_s) * REQUESTS_PER_S)
        self._room, self._room_s = room, now_s
        if room < 1 or self.running >= MOST_AT_ONCE:
            raise TooManyPageRequests("this page sends too many requests; close some of its tabs", retry_after_s=1)
        self._room -= 1
        self.running += 1

    def leave(self) -> None:
        """A request has been answered."""
        self.running -= 1


class PageSessions:
    """All of them. Call it only in the event loop."""

    def __init__(self, directory: Directory, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Keys are looked up in `directory`. `clock_s` is monotonic."""
        self._directory, self._clock_s = directory, clock_s
        self._invitations: OrderedDict[bytes, tuple[float, Actor]] = OrderedDict()  # with when they end
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()  # the one that was used last is last

    def __len__(self) -> int:
        return len(self._sessions)

    def invite(self, actor: Actor) -> str:
        """What begins one session of an administrator, within a minute."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        self._invitations[_hash(secret)] = self._clock_s() + INVITATION_S, actor
        if len(self._invitations) > MOST_INVITATIONS:
            self._invitations.popitem(last=False)
        return secret

    def accept(self, invitation: str, door: str) -> Opened:
        """Begin a session with an invitation, which works once. Raises Unauthenticated."""
        ends_s, actor = self._invitations.pop(_hash(invitation), (float("-inf"), None))
        if actor is None or self._clock_s() > ends_s or not self._may_administer(actor):
            raise Unauthenticated("this address was used before or has expired; run `tenantctl web` for a new one")
        return self._begin(Session(door, "", actor.key_id, actor, self._clock_s()))

    def log_in(self, key: KnownKey, door: str) -> Opened:
        """Begin a session of a key."""
        whose = "" if key.tenant is None else f"tenant {key.tenant.id}"
        return self._begin(Session(door, whose, key.id, None, self._clock_s()))

    def find(self, cookie: str, page: str, door: str) -> Session | None:
        """The session that a browser proves at this door, if it has not ended."""
        session = self._sessions.get(_hash(cookie))
        if session is None or session.door != door or not compare_digest(session.page, _hash(page)):
            return None
        if session.has_ended(self._clock_s()) or self.asker(session) is None:
            self.end(session)
            return None
        return session

    def use(self, session: Session) -> None:
        """Count a request of a session, which must `leave` it. Raises TooManyPageRequests."""
        session.enter(self._clock_s())
        session.used_s = self._clock_s()
        self._sessions.move_to_end(session.name)

    def asker(self, session: Session) -> Asker | None:
        """Whom a session stands for; None if that has ended."""
        if session.actor is None:
            key = self._directory.key_by_id(session.key_id or "")
            return None if key is None else Asker(key, Actor(key_id=key.id))
        if not self._may_administer(session.actor):
            return None
        return Asker(KnownKey(None, session.key_id or "", frozenset({Scope.ADMIN}), is_used=True), session.actor)

    def end(self, session: Session) -> None:
        """End a session. Safe to call twice."""
        self._sessions.pop(session.name, None)

    def end_invited(self) -> int:
        """End all invitations and what was begun with one. Returns how many sessions that were."""
        self._invitations.clear()
        invited = [session for session in self._sessions.values() if session.actor is not None]
        for session in invited:
            self.end(session)
        return len(invited)

    def by_group(self) -> set[int]:
        """The users who were invited as members of the group that administers."""
        invited = [actor for _, actor in self._invitations.values()]
        invited += [session.actor for session in self._sessions.values() if session.actor is not None]
        return {actor.uid for actor in invited if actor.uid is not None and is_by_group(actor)}

    def end_of_users(self, uids: Container[int | None]) -> None:
        """End invitations of users who no longer are in that group, and what was begun with one."""
        kept = [(name, one) for name, one in self._invitations.items() if not _is_one_of(uids, one[1])]
        self._invitations = OrderedDict(kept)
        for session in list(self._sessions.values()):
            if session.actor is not None and _is_one_of(uids, session.actor):
                self.end(session)

    def has_invited(self) -> bool:
        """Whether an invitation, or a session that was begun with one, has not ended. Forgets all that has ended."""
        now_s = self._clock_s()
        self._invitations = OrderedDict((name, one) for name, one in self._invitations.items() if now_s <= one[0])
        for session in list(self._sessions.values()):
            if session.has_ended(now_s):
                self.end(session)
        return bool(self._invitations) or any(one.actor is not None for one in self._sessions.values())

    def _may_administer(self, actor: Actor) -> bool:
        """Whether an administrator still is one: by its user, or by the key that it showed."""
        if actor.key_id is None:
            return True
        key = self._directory.key_by_id(actor.key_id)
        return key is not None and Scope.ADMIN in key.scopes

    def _begin(self, session: Session) -> Opened:
        cookie, page = secrets.token_urlsafe(SECRET_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        session.name, session.page = _hash(cookie), _hash(page)
        counts = Counter(one.whose for one in self._sessions.values())
        administrators = counts.pop("", 0)
        if (counts[session.whose] if session.whose else administrators) >= MOST_OF_ONE:
            self._end_oldest(session.whose)
        elif session.whose and counts.total() >= MOST_SESSIONS:
            self._end_oldest(counts.most_common(1)[0][0])
        self._sessions[session.name] = session
        return Opened(session, cookie, page)

    def _end_oldest(self, whose: str) -> None:
        """End the one that has not been used for longest."""
        self.end(next(one for one in self._sessions.values() if one.whose == whose))


def is_by_group(actor: Actor) -> bool:
    """Whether an administrator without a key is one only as a member of a group."""
    return actor.key_id is None and actor.uid not in (0, os.geteuid())


def _is_one_of(uids: Container[int | None], actor: Actor) -> bool:
    return is_by_group(actor) and actor.uid in uids


def _hash(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
