"""Clients on TCP without a right key that ask as fast as they can: everybody else is served as before."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tenantd.api.unpaid import BURST, INTERVAL_S
from tests.attacks.keyless import WAYS
from tests.attacks.kit import unharmed
from tests.support.daemon import Daemon
from tests.support.network import urls

ATTACK_S = 5.0


@contextmanager
def keyless(url: str, way: str, answers: list[int]) -> Iterator[None]:
    """Sixty-four clients as in `tests.attacks.keyless`. `answers` gets how many they had."""
    host, _, port = url.partition("://")[2].rpartition(":")
    command = [sys.executable, "-m", "tests.attacks.keyless", host, port, "64", way]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        try:
            yield
        finally:
            process.stdin.close()
            answers.append(int(process.stdout.readline()))


@pytest.mark.parametrize("way", WAYS)
def test_requests_without_a_right_key_get_a_small_part_of_the_time(tmp_path: Path, way: str) -> None:
    """Right keys of the same address, too, are served as if nobody else asked."""
    answers: list[int] = []
    settings = {"server": {"listen": [{"address": "127.0.0.1:0"}]}, "engine": {"fake_step_micros": 2000}}
    with Daemon(tmp_path, **settings) as daemon:
        headers = {"authorization": f"Bearer {daemon.add_tenant('acme')}"}
        [url] = urls(daemon)
        began_s = time.monotonic()
        with unharmed(daemon, attack_s=ATTACK_S) as watch, keyless(url, way, answers):
            while watch.goes_on:
                with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
                    answer = client.post("/v1/completions", json={"prompt": "hi", "max_tokens": 2}, headers=headers)
                assert answer.status_code == 200
        most = BURST + (time.monotonic() - began_s) / INTERVAL_S
        assert BURST < answers[0] <= most + 2, f"{answers[0]} answers, of at most {most:.0f}"
        assert "Traceback" not in daemon.log.read_text()
