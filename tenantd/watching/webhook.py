"""Sends alerts to the address of an operator, from a thread with a loop of its own.

Whatever the other side does harms nobody: it may hang, refuse, redirect, answer slowly or with an error. Each attempt
has one deadline for everything, and is repeated after growing delays. What waits is bounded, and the oldest gives way.
The address may hold a token, so it appears in no message.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from tenantd import __version__
from tenantd.config import AlertsConfig, BillingConfig, Config
from tenantd.errors import Conflict, InvalidRequest
from tenantd.events import Event, Events
from tenantd.watching.alerts import Alert, alert_of, budget_warnings, trial_alert

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

MOST_WAITING: Final = 256
ATTEMPTS: Final = 10
FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 300.0
_encode: Final = msgspec.json.Encoder().encode


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one attempt. `trouble` is "" if it was delivered; `status` is that of HTTP, None without one."""

    trouble: str = ""
    status: int | None = None


class Webhook:
    """Hears events and delivers alerts. `hear`, `status` and `test` belong to the event loop, the rest to a thread."""

    def __init__(self, settings: Callable[[], AlertsConfig], billing: Callable[[], BillingConfig]) -> None:
        """`settings` and `billing` are called each time, because the configuration can be reloaded."""
        self._settings = settings
        self._billing = billing
        self._lock = threading.Lock()  # guards the queue and the counts
        self._waiting: deque[Alert] = deque()
        self._delivered = self._failed = self._dropped = 0
        self._in_hand = 0  # 1 while one is being delivered
        self._trouble = ""
        self._is_testing = False
        self._is_closed = False
        self._wake = asyncio.Event()
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # -- in the event loop

    def hear(self, event: Event) -> None:
        """Queue the alert of an event, if it has one and alerts are sent. Takes microseconds."""
        if not self._settings().url.get_secret_value() or (alert := alert_of(event, self._billing())) is None:
            return
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(alert)
        self._started().call_soon_threadsafe(self._wake.set)

    def status(self) -> dict[str, Any]:
        """How alerts fare, without the address."""
        with self._lock:
            return {
                "is_on": bool(self._settings().url.get_secret_value()),
                "delivered": self._delivered,
                "failed": self._failed,
                "dropped": self._dropped,
                "waiting": len(self._waiting) + self._in_hand,
                "trouble": self._trouble,
            }

    async def test(self) -> Outcome:
        """Send a test alert now, once. Raises InvalidRequest without an address, Conflict while another is sent."""
        if not self._settings().url.get_secret_value():
            raise InvalidRequest("alerts are not sent anywhere: set alerts.url in the configuration and reload it")
        if self._is_testing:
            raise Conflict("another test alert is being sent; try again in a moment", retry_after_s=1)
        self._is_testing = True
        try:
            attempt = asyncio.run_coroutine_threadsafe(self._attempt(trial_alert()), self._started())
            return await asyncio.wrap_future(attempt)
        finally:
            self._is_testing = False

    def close(self, timeout_s: float = 0.5) -> None:
        """Try once to deliver what waits, for at most this long. Blocks."""
        self._is_closed = True
        if self._loop is not None and self._thread is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._wake.set)
            self._thread.join(timeout_s)

    def _started(self) -> asyncio.AbstractEventLoop:
        """The loop of the thread, which is started when it is first needed."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run, args=(self._loop,), name="alerts", daemon=True)
            self._thread.start()
        return self._loop

    # -- in the thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.run_until_complete(self._deliver_all())
        loop.close()

    async def _deliver_all(self) -> None:
        while (alert := await self._next()) is not None:
            await self._deliver(alert)

    async def _next(self) -> Alert | None:
        """The oldest that waits; None once it is closed and nothing waits."""
        while True:
            self._wake.clear()
            with self._lock:
                if self._waiting:
                    self._in_hand = 1
                    return self._waiting.popleft()
            if self._is_closed:
                return None
            await self._wake.wait()

    async def _deliver(self, alert: Alert) -> None:
        """Try until it is delivered or given up."""
        delay_s = FIRST_DELAY_S
        for attempt in range(1, ATTEMPTS + 1):
            outcome = await self._attempt(alert)
            self._note(outcome.trouble)
            if not outcome.trouble or attempt == ATTEMPTS or self._is_closed:
                break
            await self._pause(delay_s)
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)
        with self._lock:
            self._in_hand = 0
            self._delivered += not outcome.trouble
            self._failed += bool(outcome.trouble)
        if outcome.trouble:
            log.error("gave up on an alert: %s", alert.text)

    def _note(self, trouble: str) -> None:
        """Log what is wrong, once, and that it is over."""
        before, self._trouble = self._trouble, trouble
        if trouble and trouble != before:
            log.warning("cannot deliver an alert: %s", trouble)
        elif before and not trouble:
            log.info("alerts are delivered again")

    async def _pause(self, delay_s: float) -> None:
        """Wait, but not while the daemon stops."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + delay_s
        while not self._is_closed and (left_s := end_s - loop.time()) > 0:
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), left_s)
            except TimeoutError:
                return

    async def _attempt(self, alert: Alert) -> Outcome:
        """Send it once. Never raises, and takes no longer than `alerts.timeout_s`."""
        settings = self._settings()
        try:
            http = self._http()
            async with asyncio.timeout(settings.timeout_s):
                return await _post(http, settings.url.get_secret_value(), _encode(alert))
        except TimeoutError:
            return Outcome(trouble=f"no answer within {settings.timeout_s:g} s (alerts.timeout_s)")
        except Exception as e:  # whatever it is, its text may hold the address
            return Outcome(trouble=_reason(e, settings.url.get_secret_value()))

    def _http(self) -> httpx.AsyncClient:
        """Made late, because certificates take a moment. Knows no proxy, keeps no cookies and follows no redirect."""
        if self._client is None:
            import certifi
            import httpx

            trusted = ssl.create_default_context()  # what this machine trusts
            trusted.load_verify_locations(certifi.where())
            limits = httpx.Limits(max_keepalive_connections=0)
            self._client = httpx.AsyncClient(verify=trusted, timeout=None, trust_env=False, limits=limits)
        self._client.cookies.clear()
        return self._client


def alert_operators(events: Events, config: Callable[[], Config]) -> Webhook:
    """Listen to events: send alerts, and log the levels that budgets reach."""
    webhook = Webhook(lambda: config().alerts, lambda: config().billing)
    events.call("alerts", webhook.hear)
    events.call("budget warnings", budget_warnings(lambda: config().billing))
    return webhook


async def _post(http: httpx.AsyncClient, url: str, body: bytes) -> Outcome:
    """Raises what httpx raises."""
    headers = {"content-type": "application/json", "user-agent": f"tenantd/{__version__}"}
    async with http.stream("POST", url, content=body, headers=headers) as answer:
        if answer.is_success:
            return Outcome(status=answer.status_code)
        what = "redirects elsewhere" if answer.has_redirect_location else "refuses it"
        return Outcome(trouble=f"the server {what} (HTTP {answer.status_code})", status=answer.status_code)


def _reason(error: Exception, url: str) -> str:
    """Why an attempt failed, without the address: the system's words for a failed connection, or the kind."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError | socket.gaierror):
            host = urlsplit(url).hostname or url
            return f"cannot reach the server: {cause.strerror}".replace(host, "...")
        if isinstance(cause, OSError) and cause.errno:
            return f"cannot reach the server: {os.strerror(cause.errno)}"
        cause = cause.__cause__ or cause.__context__
    return f"cannot send it ({type(error).__name__})"
