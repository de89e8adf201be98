"""Lists names and ids while a shell completes them: with the standard library alone, because the user waits.

Prints no errors: they would appear in the middle of what the user types.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tenantctl.installed import find_socket

TIMEOUT_S: Final = 0.5
"""For everything together."""
MOST: Final = 200
"""Of requests."""
DIGITS: Final = 8
LIVE_STATES: Final = ("waiting", "running", "paused")
_HARMLESS: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
"""bash would run what else a server can send."""


class _Nothing(Exception):
    """There is nothing to offer."""


class _NotForMe(Exception):
    """Only administrators may know."""


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("tenantd", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


class _Asker:
    """Asks the daemon, with the key of the environment if there is one."""

    def __init__(self, place: Path | None) -> None:
        self._until_s = time.monotonic() + TIMEOUT_S
        self._prefix = ""
        key = os.environ.get("TENANTD_API_KEY", "").strip()
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        address = "" if place is not None else os.environ.get("TENANTD_URL", "")
        self._connection = self._at(address) if address else _SocketConnection(place or find_socket(None, quiet=True))

    def _at(self, address: str) -> http.client.HTTPConnection:
        parts = urlsplit(address)
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        import ssl

        trust = ssl.create_default_context(cafile=os.environ.get("TENANTD_CA") or None)
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S, context=trust)

    def get(self, path: str, tenant: str | None = None) -> Any:
        """An answer. Raises _Nothing, _NotForMe, and what http.client raises."""
        if time.monotonic() > self._until_s:
            raise _Nothing
        headers = self._headers if tenant is None else {**self._headers, "x-tenant": tenant}
        self._connection.request("GET", self._prefix + path, headers=headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status == HTTPStatus.FORBIDDEN:
            raise _NotForMe
        if response.status != HTTPStatus.OK:
            raise _Nothing
        return json.loads(body)

    def close(self) -> None:
        self._connection.close()


def print_offers(what: str, place: Path | None = None) -> None:
    """Print the names of `tenants`, the ids of live `keys`, those of `requests` that are not over, or of `recent` ones,
    as far as the daemon answers in time. `place` is its socket, if one was given."""
    try:
        asker = _Asker(place)
    except (OSError, ValueError):
        return
    try:
        for offer in OFFERS[what](asker):
            if _HARMLESS.fullmatch(offer):
                print(offer)
    except (_Nothing, _NotForMe, OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        pass
    finally:
        asker.close()


def _tenants(asker: _Asker) -> Iterator[str]:
    try:
        found = [tenant["name"] for tenant in asker.get("/admin/v1/tenants")["tenants"]]
    except _NotForMe:
        found = asker.get("/v1/identity")["tenants"]
    yield from found


def _keys(asker: _Asker) -> Iterator[str]:
    now_micros = time.time() * 1e6
    own = [f"/admin/v1/tenants/{tenant['name']}/keys" for tenant in asker.get("/admin/v1/tenants")["tenants"]]
    for path in ("/admin/v1/keys", *own):
        for key in asker.get(path)["keys"]:
            if key["revoked_micros"] is None and (key["expires_micros"] or now_micros) >= now_micros:
                yield key["id"]


def _requests(asker: _Asker) -> Iterator[str]:
    return _ids(asker, [f"state={state}&limit={MOST}" for state in LIVE_STATES])


def _recent(asker: _Asker) -> Iterator[str]:
    return _ids(asker, [f"limit={MOST}"])


def _ids(asker: _Asker, queries: Sequence[str]) -> Iterator[str]:
    """The last digits of ids, as tables show them and all commands take them."""
    try:
        yield from _found(asker, "/admin/v1/requests", queries, None)
    except _NotForMe:
        for tenant in asker.get("/v1/identity")["tenants"]:
            yield from _found(asker, "/v1/requests", queries, tenant)


def _found(asker: _Asker, path: str, queries: Sequence[str], tenant: str | None) -> Iterator[str]:
    for query in queries:
        for request in asker.get(f"{path}?{query}", tenant)["requests"]:
            yield request["id"][-DIGITS:]


OFFERS: Final = {"tenants": _tenants, "keys": _keys, "requests": _requests, "recent": _recent}
