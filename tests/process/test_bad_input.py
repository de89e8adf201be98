"""What clients should not send, from processes that should not send it: a clear answer, and the daemon serves on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.callbacks.watch import quick_callbacks
from tests.support.daemon import Daemon, wait_until
from tests.support.program import command_environment, tenantctl

LONG = 150_000  # tokens: for as long as a test takes, and more than buffers hold
FLOOD_BYTES = 50_000_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all of these: none of them may harm it."""
    settings = {
        "engine": {"context_tokens": 200_000, "fake_step_micros": 100},
        "server": {"write_timeout_s": 3},
    }
    with quick_callbacks(Daemon(tmp_path_factory.mktemp("shared"), **settings)) as daemon:
        daemon.add_tenant("acme")
        daemon.add_tenant("globex")
        yield daemon
        assert daemon.stop() == 0


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    yield shared
    serves_on(shared)


def serves_on(daemon: Daemon) -> None:
    """A good request is answered, nothing is left over, and the ledger has no open row."""
    answer = daemon.complete("acme", max_tokens=3, ignore_eos=True)
    assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 3)
    wait_until(lambda: daemon.status()["running"] + daemon.status()["waiting"] == 0, "an idle engine")
    wait_until(lambda: all(row["state"] != "running" for row in daemon.rows()), "every settlement")
    assert daemon.status()["engine_restarts"] == 0
    assert "Traceback" not in daemon.log.read_text()


def row_of(daemon: Daemon, request_id: str) -> dict[str, Any]:
    [row] = [row for row in daemon.rows() if row["id"] == request_id]
    return row


# ---- bodies and values over HTTP -------------------------------------------------------------------------------


def test_a_bad_body_gets_400_and_leaves_no_row(daemon: Daemon) -> None:
    rows = len(daemon.rows())
    bodies = [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"prompt": "a"',
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "seed": 1e999}',
        b'{"prompt": ' + b"[" * 1_000_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"prompt": [' + b"9" * 1_000_000 + b"]}",
    ]
    with daemon.client() as client:
        for body in bodies:
            answer = client.post("/v1/completions", content=body, headers={"X-Tenant": "acme"})
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), body[:40]
    assert len(daemon.rows()) == rows


ABSURD = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": "x" * 10_000_000}, "prompt"),
    ({"prompt": "x" * 200_000}, "prompt"),
    ({"prompt": [1] * 300_000}, "prompt"),
    ({"prompt": [258]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [10**100]}, "prompt"),
    ({"prompt": ["a"] * 10_000}, "prompt"),
    ({"max_tokens": 10**12}, "max_tokens"),
    ({"max_tokens": -2}, "max_tokens"),
    ({"n": 10**9}, "n"),
    ({"stop": ["x"] * 60_000}, "stop"),
    ({"stop": ["x" * 300] * 16}, "stop"),
    ({"stop": "x" * 1_000_000}, "stop"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 1e300}, "temperature"),
    ({"top_p": -0.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 7}, "min_p"),
    ({"repeat_penalty": -1}, "repeat_penalty"),
    ({"repeat_last_n": 10**9}, "repeat_last_n"),
    ({"presence_penalty": 99}, "presence_penalty"),
    ({"logit_bias": {"9" * 10_000: 1}}, "logit_bias"),
    ({"logit_bias": {str(n): 1 for n in range(60_000)}}, "logit_bias"),
    ({"logprobs": 10**6}, "logprobs"),
    ({"seed": 2**64}, "seed"),
    ({"grammar": "(" * 100_000}, "grammar"),
    ({"grammar": '\0root ::= "a"'}, "grammar"),
]


def test_absurd_values_get_400_with_their_field_quickly_and_leave_no_row(daemon: Daemon) -> None:
    rows = len(daemon.rows())
    for body, field in ABSURD:
        began_s = time.monotonic()
        answer = daemon.complete("acme", **body)
        assert answer.status_code == 400, (field, answer.text[:200])
        assert answer.json()["error"]["param"].startswith(field)
        assert len(answer.content) < 1000
        assert time.monotonic() - began_s < 30
    assert len(daemon.rows()) == rows


