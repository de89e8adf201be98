"""A real daemon in a temporary folder: started, spoken to over its socket, signalled, and always cleaned up."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tenantctl.bench.launcher import OwnDaemon
from tenantctl.sse import DONE, EventReader

START_TIMEOUT_S = 240
SAID_AT_START = b" INFO ready: "
"""In the last line that says how it was started; warnings of little memory may follow."""
PYTHON = os.environ.get("DAEMON_PYTHON", sys.executable)
"""What runs the daemon: another than the tests' own where they run beside another version of a client."""


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 120) -> Any:
    """The first true value of `condition`, which is asked again and again; fails with `what` after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while time.monotonic() < deadline_s:
        if value := condition():
            return value
        pause.wait(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def far_from_midnight(now: datetime | None = None) -> str:
    """A time zone in which no day or month ends in the next hour, and today has the date of UTC: what a test makes is
    all in the same day, week and month."""
    hour = (now or datetime.now(UTC)).hour
    return {23: "Etc/GMT+12", 0: "Etc/GMT-12"}.get(hour, "UTC")  # which are twelve hours behind, and ahead


class Daemon(OwnDaemon):
    """One daemon that a test may do anything to. `settings` are tables of its configuration file; the engine without a
    model is the default. Use as a context manager."""

    def __init__(self, folder: Path, **settings: dict[str, Any]) -> None:
        self._timezone = far_from_midnight()
        super().__init__(folder, settings, python=PYTHON)

    def configure(self, **settings: Any) -> None:
        engine = {"backend": "fake", "slots": 4, "restart_delay_s": 0.01, **settings.get("engine", {})}
        billing = {"timezone": self._timezone, **settings.get("billing", {})}
        super().configure(**{**settings, "engine": engine, "billing": billing})

    def __enter__(self) -> Daemon:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, *, before_exec: Callable[[], None] | None = None, **environment: str) -> None:
        """Start it and wait until it is ready, and its log, which a thread writes, says what it says at a start."""
        before = self.log.stat().st_size if self.log.exists() else 0
        self.launch(before_exec, **environment)
        self.wait_ready(START_TIMEOUT_S)
        wait_until(lambda: SAID_AT_START in self.log.read_bytes()[before:], "its log")

    def is_up(self) -> bool:
        """Whether it answers; it must not have ended."""
        assert self.running.poll() is None, self.log.read_text()
        return self.readiness() is not None

    def is_ready(self) -> bool:
        """Whether its model is loaded; it must not have ended."""
        return self.is_up() and self.get("/readyz").status_code == 200

    def client(self, timeout_s: float = 300) -> httpx.Client:
        """Of the daemon's own user: an administrator."""
        transport = httpx.HTTPTransport(uds=str(self.socket), verify=False)  # certificates would be read each time
        return httpx.Client(transport=transport, base_url="http://tenantd", timeout=timeout_s, trust_env=False)

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.request(method, url, **options)

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.request("GET", url, **options)

    def post(self, url: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.request("POST", url, json=body, **options)

    def add_tenant(self, name: str, **settings: Any) -> str:
        """Its key."""
        answer = self.post("/admin/v1/tenants", {"name": name, **settings})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])

    def complete(self, tenant: str, prompt: Any = "hello", **body: Any) -> httpx.Response:
        """A whole completion as this tenant."""
        return self.post("/v1/completions", {"prompt": prompt, **body}, headers={"X-Tenant": tenant})

    def stream(self, tenant: str, prompt: Any = "hello", **body: Any) -> Stream:
        """A completion as a stream, read in a thread."""
        return Stream(self, tenant, {"prompt": prompt, "stream": True, **body})

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.get("/admin/v1/status").raise_for_status().json()
        return answer

    def engine_pid(self) -> int:
        """Of the engine process."""
        return int(wait_until(self.engines, "an engine process")[0].pid)

    def rows(self) -> list[dict[str, Any]]:
        """Every request in the ledger, read from its file."""
        with sqlite3.connect(f"file:{self.folder / 'state' / 'ledger.db'}?mode=ro", uri=True) as connection:
            connection.row_factory = sqlite3.Row
            rows = [dict(row) for row in connection.execute("SELECT * FROM requests ORDER BY created_micros, id")]
        connection.close()
        return rows


class Stream:
    """A streamed completion: the events so far, and what is wrong with it if something is."""

    def __init__(self, daemon: Daemon, tenant: str, body: dict[str, Any]) -> None:
        self.status = 0
        self.request_id = ""
        self.answer_id = ""
        self.headers: dict[str, str] = {}
        self.text = ""
        self.tokens = 0
        self.finish_reason: str | None = None
        self.usage: dict[str, int] | None = None
        self.error: dict[str, Any] | None = None
        self.done = False
        self._daemon = daemon
        self._body = {"stream_options": {"include_usage": True}, **body}
        self._thread = threading.Thread(target=self._read, args=(tenant,), daemon=True)
        self._thread.start()

    def _read(self, tenant: str) -> None:
        try:
            self._run(tenant)
        except httpx.TransportError as e:  # the daemon was killed
            self.error = {"code": "connection_lost", "message": str(e)}

    def _run(self, tenant: str) -> None:
        headers = {"X-Tenant": tenant}
        with (
            self._daemon.client(timeout_s=600) as client,
            client.stream("POST", "/v1/completions", json=self._body, headers=headers) as answer,
        ):
            self.status = answer.status_code
            self.headers = dict(answer.headers)
            self.request_id = self.headers.get("x-request-id", "")
            if answer.is_error:
                answer.read()
                self.error = answer.json()["error"]
                return
            reader = EventReader()
            for chunk in answer.iter_bytes():
                for data in reader.feed(chunk):
                    if data == DONE:
                        self.done = True
                    else:
                        self._on_event(json.loads(data))

    def _on_event(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.error = event["error"]
            return
        self.answer_id = event["id"]
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            self.text += choice["text"]
            self.finish_reason = choice["finish_reason"] or self.finish_reason
            self.tokens += choice["finish_reason"] is None

    def join(self, timeout_s: float = 600) -> Stream:
        """Wait for its end."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the stream did not end"
        return self

    def begun(self, tokens: int = 1) -> Stream:
        """Wait for so many tokens."""
        wait_until(lambda: self.tokens >= tokens or not self._thread.is_alive(), f"{tokens} tokens")
        assert self.tokens >= tokens, f"ended after {self.tokens} tokens: {self.error}"
        return self
