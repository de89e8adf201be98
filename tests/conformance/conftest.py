"""The official client on the Unix socket of a real daemon, as its users have it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import openai
import pytest

from tests.support.callbacks.watch import quick_callbacks
from tests.support.daemon import Daemon
from tests.support.openai_http import on_socket, on_socket_async

MODEL = "fake"
BASE_URL = "http://tenantd/v1"


class Shared:
    """A daemon without a model, its tenants' keys, and clients for them."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.keys = {name: daemon.add_tenant(name) for name in ("acme", "globex")}

    @contextmanager
    def client(self, key: str = "") -> Iterator[openai.OpenAI]:
        """With acme's key unless told otherwise. It does not try again: the tests want the first answer."""
        with connect(self.daemon, key or self.keys["acme"]) as client:
            yield client

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[openai.AsyncOpenAI]:
        async with openai.AsyncOpenAI(
            base_url=BASE_URL,
            api_key=self.keys["acme"],
            max_retries=0,
            http_client=on_socket_async(self.daemon.socket),
        ) as client:
            yield client


@contextmanager
def connect(daemon: Daemon, key: str) -> Iterator[openai.OpenAI]:
    """The synchronous client of one daemon."""
    http = on_socket(daemon.socket)
    with openai.OpenAI(base_url=BASE_URL, api_key=key, max_retries=0, http_client=http) as client:
        yield client


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with quick_callbacks(Daemon(tmp_path_factory.mktemp("shared"), engine={"context_tokens": 512})) as daemon:
        yield Shared(daemon)
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()


@pytest.fixture
def client(shared: Shared) -> Iterator[openai.OpenAI]:
    with shared.client() as one:
        yield one
