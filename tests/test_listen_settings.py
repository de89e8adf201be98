"""What a table [[server.listen]] may say, and what a mistake in it is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tenantd.config import Config, parse_config
from tenantd.errors import ConfigError
from tenantd.reloadable import merge

TLS = {"cert": "/c.pem", "key": "/k.pem"}


def with_listeners(*listeners: dict[str, Any], **server: Any) -> Config:
    return parse_config({"server": {"listen": list(listeners), **server}}, "file")


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "127.8.8.8:1", "[::1]:8080"])
def test_an_address_of_this_machine_alone_needs_nothing_more(address: str) -> None:
    [listener] = with_listeners({"address": address}).server.listen
    assert (listener.address, listener.is_loopback, listener.has_tls) == (address, True, False)


@pytest.mark.parametrize("address", ["0.0.0.0:8080", "192.168.1.5:8080", "[::]:8080", "[2001:db8::1]:443"])
def test_an_address_for_others_needs_tls_or_a_word_that_it_goes_without(address: str) -> None:
    with pytest.raises(ConfigError, match=r"other machines can reach .*set cert and key for TLS.*plaintext = true"):
        with_listeners({"address": address})
    assert with_listeners({"address": address, **TLS}).server.listen[0].has_tls
    assert not with_listeners({"address": address, "plaintext": True}).server.listen[0].has_tls


@pytest.mark.parametrize(
    "address",
    ["", "8080", ":8080", "localhost:8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "::1:8080", "[127.0.0.1]:80"],
)
def test_what_is_no_address_is_refused_with_what_one_looks_like(address: str) -> None:
    with pytest.raises(ConfigError, match=r"server.listen, entry 1: address = .*127.0.0.1:8080 or \[::1\]:8080"):
        with_listeners({"address": address})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"address": "127.0.0.1:65536"}, "at most 65535"),
        ({}, "address: is missing|address"),
        ({"address": "127.0.0.1:1", "cert": "/c"}, "cert and key belong together"),
        ({"address": "127.0.0.1:1", "plaintext": True, **TLS}, "plaintext must not be set"),
        ({"address": "127.0.0.1:1", "origins": ["https://x.org/"]}, "without a path"),
        ({"address": "127.0.0.1:1", "origins": ["x.org"]}, "https://chat.example.org"),
        ({"address": "127.0.0.1:1", "origins": "https://x.org"}, "must be a list"),
        ({"address": "127.0.0.1:1", "hosts": ["x.org:80"]}, "without a port"),
        ({"address": "127.0.0.1:1", "max_body_bytes": 1 << 29}, "at most max_body_bytes"),
        ({"address": "127.0.0.1:1", "head_timeout_s": 0}, "more than 0"),
        ({"address": "127.0.0.1:1", "port": 8}, "server.listen, entry 1: port: unknown key"),
    ],
)
def test_a_mistake_is_named(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        with_listeners(settings)


def test_an_address_is_there_once_and_free_ports_as_often_as_one_likes() -> None:
    with pytest.raises(ConfigError, match=r"127.0.0.1:8080 is listed twice"):
        with_listeners({"address": "127.0.0.1:8080"}, {"address": "127.0.0.1:8080"})
    assert len(with_listeners({"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0"}).server.listen) == 2


def test_a_listener_has_the_limits_of_the_server_but_for_its_own() -> None:
    server = with_listeners({"address": "127.0.0.1:1", "head_timeout_s": 3}, body_timeout_s=7).server
    here = server.at(server.listen[0])
    assert (here.head_timeout_s, here.body_timeout_s, here.idle_timeout_s) == (3, 7, server.idle_timeout_s)


def test_a_reload_changes_what_listeners_allow_but_not_where_they_are() -> None:
    before = with_listeners({"address": "127.0.0.1:1"}, {"address": "0.0.0.0:2", **TLS})
    same = with_listeners(
        {"address": "127.0.0.1:1", "origins": ["https://x.org"]}, {"address": "0.0.0.0:2", "cert": "/d", "key": "/e"}
    )
    after, ignored = merge(before, same)
    assert after.server.listen == same.server.listen and not ignored
    assert after.server.listen[1].cert == Path("/d")
    for elsewhere in (
        with_listeners({"address": "127.0.0.1:1"}),
        with_listeners({"address": "127.0.0.1:3"}, {"address": "0.0.0.0:2", **TLS}),
        with_listeners({"address": "127.0.0.1:1"}, {"address": "0.0.0.0:2", "plaintext": True}),
    ):
        after, ignored = merge(before, elsewhere)
        assert after.server.listen == before.server.listen and ignored == ["server.listen"]
