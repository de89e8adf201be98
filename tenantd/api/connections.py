"""Counts connections per source (a Unix user, or an address), per listener and per key, and decides which to close and
when.

File descriptors are limited, and the engine and the ledger need some, so a few are reserved for them and for
administrators. A source at its limit (or any source, if no descriptors are left) first loses the connection that has
been idle longest. A new connection is refused only if all others are busy.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from starlette.types import Scope

from tenantd.api.budget import BodyBudget
from tenantd.api.doors import Door, Source
from tenantd.api.parsing import Turns
from tenantd.api.peers import Administrators
from tenantd.api.starts import Starts
from tenantd.api.unpaid import Unpaid
from tenantd.api.wrong_keys import WrongKeys
from tenantd.config import ServerConfig
from tenantd.errors import TooManyConnections
from tenantd.events import Events

if TYPE_CHECKING:
    from tenantd.api.connection import Connection

KEPT_BACK: Final = 128
"""Descriptors for the engine's pipes, the ledger and its readers, and files that the daemon opens briefly."""
FOR_ADMINISTRATORS: Final = 32
MOST_COMPARED: Final = 1024
"""Sources looked at to find the one with the most idle connections; each accept on a full port does so."""
MOST_ON_A_PORT: Final = 4096
"""Connections on a port on TCP, if no other number is set: they cost memory and time before they show a key."""
MAX_PARTIAL_HEADS_BYTES: Final = 8 * 1024 * 1024
"""Incomplete request heads, over all connections."""
SWEEP_INTERVAL_S: Final = 0.5
RETRY_S: Final = 1


def descriptor_limit() -> int:
    """How many descriptors this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


class Connections:
    """All open connections. Call it only in the event loop."""

    def __init__(
        self,
        settings: Callable[[], ServerConfig],
        events: Events,
        has_right_key: Callable[[Scope], bool],
        descriptors: int | None = None,
    ) -> None:
        """`settings` is called each time, because timeouts and limits can be reloaded. Refused connections and
        requests are announced in `events`. `has_right_key` tells of a request whether it shows a key that is live.
        `descriptors`: see `descriptor_limit`. Raises ConfigError.
        """
        self.settings = settings
        self.events = events
        self.has_right_key = has_right_key
        self.bodies, self.answers = BodyBudget(settings), BodyBudget(settings)
        self.wrong_keys = WrongKeys(time.monotonic)
        self.turns, self.starts, self.unpaid = Turns(), Starts(), Unpaid()
        self.administrators = Administrators(settings().admin_group)
        self._descriptors = descriptor_limit() if descriptors is None else descriptors
        self._all: dict[Connection, None] = {}
        self._by_source: defaultdict[Source, dict[Connection, None]] = defaultdict(dict)
        self._unbusy: defaultdict[Source, dict[Connection, None]] = defaultdict(dict)  # longest first
        self._by_door: defaultdict[str, int] = defaultdict(int)
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

    def _most_of(self, door: Door) -> tuple[int, str]:
        """Of one source there, and the setting that says so."""
        server = door.settings()
        if door.listen is None:
            most, setting = server.max_connections_per_uid or self._descriptors // 2, "max_connections_per_uid"
        else:
            most, setting = server.max_connections_per_address or self._descriptors // 8, "max_connections_per_address"
        return min(most, self.most), setting

    def _most_at(self, door: Door) -> int:
        """Of all sources there."""
        if (listen := door.listen) is None:
            return self._descriptors  # `most` is what bounds them
        most = listen.max_connections or min(MOST_ON_A_PORT, self._descriptors // 2)
        return min(most, self.most)

    @property
    def most_per_key(self) -> int:
        return min(self.settings().max_connections_per_key or self._descriptors // 2, self.most)

    # -- coming and going

    def admit(self, door: Door, source: Source, *, administers: bool) -> bool:
        """Make room for a connection. True if it exceeds the limits and may only administer.

        Raises TooManyConnections.
        """
        (most, setting), most_here = self._most_of(door), self._most_at(door)
        if len(self._by_source.get(source, ())) >= most and not self._evict(source):
            reason = f"{source.name} already has {most} connections (server.{setting})"
        elif self._by_door.get(door.name, 0) >= most_here and not self._evict(self._largest(door.name)):
            reason = f"{most_here} connections are open on this port ({door.name}.max_connections)"
        elif len(self._all) - self._administrators_extra >= self.most and not self._evict(self._largest()):
            reason = f"{self.most} connections are open, the most that this daemon can have (see ulimit -n)"
        else:
            return False
        if administers and self._administrators_extra < min(FOR_ADMINISTRATORS, self._descriptors // 8):
            return True
        raise TooManyConnections(f"{reason}; close some or try again", retry_after_s=RETRY_S)

    def add(self, connection: Connection) -> None:
        """Count a new connection."""
        self._all[connection] = None
        self._by_source[connection.source][connection] = None
        self._unbusy[connection.source][connection] = None
        self._by_door[connection.source.door] += 1
        self._administrators_extra += connection.only_administers

    def remove(self, connection: Connection) -> None:
        """Stop counting a connection that is closed or about to be. Safe to call twice."""
        if connection not in self._all:
            return
        del self._all[connection]
        self._administrators_extra -= connection.only_administers
        self._by_door[connection.source.door] -= 1
        for of_source in (self._by_source, self._unbusy):
            of_source[connection.source].pop(connection, None)
            if not of_source[connection.source]:
                del of_source[connection.source]
        self.note_partial_head(connection, 0)
        if connection.address is not None:
            self.unpaid.leave(connection.address, connection)
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
        if (of_source := self._unbusy.get(connection.source)) is not None:
            of_source.pop(connection, None)

    def unbusy(self, connection: Connection) -> None:
        """Mark it as idle: it may be closed to make room, after those of its source that have been idle longer."""
        if connection in self._all:
            self._unbusy[connection.source].pop(connection, None)
            self._unbusy[connection.source][connection] = None

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

    def _largest(self, door: str | None = None) -> Source | None:
        """The source with the most idle connections, there or anywhere, of those that came first."""
        found = (source for source in itertools.islice(self._unbusy, MOST_COMPARED) if door in (None, source.door))
        return max(found, key=lambda source: len(self._unbusy[source]), default=None)

    def _evict(self, source: Source | None) -> bool:
        if source is None or not self._unbusy.get(source):
            return False
        self._cut(next(iter(self._unbusy[source])))
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
        """Stop checking, and drop who has not yet shaken hands. Safe to call twice."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for connection in list(self._all):
            if connection.transport is None:
                self._cut(connection)

    def _timeouts_s(self) -> Iterator[float]:
        own = self.settings()
        for server in (own, *map(own.at, own.listen)):
            yield from (server.head_timeout_s, server.body_timeout_s, server.idle_timeout_s, server.write_timeout_s)

    def _sweep(self) -> None:
        self.start()  # first, so that the next check happens even if a connection raises here
        now_s = asyncio.get_running_loop().time()
        for connection in list(self._all):
            connection.check_time(now_s)
