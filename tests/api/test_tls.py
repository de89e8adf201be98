"""Certificates and handshakes: what cannot be used is named, what is slow or false costs nobody else anything."""

from __future__ import annotations

import contextlib
import datetime
import logging
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tenantd.api.tls import Certificate, load
from tenantd.errors import ConfigError
from tests.api.conftest import Api
from tests.api.conftest import serve as serve_api
from tests.support.certificates import Authority

REQUEST = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
KEY = {"authorization": "Bearer td_acme"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def api(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    listener = {"address": "127.0.0.1:0", **authority.issue("api")}
    listeners = [{**listener, "head_timeout_s": 3.0}, listener]
    yield from serve_api(tmp_path_factory.mktemp("tls"), {"server": {"listen": listeners}})


def paths(issued: dict[str, str]) -> tuple[Path, Path]:
    return Path(issued["cert"]), Path(issued["key"])


# -- certificates


def test_one_that_works_is_tried_out(authority: Authority) -> None:
    loaded = load("server.listen, entry 1", *paths(authority.issue("good")))
    assert loaded.warning == ""
    assert 0 < loaded.handshake_s < 10


@pytest.mark.parametrize(
    ("ends_in", "reason"),
    [
        (datetime.timedelta(days=-1), "has expired; renew it"),
        (datetime.timedelta(days=3, hours=1), "expires in 3 days; renew it"),
    ],
)
def test_the_end_of_one_is_warned_of(authority: Authority, ends_in: datetime.timedelta, reason: str) -> None:
    expires = datetime.datetime.now(datetime.UTC) + ends_in
    assert reason in load("x", *paths(authority.issue("old", expires=expires))).warning


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    cert, key = paths(authority.issue("one"))
    _, other = paths(authority.issue("other"))
    text, broken, locked = tmp_path / "text.pem", tmp_path / "broken.pem", tmp_path / "locked.pem"
    text.write_text("hello")
    broken.write_text("-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n")
    command = ["openssl", "pkey", "-in", str(key), "-out", str(locked), "-aes128", "-passout", "pass:secret"]
    subprocess.run(command, check=True, timeout=60)
    for own_cert, own_key, reason in (
        (tmp_path / "none", key, f"x: cert: cannot read {tmp_path}/none: No such file"),
        (tmp_path, key, "x: cert: cannot read .*: Is a directory"),
        (cert, tmp_path / "none", "x: key: cannot read .*none: No such file"),
        (text, key, f"x: cert: {text} has no certificate in PEM format; .* openssl x509 -in {text}"),
        (cert, cert, "x: key: .* has no private key in PEM format"),
        (broken, key, f"x: cannot use {broken} with {key}"),
        (cert, other, f"x: key: {other} is not the private key of {cert}"),
        (cert, locked, f"x: key: {locked} has a password"),
    ):
        with pytest.raises(ConfigError, match=reason):
            load("x", own_cert, own_key)


def test_one_that_cannot_be_read_again_leaves_the_one_before(authority: Authority, tmp_path: Path) -> None:
    certificate = Certificate("x", *paths(authority.issue("first")))
    before = certificate.context
    with pytest.raises(ConfigError):
        certificate.renew(tmp_path / "none", tmp_path / "none")
    assert certificate.context is before
    certificate.renew(*paths(authority.issue("second")))
    assert certificate.context is not before


def test_a_key_that_everybody_can_read_is_warned_of(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    cert, key = paths(authority.issue("open"))
    for mode, warned in ((0o640, False), (0o644, True)):
        caplog.clear()
        key.chmod(mode)
        load("server.listen, entry 1", cert, key)
        assert [f"chmod o-rw {key}" in record.getMessage() for record in caplog.records] == [True] * warned


# -- handshakes


def answer(api: Api, context: ssl.SSLContext, *, own_address: str = "127.0.0.1", listener: int = 1) -> bytes:
    with (
        socket.create_connection(api.address(listener), timeout=60, source_address=(own_address, 0)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(REQUEST)
        return sock.makefile("rb").read()


def test_a_client_that_trusts_the_certificate_is_served(api: Api, authority: Authority) -> None:
    with httpx.Client(base_url=api.url(1), verify=authority.trust, timeout=60, trust_env=False) as client:
        assert client.post("/v1/completions", json={"prompt": "Hi"}, headers=KEY).status_code == 200
        with client.stream("POST", "/v1/completions", json={"prompt": "Hi", "stream": True}, headers=KEY) as stream:
            assert b"[DONE]" in stream.read()
    with pytest.raises(ssl.SSLCertVerificationError):
        answer(api, ssl.create_default_context())


def test_old_protocols_are_refused_and_new_ones_are_not(api: Api, authority: Authority) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=authority.file)
        context.minimum_version = context.maximum_version = version
        assert answer(api, context).startswith(b"HTTP/1.1 200 ")
    context = ssl.create_default_context(cafile=authority.file)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        answer(api, context)


def test_plain_http_is_told_to_speak_tls(api: Api) -> None:
    with socket.create_connection(api.address(0), timeout=60) as sock:
        sock.sendall(REQUEST)
        received = sock.makefile("rb").read()
    assert received.startswith(b"HTTP/1.1 400 ") and b"use https://" in received


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"])
def test_who_says_nothing_or_half_a_greeting_is_left_after_a_while(api: Api, authority: Authority, said: bytes) -> None:
    with socket.create_connection(api.address(0), timeout=60) as silent:
        silent.sendall(said)
        assert answer(api, authority.trust, listener=0).startswith(b"HTTP/1.1 200 "), "others are served meanwhile"
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""


def test_what_only_looks_like_a_greeting_is_counted_and_not_logged(
    api: Api, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    heard: list[Any] = []
    api.loop.call(lambda: api.service.events.call("test", heard.append))
    for _ in range(20):
        with socket.create_connection(api.address(0), timeout=60) as sock, contextlib.suppress(ConnectionResetError):
            sock.sendall(b"\x16" + b"\xff" * 1000)
            sock.makefile("rb").read()
    api.wait_until(lambda: len(heard) == 20)
    assert {(event.cause, event.address) for event in heard} == {("malformed_http", "127.0.0.1")}
    assert answer(api, authority.trust).startswith(b"HTTP/1.1 200 ")
    assert not [record for record in caplog.records if not record.name.startswith("uvicorn")]


def test_a_client_cannot_choose_a_dear_group(api: Api, authority: Authority) -> None:
    """In TLS 1.3 a client names groups; a finite field of 8,192 bits takes the server 0.2 s of CPU time."""
    host, port = api.address(0)
    command = ["openssl", "s_client", "-connect", f"{host}:{port}", "-tls1_3", "-groups"]
    outcomes = [
        subprocess.run([*command, group], input=b"", capture_output=True, timeout=60, check=False).stdout
        for group in ("ffdhe8192", "ffdhe2048", "P-256")
    ]
    assert [b"Cipher is (NONE)" in outcome for outcome in outcomes] == [True, True, False]


def test_many_that_begin_a_handshake_and_stop_leave_room_for_others(api: Api, authority: Authority) -> None:
    """Addresses take turns."""
    hello = ssl.MemoryBIO()
    half = authority.trust.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        half.do_handshake()
    greeting, is_over = hello.read(), threading.Event()

    def attack() -> None:
        socks: list[socket.socket] = []
        while not is_over.is_set():
            with contextlib.suppress(OSError):
                socks.append(socket.create_connection(api.address(1), timeout=5))
                socks[-1].sendall(greeting)
            if len(socks) > 50:
                socks.pop(0).close()
        for sock in socks:
            sock.close()

    attackers = [threading.Thread(target=attack) for _ in range(2)]
    for each in attackers:
        each.start()
    try:
        for _ in range(10):
            assert answer(api, authority.trust, own_address="127.0.0.2").startswith(b"HTTP/1.1 200 ")
            assert api.client.get("/healthz").status_code == 200
    finally:
        is_over.set()
        for each in attackers:
            each.join()
