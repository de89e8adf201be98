"""The command line in front of a server that speaks as the daemon does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tenantctl.main import app
from tests.cli.fake_daemon import FakeDaemon

Cli = Callable[..., Result]
Program = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path_factory.mktemp("d") / "s")
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def daemon(_server: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    """Running, without tenants, found by TENANTD_SOCKET."""
    _server.reset()
    monkeypatch.setenv("TENANTD_SOCKET", str(_server.socket))
    return _server


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the user's own is found."""
    for name in [name for name in os.environ if name.startswith("TENANTD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TENANTD_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("TENANTD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.fixture
def cli() -> Cli:
    """Run a command in this process, its output not a terminal."""

    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(app, list(arguments), prog_name="tenantctl", **options)

    return invoke


def command(*arguments: str) -> list[str]:
    """The program's command line."""
    return [sys.executable, "-m", "tenantctl.main", *arguments]


@pytest.fixture
def program() -> Program:
    """Run the program as its own process."""

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command(*arguments), capture_output=True, timeout=300, check=False, **options)

    return run
