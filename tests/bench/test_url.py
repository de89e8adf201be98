"""Any OpenAI-compatible server: what is asked of it before a run and in one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from tenantctl.bench import load
from tenantctl.bench.subjects import probe
from tenantctl.main import app
from tenantd.errors import TenantdError

MOST_S = 60
"""A run that shows nothing by then ends all the same, and its test fails."""


class Handler(BaseHTTPRequestHandler):
    """One model with a vocabulary of 2000, one key. Answers with the tokens asked for."""

    bodies: ClassVar[list[dict[str, Any]]]
    keys: ClassVar[dict[int, str]]  # by the length of the prompt
    hold_after: ClassVar[int | None]  # requests; further ones get their answer when the run has been seen
    is_seen: ClassVar[Callable[[], bool]]  # what the test waits for has come
    seen: ClassVar[threading.Event]
    counting: ClassVar[threading.Lock]

    def do_GET(self) -> None:
        if self.headers["authorization"] != "Bearer secret":
            self.send_error(401)
            return
        self._answer(json.dumps({"data": [{"id": "some-model", "meta": {"n_vocab": 2000}}, {"id": "other"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.counting:
            self.bodies.append(body)
            self.keys[len(body["prompt"])] = self.headers["authorization"]
            is_held = self.hold_after is not None and len(self.bodies) > self.hold_after
            if type(self).is_seen():
                self.seen.set()
        if is_held:
            self.seen.wait(MOST_S)
        event = b'data: {"choices":[{"text":"a","finish_reason":null}]}\n\n'
        self._answer(event * body["max_tokens"] + b"data: [DONE]\n\n")

    def _answer(self, content: bytes) -> None:
        with suppress(ConnectionError):  # it may have been cut off
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """All clients of a suite connect at once. No answer outlasts its test."""

    request_queue_size = 128
    daemon_threads = False


@pytest.fixture
def url() -> Iterator[str]:
    Handler.bodies = []
    Handler.keys = {}
    Handler.hold_after = None
    Handler.is_seen = lambda: False
    Handler.seen = threading.Event()
    Handler.counting = threading.Lock()
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        Handler.seen.set()
        server.shutdown()


@pytest.fixture
def run_until_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on until the server has seen enough: its clock stops just before the end and then jumps past it."""
    began_s = time.perf_counter()

    def now_s() -> float:
        elapsed_s = time.perf_counter() - began_s
        return min(elapsed_s, 0.4) + (Handler.seen.is_set() or elapsed_s > MOST_S)

    monkeypatch.setattr(load, "time", SimpleNamespace(perf_counter=now_s))


@pytest.mark.usefixtures("run_until_seen")
def test_a_server_is_driven_with_its_model_its_key_and_further_fields(url: str) -> None:
    clients, first = 6 + 12, 1
    Handler.hold_after = first + clients  # a client's second request shows that its first one is done
    Handler.is_seen = lambda: len(Handler.bodies) >= first + 2 * clients
    arguments = ["bench", "overload", "--url", url, "--api-key", "secret", "--duration", "0.5", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--extra", "cache_prompt=false", "--extra", "lora=x y"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["target"] == url.removeprefix("http://").removesuffix("/v1")
    assert all(t["done"] > 0 and not t["failed"] for t in content["tenants"])
    assert "ledger" not in result.stderr
    for body in Handler.bodies:
        assert (body["model"], body["cache_prompt"], body["lora"]) == ("some-model", False, "x y")
        assert all(1000 <= token < 2000 for token in body["prompt"])
    assert {len(body["prompt"]) for body in Handler.bodies} == {16, 128}  # the first one is small


@pytest.mark.usefixtures("run_until_seen")
def test_tenants_can_have_keys_of_their_own(url: str) -> None:
    Handler.is_seen = lambda: {64, 512} <= Handler.keys.keys()
    arguments = ["bench", "short-long", "--url", url, "--api-key", "secret", "--duration", "0.5", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--tenant-key", "long=sk-long=1"])
    assert result.exit_code == 0, result.output
    assert (Handler.keys[64], Handler.keys[512]) == ("Bearer secret", "Bearer sk-long=1")
    unknown = CliRunner().invoke(app, [*arguments, "--tenant-key", "nobody=x"])
    assert unknown.exit_code == 2 and "no tenant nobody; it has short, long" in unknown.stderr


def test_a_model_that_was_named_is_kept(url: str) -> None:
    target, n_tokens = probe(url, "secret", {"model": "other"})
    assert dict(target.extra) == {"model": "other"}
    assert n_tokens == 2000


def test_a_wrong_key_is_said_to_be_one(url: str) -> None:
    with pytest.raises(TenantdError, match="--api-key"):
        probe(url, "guess", {})
