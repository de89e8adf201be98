"""The official client on the Unix socket of a real daemon, as its users have it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import openai
import pytest

from tests.support.callbacks.watch import quick_callbacks
from tests.support.client_packages import NODE, oldest_python
from tests.support.daemon import Daemon
from tests.support.network import urls
from tests.support.openai_http import on_socket, on_socket_async

MODEL = "fake"
BASE_URL = "http://tenantd/v1"
collect_ignore = [] if NODE else ["test_node.py"]
"""The start of a test run says so."""


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


@pytest.fixture(scope="session")
def oldest() -> str:
    """A Python with the oldest client."""
    return oldest_python()


@pytest.fixture(params=["oldest", "newest"])
def python(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("oldest")) if request.param == "oldest" else sys.executable


class Tiny:
    """A daemon on its socket and on TCP, with real llama.cpp and random weights: only grammars give answers a form."""

    def __init__(self, folder: Path) -> None:
        from tests.support.tiny_gguf import write_tiny_gguf  # needs gguf, which is not installed beside other clients

        model = {"path": str(write_tiny_gguf(folder / "tiny.gguf")), "name": "tiny"}
        engine = {"backend": "llama", "context_tokens": 1024, "slots": 2}
        server = {"listen": [{"address": "127.0.0.1:0"}]}
        self.daemon = Daemon(folder, engine=engine, model=model, server=server)
        self._tenants = itertools.count()

    def environment(self, way: str) -> dict[str, str]:
        """Where it is, by "socket" or "tcp", and the keys of two new tenants, one of which may ask once a minute."""
        there = (
            {"TENANTD_SOCKET": str(self.daemon.socket)} if way == "socket" else {"TENANTD_URL": urls(self.daemon)[0]}
        )
        number = next(self._tenants)
        busy = self.daemon.add_tenant(f"busy-{number}", limits={"requests_per_minute": 1})
        return {**there, "TENANTD_API_KEY": self.daemon.add_tenant(f"acme-{number}"), "BUSY_KEY": busy}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    one = Tiny(tmp_path_factory.mktemp("tiny"))
    with one.daemon:
        yield one


@pytest.fixture(params=["socket", "tcp"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)