def test_a_head_without_end_is_cut_off(daemon: Daemon) -> None:
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    before = process.memory_info().rss
    for piece in (b"x-a: " + b"y" * 1000 + b"\r\n", b"y" * 1000):
        with raw_client(daemon) as sock, pytest.raises(OSError):
            sock.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-b: ")
            for _ in range(FLOOD_BYTES // len(piece)):
                sock.sendall(piece)
    assert process.memory_info().rss - before < FLOOD_BYTES // 2


def test_a_large_body_in_one_piece_is_no_head(daemon: Daemon) -> None:
    """One chunk with head and body, and another request right behind the body."""
    with raw_client(daemon) as sock:
        sock.sendall(request("acme", prompt="x" * 150_000, max_tokens=1) + request("acme", max_tokens=1))
        answers = b""
        while answers.count(b'"usage"') < 2:
            data = sock.recv(65536)
            assert data, answers
            answers += data
    assert answers.count(b"HTTP/1.1 200") == 2


# ---- the command line ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--temperature", "-1", "hi"], "--temperature: must"),
        (["--max-tokens", "1000000000000", "hi"], "--max-tokens: must be at most"),
        (["--top-p", "1e9", "hi"], "--top-p: must"),
        (["--stop", "", "hi"], "stop"),
        ([""], "the prompt is empty; give one, or pipe one in"),
    ],
)
def test_bad_values_on_the_command_line_end_with_2_and_name_the_option(
    daemon: Daemon, options: list[str], says: str
) -> None:
    done = tenantctl(daemon, "run", "--tenant", "acme", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [(b"x" * 10_000_000, "maximum context length is 200000 tokens"), (b"caf\xe9", "not UTF-8: byte 0xe9 at offset 3")],
)
def test_bad_standard_input_ends_with_2(daemon: Daemon, text: bytes, says: str) -> None:
    done = tenantctl(daemon, "run", "--tenant", "acme", "-", stdin=text)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_without_a_daemon_it_says_how_to_start_one(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.start()
    daemon.add_tenant("acme")
    daemon.kill()
    assert daemon.socket.exists()
    for where in (daemon.socket, tmp_path / "never"):
        done = tenantctl(where, "run", "--tenant", "acme", "hi")
        assert (done.returncode, done.stdout) == (69, "")
        assert "start one with: tenantctl serve" in done.stderr
    daemon.start()
    try:
        assert tenantctl(daemon, "run", "--tenant", "acme", "hi").returncode == 0
        assert daemon.stop() == 0
    finally:
        daemon.kill()


# ---- who may -------------------------------------------------------------------------------------------------------


def test_who_may_not_is_told_so_and_is_not_billed(daemon: Daemon) -> None:
    rows = len(daemon.rows())
    first = daemon.add_tenant("closed")
    made = daemon.post("/admin/v1/tenants/closed/keys", {"label": "second"}).json()
    second = made["secret"]
    assert tenantctl(daemon, "run", "hi", TENANTD_API_KEY=second).returncode == 0
    assert tenantctl(daemon, "key", "revoke", made["key"]["id"]).returncode == 0
    for code, says, options, key in (
        (1, "no tenant named 'nobody'; to list them: tenantctl tenant list", ["--tenant", "nobody"], ""),
        (1, "no tenant named 'close'; did you mean closed?", ["--tenant", "close"], ""),
        (2, "--tenant NAME", [], ""),
        (77, "is unknown, was revoked or has expired", [], second),
        (77, "is unknown, was revoked or has expired", ["--tenant", "acme"], "td_" + "x" * 40),
        (77, "may not act for tenant 'acme'", ["--tenant", "acme"], first),
    ):
        done = tenantctl(daemon, "run", *options, "hi", TENANTD_API_KEY=key)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert says in done.stderr
    assert daemon.post("/admin/v1/tenants/closed/suspend").status_code == 200
    for done in (
        tenantctl(daemon, "run", "hi", TENANTD_API_KEY=first),
        tenantctl(daemon, "run", "--tenant", "closed", "hi"),
    ):
        assert (done.returncode, done.stdout) == (77, "")
        assert (
            "tenant closed is suspended; an administrator can resume it with `tenantctl tenant resume`" in done.stderr
        )
    assert daemon.post("/admin/v1/tenants/closed/resume").status_code == 200
    assert tenantctl(daemon, "run", "hi", TENANTD_API_KEY=first).returncode == 0
    assert [row["tenant"] for row in daemon.rows()[rows:]] == ["closed"] * 2


# ---- clients that go away -------------------------------------------------------------------------------------


@contextmanager
def raw_client(daemon: Daemon) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(daemon.socket))
        yield sock


