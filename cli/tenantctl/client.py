"""Client for the daemon: HTTP over its Unix socket, or at a URL.

httpx is imported on the first connection, so that `--help` and completion do not wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from tenantctl.failures import error_from
from tenantctl.places import CONNECT_TIMEOUT_S, Place, SocketPlace
from tenantctl.sse import Unfinished, answer_events
from tenantd.errors import DaemonNotRunning, EngineUnavailable, InvalidRequest, TenantdError, Unauthenticated

if TYPE_CHECKING:
    import httpx

ANSWER_TIMEOUT_S: Final = 60.0
TENANT_HEADER: Final = "x-tenant"
CLIENT_ID_HEADER: Final = "x-client-request-id"


def url(*parts: str) -> str:
    """/admin/v1/… with each part percent-encoded. Raises InvalidRequest."""
    return "/".join(["/admin/v1", *map(segment, parts)])


def segment(text: str) -> str:
    """A part of a path, percent-encoded. Raises InvalidRequest if it would make the path another one."""
    if text in ("", ".", ".."):
        raise InvalidRequest(f"expected a name, an id or a month (got {text!r})")
    return quote(text, safe="")


class Client:
    """One connection to the daemon; a context manager. Every failure is raised as a TenantdError."""

    def __init__(self, place: Path | Place, timeout_s: float = ANSWER_TIMEOUT_S, *, key: str = "") -> None:
        """`place` is where the daemon is; a path is that of its socket. With `key`, every request carries it;
        without, the kernel identifies the user."""
        self.place: Place = SocketPlace(place) if isinstance(place, Path) else place
        self._timeout_s = timeout_s
        self._key = key
        self._http: httpx.Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._http is not None:
            self._http.close()

    def another(self, timeout_s: float) -> Client:
        """Another client with the same identity for the same daemon."""
        return Client(self.place, timeout_s, key=self._key)

    @property
    def socket(self) -> Path:
        """The daemon's socket, for what can be done only on its machine. Raises InvalidRequest."""
        if isinstance(self.place, SocketPlace):
            return self.place.path
        raise InvalidRequest(
            "this works only over the daemon's socket, on its own machine; leave out --url and unset TENANTD_URL"
        )

    # -- whole answers

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer. Parameters that are None are left out."""
        return self._request("GET", path, params={k: v for k, v in query.items() if v is not None})

    def get_text(self, path: str, **query: Any) -> str:
        """An answer that is not JSON. Parameters that are None are left out."""
        with self._explained() as http:
            response = http.get(path, params={k: v for k, v in query.items() if v is not None})
            if not response.is_success:
                raise _refusal(response)
            return response.text

    def post(self, path: str, body: Any = None) -> Any:
        return self._request("POST", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        return self._request("PATCH", path, json=body)

    def delete(self, path: str) -> Any:
        return self._request("DELETE", path)

    def model(self) -> dict[str, Any]:
        """The model that is served, as /v1/models shows it."""
        models: list[dict[str, Any]] = self.get("/v1/models")["data"]
        return models[0]

    def own(self, path: str, tenant: str | None, **query: Any) -> Any:
        """Something of a tenant's own: of the one that is named, or else of the only one that one can act for."""
        given = {k: v for k, v in query.items() if v is not None}
        return self._request("GET", path, params=given, headers=_headers(tenant))

    def post_own(self, path: str, tenant: str | None) -> Any:
        return self._request("POST", path, headers=_headers(tenant))

    @property
    def is_administrator(self) -> bool:
        """Whether it is certain, without asking, that the daemon takes commands of administration from here."""
        if self._key:
            return False
        try:
            return os.geteuid() in (0, self.socket.stat().st_uid)
        except OSError:
            return True  # connecting will fail, and tell why

    def queue(self, tenant: str | None) -> list[dict[str, Any]]:
        """Requests of one's own tenant, or of `tenant`, that have no token yet."""
        waiting: list[dict[str, Any]] = self.own("/v1/queue", tenant)["waiting"]
        return waiting

    def readiness(self) -> dict[str, Any]:
        """The body of /readyz, also if its status is 503."""
        with self._explained() as http:
            answer: dict[str, Any] = _decoded(http.get("/readyz"))
            return answer

    def _request(self, method: str, path: str, **options: Any) -> Any:
        with self._explained() as http:
            response = http.request(method, path, **options)
            if not response.is_success:
                raise _refusal(response)
            return _decoded(response)

    # -- streams

    @contextmanager
    def stream(
        self, path: str, body: dict[str, Any], tenant: str | None, name: str = ""
    ) -> Iterator[tuple[str, Iterator[Any]]]:
        """Yields the request's id in the ledger and its events. Leaving early closes the connection and cancels it.

        `name` is its client request id, shown in the queue. There is no time limit between events: a request may wait
        in the queue or for an engine to restart.
        """
        import httpx

        headers = _headers(tenant)
        if name:
            headers[CLIENT_ID_HEADER] = name
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        with (
            self._explained() as http,
            http.stream("POST", path, json=body, headers=headers, timeout=timeout) as response,
        ):
            if not response.is_success:
                response.read()
                raise _refusal(response)
            yield response.headers.get("x-request-id", ""), self._events(response)

    def _events(self, response: httpx.Response) -> Iterator[Any]:
        """Yields the JSON of each event until [DONE]. Raises the error of an error event, DaemonNotRunning if the
        stream just ends."""
        try:
            yield from answer_events(response.iter_bytes())
        except Unfinished as e:
            raise self._went_away() from e

    # -- what goes wrong below HTTP

    def _went_away(self) -> DaemonNotRunning:
        return DaemonNotRunning(f"the daemon at {self.place} closed the connection before its answer was complete")

    @contextmanager
    def _explained(self) -> Iterator[httpx.Client]:
        """The connection. Turns transport errors into TenantdError."""
        if self._http is None:
            self.place.probe()
        import httpx  # takes longer than to find that nothing listens

        try:
            if self._http is None:
                self._http = self.place.http(self._timeout_s, self._key)
            yield self._http
        except httpx.ConnectError as e:
            raise self.place.not_connected(e) from e
        except httpx.ConnectTimeout as e:
            raise DaemonNotRunning(
                f"nothing at {self.place} accepted a connection within {CONNECT_TIMEOUT_S:g} s"
            ) from e
        except httpx.TimeoutException as e:
            raise EngineUnavailable(f"the daemon at {self.place} did not answer within {self._timeout_s:g} s") from e
        except httpx.TransportError as e:
            raise self._went_away() from e
        except httpx.InvalidURL:  # longer than the daemon would take, too
            raise InvalidRequest("an argument is too long") from None


def environment_key() -> str:
    """The key in TENANTD_API_KEY, or "" if there is none. Raises Unauthenticated if it cannot be a key."""
    key = os.environ.get("TENANTD_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise Unauthenticated(
            "TENANTD_API_KEY is not an API key: it contains spaces or unusual characters; unset it or pass --admin"
        )
    return key


def _headers(tenant: str | None) -> dict[str, str]:
    """The header that names the tenant."""
    return {TENANT_HEADER: tenant} if tenant else {}


def _decoded(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as e:
        raise TenantdError(f"HTTP {response.status_code} without JSON: does tenantd listen there?") from e


def _refusal(response: httpx.Response) -> TenantdError:
    return error_from(_decoded(response), response.status_code, response.headers.get("retry-after"))
