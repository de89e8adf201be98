"""Counts connections per Unix user and per key, and decides which to close and when.

File descriptors are limited, and the engine and the ledger need some, so a few are reserved for them and for
administrators. A user at its limit (or any user, if no descriptors are left) first loses the connection that has been
idle longest. A new connection is refused only if all others are busy.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tenantd.api.budget import BodyBudget
from tenantd.config import ServerConfig
from tenantd.errors import TooManyConnections
from tenantd.events import Events

if TYPE_CHECKING:
    from tenantd.api.connection import Connection

KEPT_BACK: Final = 128
"""Descriptors for the engine's pipes, the ledger and its readers, and files that the daemon opens briefly."""
FOR_ADMINISTRATORS: Final = 32
MAX_PARTIAL_HEADS_BYTES: Final = 8 * 1024 * 1024
"""Incomplete request heads, over all connections."""
SWEEP_INTERVAL_S: Final = 0.5
RETRY_S: Final = 1


def descriptor_limit() -> int:
    """How many descriptors this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def is_administrator(uid: int) -> bool:
    """Whether this is root or the daemon's own user."""
    return uid in (0, os.geteuid())


class Connections:
    """All open connections. Call it only in the event loop."""

    def __init__(self, settings: Callable[[], ServerConfig], events: Events, descriptors: int | None = None) -> None:
        """`settings` is called each time, because timeouts and limits can be reloaded. `descriptors`: see
        `descriptor_limit`. Refused connections and requests are announced in `events`.
        """
        self.settings = settings
        self.events = events
        self.bodies = BodyBudget(settings)
        self._descriptors = descriptor_limit() if descriptors is None else descriptors
        self._all: dict[Connection, None] = {}
        self._by_uid: defaultdict[int, dict[Connection, None]] = defaultdict(dict)
        self._unbusy: defaultdict[int, dict[Connection, None]] = defaultdict(dict)  # by user, longest first
        self._by_key: defaultdict[str, int] = defaultdict(int)
        self._administrators_extra = 0
        self._partial_heads: dict[Connection, int] = {}
        self._partial_bytes = 0
        self._sweeping: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    # -- limits

    @property
    def most(self) -> int:
        """Of everybody but administrators."""
        kept_back = min(KEPT_BACK, self._descriptors // 4) + min(FOR_ADMINISTRATORS, self._descriptors // 8)
        return self._descriptors - kept_back

    @property
    def most_per_uid(self) -> int:
        return min(self.settings().max_connections_per_uid or self._descriptors // 2, self.most)

    @property
    def most_per_key(self) -> int:
        return min(self.settings().max_connections_per_key or self._descriptors // 2, self.most)

    # -- coming and going

    def admit(self, uid: int) -> bool:
        """Make room for a connection of this user. True if it exceeds the limits and may only administer.

        Raises TooManyConnections.
        """
        if len(self._by_uid.get(uid, ())) >= self.most_per_uid and not self._evict(uid):
            reason = f"user {uid} already has {self.most_per_uid} connections (server.max_connections_per_uid)"
        elif len(self._all) - self._administrators_extra >= self.most and not self._evict(self._largest()):
            reason = f"{self.most} connections are open, the most that this daemon can have (see ulimit -n)"
        else:
            return False
        if is_administrator(uid) and self._administrators_extra < min(FOR_ADMINISTRATORS, self._descriptors // 8):
            return True
        raise TooManyConnections(f"{reason}; close some or try again", retry_after_s=RETRY_S)

    def add(self, connection: Connection) -> None:
        """Count a new connection."""
        self._all[connection] = None
        self._by_uid[connection.uid][connection] = None
        self._unbusy[connection.uid][connection] = None
        self._administrators_extra += connection.only_administers

    def remove(self, connection: Connection) -> None:
        """Stop counting a connection that is closed or about to be. Safe to call twice."""
        if connection not in self._all:
            return
        del self._all[connection]
        self._administrators_extra -= connection.only_administers
        for of_user in (self._by_uid, self._unbusy):
            of_user[connection.uid].pop(connection, None)
            if not of_user[connection.uid]:
                del of_user[connection.uid]
        self.note_partial_head(connection, 0)
        self._drop_key(connection)

    def use_key(self, connection: Connection, key_id: str) -> None:
        """Count the connection for this key. Raises TooManyConnections."""
        if connection.key_id == key_id:
            return
        if self._by_key[key_id] >= self.most_per_key:
            raise TooManyConnections(
                f"this API key already has {self.most_per_key} connections (server.max_connections_per_key); "
                "close some or try again",
                retry_after_s=RETRY_S,
            )
        self._drop_key(connection)
        connection.key_id = key_id
        self._by_key[key_id] += 1

    def _drop_key(self, connection: Connection) -> None:
        if key_id := connection.key_id:
            connection.key_id = ""
            self._by_key[key_id] -= 1
            if not self._by_key[key_id]:
                del self._by_key[key_id]

    # -- which connection to close

    def busy(self, connection: Connection) -> None:
        """Mark it as answering a request, so that it is not closed to make room."""
        self._unbusy[connection.uid].pop(connection, None)

    def unbusy(self, connection: Connection) -> None:
        """Mark it as idle: it may be closed to make room, after those of its user that have been idle longer."""
        if connection in self._all:
            self._unbusy[connection.uid].pop(connection, None)
            self._unbusy[connection.uid][connection] = None

    def note_partial_head(self, connection: Connection, size_bytes: int) -> None:
        """Record the size of its incomplete head; 0 once it is complete. Over the total limit, the oldest is closed."""
        self._partial_bytes += size_bytes - self._partial_heads.pop(connection, 0)
        if size_bytes:
            self._partial_heads[connection] = size_bytes
            while self._partial_bytes > MAX_PARTIAL_HEADS_BYTES:
                self._cut(next(iter(self._partial_heads)))

    def make_room(self) -> None:
        """Close an idle connection, if there is one, because descriptors have run out."""
        self._evict(self._largest())

    def _largest(self) -> int | None:
        """The user with the most idle connections."""
        return max(self._unbusy, key=lambda uid: len(self._unbusy[uid]), default=None)

    def _evict(self, uid: int | None) -> bool:
        if uid is None or not self._unbusy.get(uid):
            return False
        self._cut(next(iter(self._unbusy[uid])))
        return True

    def _cut(self, connection: Connection) -> None:
        self.remove(connection)
        connection.abort()

    # -- time

    def start(self) -> None:
        """Start checking periodically for connections that have timed out."""
        interval_s = min(SWEEP_INTERVAL_S, *(seconds / 4 for seconds in self._timeouts_s()))
        self._sweeping = asyncio.get_running_loop().call_later(interval_s, self._sweep)

    def stop(self) -> None:
        """Stop checking. Safe to call twice."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def _timeouts_s(self) -> tuple[float, ...]:
        server = self.settings()
        return server.head_timeout_s, server.body_timeout_s, server.idle_timeout_s, server.write_timeout_s

    def _sweep(self) -> None:
        self.start()  # first, so that the next check happens even if a connection raises here
        now_s = asyncio.get_running_loop().time()
        for connection in list(self._all):
            connection.check_time(now_s)
