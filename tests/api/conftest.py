"""The API on a real Unix socket, in front of a service without an engine.

The server has an event loop in a thread of its own, so the tests are plain functions that use clients as users do.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import pytest
import uvloop

from tenantd.api.connections import Connections
from tenantd.api.server import Server, make_app
from tenantd.api.tcp import TcpListener, open_listeners
from tenantd.api.web.pages import Pages
from tenantd.config import AlertsConfig, Config, parse_config
from tenantd.watching.metrics import Meter
from tenantd.watching.request_log import RequestLog
from tenantd.watching.webhook import Webhook
from tests.api.fake_service import FakeService
from tests.support.contract import contract_of
from tests.support.openai_http import on_socket

T = TypeVar("T")


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(300)

    def call(self, function: Callable[[], T]) -> T:
        async def work() -> T:
            return function()

        return self.run(work())

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Api:
    """A running server and ways to talk to it."""

    def __init__(self, folder: Path, service: FakeService, loop: Loop) -> None:
        self.path = folder / "tenantd.sock"
        self.service = service
        self.loop = loop
        self.listeners = open_listeners(service.config)
        log = RequestLog(service.events)
        self.pages = pages = Pages(service.directory, lambda: service.config.server)
        app = make_app(service, Meter(service.events), no_webhook(), log, pages)  # type: ignore[arg-type]
        self._server = Server(
            app, self.listeners, lambda: service.config.server, service.events, service.directory, pages
        )
        loop.run(self._server.start())
        self._clients: list[httpx.Client] = []
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.path)), base_url="http://tenantd", timeout=120
        ) as client:
            self.contract = contract_of(client)
        self.client = self.new_client()

    def new_client(self, **headers: str) -> httpx.Client:
        """A client for which every answer has to be as the server describes it."""
        transport = httpx.HTTPTransport(uds=str(self.path))
        client = httpx.Client(transport=transport, base_url="http://tenantd", headers=headers, timeout=120)
        client.event_hooks = {"response": [self.contract.check]}
        self._clients.append(client)
        return client

    def url(self, number: int) -> str:
        """Of a listener on TCP."""
        listener = self.listeners[1 + number]
        assert isinstance(listener, TcpListener)
        return listener.url

    def address(self, number: int) -> tuple[str, int]:
        """Of a listener on TCP."""
        host, port = self.listeners[1 + number].sock.getsockname()[:2]
        return host, port

    def openai(self, key: str = "td_acme") -> openai.OpenAI:
        http = on_socket(self.path)
        self._clients.append(http)
        return openai.OpenAI(api_key=key, base_url="http://tenantd/v1", http_client=http, max_retries=0, timeout=120)

    def completion(self, *, key: str = "td_acme", **body: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return self.client.post("/v1/completions", json=body, headers=headers)

    def chat(self, **body: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=body, headers={"authorization": "Bearer td_acme"})

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Poll in the server's loop, for at most two minutes."""

        async def poll() -> None:
            async with asyncio.timeout(120):
                while not true():
                    await asyncio.sleep(0.005)

        self.loop.run(poll())

    @property
    def connections(self) -> Connections:
        return self._server.connections

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.loop.run(self._server.stop())
        self.service.pool.close()
        self.loop.run(self.service.grammars.close())


def no_webhook() -> Webhook:
    """Alerts that go nowhere."""
    return Webhook(AlertsConfig, lambda: "USD")


def make_config(folder: Path, settings: dict[str, Any] | None = None) -> Config:
    """The fake engine's, with everything in `folder`."""
    own: dict[str, Any] = {
        "engine": {"backend": "fake"},
        "model": {"name": "tiny"},
        "ledger": {"state_dir": folder / "state"},
        "server": {"socket": folder / "tenantd.sock"},
    }
    for name, section in (settings or {}).items():
        own[name] = {**own.get(name, {}), **section}
    return parse_config(own, "test")


def serve(folder: Path, settings: dict[str, Any] | None = None) -> Iterator[Api]:
    """A server for a fixture to yield from."""
    loop = Loop()
    api = Api(folder, loop.call(lambda: FakeService(make_config(folder, settings))), loop)
    try:
        yield api
    finally:
        api.close()
        loop.close()


@pytest.fixture
def settings() -> dict[str, Any]:
    """Sections of the configuration, for tests to override."""
    return {}


@pytest.fixture
def api(tmp_path: Path, settings: dict[str, Any]) -> Iterator[Api]:
    yield from serve(tmp_path, settings)