def request(tenant: str, **body: Any) -> bytes:
    data = json.dumps({"prompt": "hello", **body}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-tenant: {tenant}\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def newest(daemon: Daemon, tenant: str) -> dict[str, Any]:
    return [row for row in daemon.rows() if row["tenant"] == tenant][-1]


def until_ended(daemon: Daemon, request_id: str) -> dict[str, Any]:
    wait_until(lambda: row_of(daemon, request_id)["state"] != "running", "its settlement")
    return row_of(daemon, request_id)


def test_a_client_that_stops_reading_is_cut_off_and_others_go_on(daemon: Daemon) -> None:
    with raw_client(daemon) as sock:
        sock.sendall(request("globex", stream=True, max_tokens=LONG, ignore_eos=True))
        head = sock.recv(1000)
        others = [daemon.stream("acme", max_tokens=1000, ignore_eos=True) for _ in range(2)]
        row = until_ended(daemon, newest(daemon, "globex")["id"])
        assert row["id"].encode() in head
        assert row["state"] == "disconnected"
        assert 0 < row["completion_tokens"] < LONG
        received = head
        while data := sock.recv(1 << 20):
            received += data
        assert b"[DONE]" not in received
        assert received.count(b'"text":') <= row["completion_tokens"]
    for stream in others:
        stream.join()
        assert (stream.tokens, stream.done) == (1000, True)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_disconnects_stops_decoding_and_pays_for_what_came(daemon: Daemon, streamed: bool) -> None:
    rows = len(daemon.rows())
    with raw_client(daemon) as sock:
        sock.sendall(request("globex", stream=streamed, max_tokens=LONG, ignore_eos=True))
        wait_until(lambda: len(daemon.rows()) > rows and daemon.status()["running"] == 1, "a running request")
        received = sock.recv(100_000) if streamed else b""
    row = until_ended(daemon, newest(daemon, "globex")["id"])
    assert row["state"] == "disconnected"
    assert received.count(b'"text":') <= row["completion_tokens"] < LONG
    assert row["output_nanos"] > 0
    busy_micros = daemon.status()["engine_busy_micros"]
    serves_on(daemon)
    assert daemon.status()["engine_busy_micros"] - busy_micros < 5e6, "what nobody waits for would take 15 s"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_command_that_is_interrupted_stops_decoding(daemon: Daemon, number: int, code: int) -> None:
    options = ["--tenant", "globex", "--ignore-eos", "--max-tokens", str(LONG)]
    program = subprocess.Popen(
        [sys.executable, "-m", "tenantctl.main", "run", *options, "hi"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=command_environment(daemon),
    )
    assert program.stdout is not None
    with program.stdout:
        printed = len(os.read(program.stdout.fileno(), 1))
        assert newest(daemon, "globex")["state"] == "running"
        program.send_signal(number)
        while data := program.stdout.read(65536):
            printed += len(data)
        assert program.wait(120) == code
    row = until_ended(daemon, newest(daemon, "globex")["id"])
    assert row["state"] == "disconnected"
    assert printed - 1 <= row["completion_tokens"] < LONG  # after Ctrl-C it ends its line
