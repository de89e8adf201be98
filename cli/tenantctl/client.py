"""Client for the daemon: HTTP over its Unix socket.

httpx is imported on the first connection, so that `--help` and completion do not wait for it.
"""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from tenantctl.failures import error_from
from tenantctl.render import message
from tenantctl.sse import Unfinished, answer_events
from tenantd.errors import DaemonNotRunning, EngineUnavailable, Forbidden, TenantdError, Unauthenticated
from tenantd.paths import default_config_path, default_socket, default_state_dir

if TYPE_CHECKING:
    import httpx

ANSWER_TIMEOUT_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 5.0
TENANT_HEADER: Final = "x-tenant"
CLIENT_ID_HEADER: Final = "x-client-request-id"


def find_socket(given: Path | None, *, quiet: bool = False) -> Path:
    """The first of: --socket, TENANTD_SOCKET, the configuration file, the default.

    Warns about a broken configuration file unless `quiet`; the daemon may be running with an earlier version of it.
    """
    if given is not None:
        return given
    configured = None if os.environ.get("TENANTD_SOCKET") else _configured("server", "socket", quiet=quiet)
    return configured or default_socket()


def configured_state_dir() -> Path:
    """The first of: TENANTD_STATE_DIR, the configuration file, the default."""
    configured = None if os.environ.get("TENANTD_STATE_DIR") else _configured("ledger", "state_dir", quiet=False)
    return configured or default_state_dir()


def configured_anchor() -> Path | None:
    """The file of security.anchor, if it is set and exists."""
    path = _configured("security", "anchor", quiet=False)
    return path if path is not None and path.is_file() else None


def _configured(section: str, key: str, *, quiet: bool) -> Path | None:
    """A path in the configuration file, if it is set."""
    path = default_config_path()
    try:
        settings = tomllib.loads(path.read_text("utf-8")).get(section)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        if not quiet:
            message(f"warning: cannot read {path} ({e}); trying the default {key.replace('_', ' ')}")
        return None
    configured = settings.get(key) if isinstance(settings, dict) else None
    return Path(configured).expanduser() if isinstance(configured, str) and configured else None


def url(*parts: str) -> str:
    """/admin/v1/… with each part percent-encoded."""
    return "/".join(["/admin/v1", *(quote(part, safe="") for part in parts)])


class Client:
    """One connection to the daemon; a context manager. Every failure is raised as a TenantdError."""

    def __init__(self, path: Path, timeout_s: float = ANSWER_TIMEOUT_S, *, key: str = "") -> None:
        """With `key`, every request carries it as a bearer token; without, the kernel identifies the user."""
        self.socket = path
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
        return Client(self.socket, timeout_s, key=self._key)

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

    def queue(self, tenant: str | None) -> list[dict[str, Any]]:
        """Requests of one's own tenant, or of `tenant`, that have no token yet."""
        answer = self._request("GET", "/v1/queue", headers=_headers(tenant))
        waiting: list[dict[str, Any]] = answer["waiting"]
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

    def _probe(self) -> None:
        """Connect once, to learn the system's reason if it fails."""
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(CONNECT_TIMEOUT_S)
                probe.connect(str(self.socket))
        except OSError as e:
            raise _not_connected(self.socket, e) from e

    def _went_away(self) -> DaemonNotRunning:
        return DaemonNotRunning(f"the daemon at {self.socket} closed the connection before its answer was complete")

    @contextmanager
    def _explained(self) -> Iterator[httpx.Client]:
        """The connection. Turns transport errors into TenantdError."""
        import httpx

        if self._http is None:
            # no proxies and no certificates: httpx would look both up, and a Unix socket uses neither
            transport = httpx.HTTPTransport(uds=str(self.socket), verify=False, trust_env=False)
            timeout = httpx.Timeout(self._timeout_s, connect=min(CONNECT_TIMEOUT_S, self._timeout_s))
            headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
            self._http = httpx.Client(
                transport=transport, base_url="http://tenantd", headers=headers, timeout=timeout, trust_env=False
            )
        try:
            self._probe()
            yield self._http
        except httpx.ConnectError as e:
            raise DaemonNotRunning(f"lost the connection to the daemon at {self.socket} ({e})") from e
        except httpx.TimeoutException as e:
            raise EngineUnavailable(f"the daemon at {self.socket} did not answer within {self._timeout_s:g} s") from e
        except httpx.TransportError as e:
            raise self._went_away() from e


def _not_connected(path: Path, error: OSError) -> TenantdError:
    if isinstance(error, PermissionError):
        return Forbidden(f"permission denied: {path}; join the group of the socket, or ask its owner")
    reason = "" if isinstance(error, FileNotFoundError | ConnectionRefusedError) else f" ({error})"
    return DaemonNotRunning(f"no daemon is listening on {path}{reason}; start one with: tenantctl serve")


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
        raise TenantdError(f"HTTP {response.status_code} without JSON: is this the socket of tenantd?") from e


def _refusal(response: httpx.Response) -> TenantdError:
    return error_from(_decoded(response), response.status_code, response.headers.get("retry-after"))
