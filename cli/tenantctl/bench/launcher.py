"""Starts private servers for `tenantctl demo`, benchmarks and tests: a daemon in a folder, llama-server on a free port.

Each runs in its own session, so that Ctrl-C in a terminal reaches only the launcher, which then stops it. Its output
goes to a file; if the server does not start, the error contains the end of that file.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import psutil
import tomli_w

import tenantctl
import tenantd
from tenantctl.client import Client, url
from tenantd.errors import TenantdError

START_TIMEOUT_S: Final = 300.0
STOP_TIMEOUT_S: Final = 60.0
DEATH_TIMEOUT_S: Final = 30.0
PROBE_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.02
LAST_LINES: Final = 30
"""Maximum lines of the log in an error."""

Settings = Mapping[str, Mapping[str, Any]]
"""Tables of a configuration file."""


class Server:
    """One server process, whose output goes to `log`. It can be launched again after it has ended."""

    def __init__(self, name: str, log: Path) -> None:
        """`name` is what errors call it."""
        self.name = name
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path | None = None,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        """Start it in `folder` (default: this process's own) and return at once. `before_exec` runs in its process."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=folder,
                start_new_session=True,
                preexec_fn=before_exec,
            )

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """The process, once it was launched."""
        assert self.process is not None, f"{self.name} was not launched"
        return self.process

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the server and its children; a daemon's engine is its first child."""
        engines = self.engines()
        others = [child for child in _children(self.running.pid) if child not in engines]
        return (self.running.pid, *[child.pid for child in (*engines, *others)])

    def engines(self) -> list[psutil.Process]:
        """Its child processes that are a daemon's engine."""
        return [child for child in _children(self.running.pid) if _is_engine(child)]

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until it is ready. Raises TenantdError with the end of its log if it ends, or is not ready in time."""
        deadline_s = time.monotonic() + timeout_s
        while not is_ready():
            status = self.running.poll()
            if status is not None:
                raise TenantdError(f"{self.name} ended with status {status} before it was ready{self._last_words()}")
            if time.monotonic() >= deadline_s:
                raise TenantdError(f"{self.name} was not ready within {timeout_s:g} s{self._last_words()}")
            time.sleep(POLL_S)

    def _last_words(self) -> str:
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        return "".join(["; it printed:\n", "\n".join(lines[-LAST_LINES:])] if lines else [" and printed nothing"])

    def signal(self, number: int) -> None:
        self.running.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait for its end and return its exit status. Raises TimeoutExpired."""
        return self.running.wait(timeout_s)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Send SIGTERM and return the exit status. If that takes too long, kills it and raises TenantdError."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TenantdError(f"{self.name} did not stop within {timeout_s:g} s and was killed") from None

    def kill(self) -> None:
        """Send SIGKILL if it still runs, and wait until it and its engine are gone."""
        if self.process is None or self.process.poll() is not None:
            return
        engines = self.engines()
        self.process.kill()
        self.process.wait()
        deadline_s = time.monotonic() + DEATH_TIMEOUT_S
        while any(map(_is_engine, engines)):
            assert time.monotonic() < deadline_s, "an engine ends with its daemon"
            time.sleep(POLL_S)


class OwnDaemon(Server):
    """A `python -m tenantd` whose socket, configuration, log and state are in `folder`."""

    def __init__(
        self,
        folder: Path,
        settings: Settings | None = None,
        *,
        checkout: Path | None = None,
        python: str = sys.executable,
    ) -> None:
        """Runs the code in `checkout`, by default the code that runs here, with the packages of `python`."""
        super().__init__("the daemon", folder / "log")
        self.folder = folder
        self.socket = folder / "tenantd.sock"
        self.config = folder / "config.toml"
        self.environment: dict[str, str] = {}  # in addition to this process's
        self._python = python
        self._code = _folders_of(tenantd, tenantctl) if checkout is None else [str(checkout), str(checkout / "cli")]
        self.configure(**(settings or {}))

    def configure(self, **settings: Mapping[str, Any]) -> None:
        """Write the configuration file; a running daemon reads it on SIGHUP."""
        own: Settings = {
            "server": {"socket": str(self.socket)},
            "ledger": {"state_dir": str(self.folder / "state")},
        }
        tables = {name: {**own.get(name, {}), **settings.get(name, {})} for name in {**own, **settings}}
        self.config.write_text(tomli_w.dumps(tables))

    def launch(self, before_exec: Callable[[], None] | None = None, **environment: str) -> None:
        """Start it and return at once. It gets this process's environment without TENANTD_*, plus `environment`."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TENANTD_")}
        merged = {**inherited, **self.environment, **environment}
        merged["PYTHONPATH"] = os.pathsep.join([*self._code, *filter(None, [merged.get("PYTHONPATH")])])
        self.spawn(
            [self._python, "-m", "tenantd", "--config", str(self.config)],
            environment=merged,
            folder=self.folder,  # `-m` looks for code in the current folder
            before_exec=before_exec,
        )

    def admin(self, timeout_s: float = PROBE_TIMEOUT_S) -> Client:
        """A client that administers it, as its own user."""
        return Client(self.socket, timeout_s)

    def wait_ready(
        self, timeout_s: float = START_TIMEOUT_S, show: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """Wait until the model is loaded. `show` gets each answer of /readyz until then. Raises TenantdError."""

        def is_ready() -> bool:
            state = self.readiness()
            if state is not None and show is not None:
                show(state)
            return state is not None and state["status"] == "ready"

        self.wait_until(is_ready, timeout_s)

    def readiness(self) -> dict[str, Any] | None:
        """The answer of /readyz; None while nobody answers."""
        try:
            with self.admin() as client:
                return client.readiness()
        except TenantdError:
            return None


@contextmanager
def own_daemon(
    settings: Settings,
    tenants: Mapping[str, Mapping[str, Any]],
    *,
    checkout: Path | None = None,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> Iterator[OwnDaemon]:
    """A ready daemon in a temporary folder, with these tenants; stopped at the end. Raises TenantdError."""
    with tempfile.TemporaryDirectory(prefix="tenantd-") as folder:
        daemon = OwnDaemon(Path(folder), settings, checkout=checkout)
        with _stopped(daemon):
            daemon.launch()
            daemon.wait_ready(show=show)
            with daemon.admin() as client:
                for name, given in tenants.items():
                    client.post(url("tenants"), {"name": name, **given})
            yield daemon


@contextmanager
def own_llama_server(
    binary: Path, model: Path, *, slots: int, context_tokens: int, threads: int, caches: bool = False
) -> Iterator[tuple[Server, int]]:
    """A ready llama-server and its port on loopback; each slot has `context_tokens`. Without `caches` it keeps
    no prompts in host memory.

    Raises TenantdError.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [binary, "-m", model, "--host", "127.0.0.1", "--port", port, "-np", slots, "-c", slots * context_tokens]
    command += ["-t", threads, "-tb", threads, "--no-kv-unified", *([] if caches else ["--cache-ram", 0])]
    with tempfile.TemporaryDirectory(prefix="llama-server-") as folder:
        server = Server("llama-server", Path(folder) / "log")
        with _stopped(server):
            server.spawn([*map(str, command)], environment=os.environ)
            server.wait_until(lambda: _is_healthy(port))
            yield server, port


@contextmanager
def _stopped(server: Server) -> Iterator[None]:
    """Stops it at the end, and kills it if that is interrupted."""
    try:
        yield
    finally:
        try:
            if server.process is not None and server.process.poll() is None:
                server.stop()
        finally:
            server.kill()


def _is_healthy(port: int) -> bool:
    import httpx

    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _is_engine(process: psutil.Process) -> bool:
    """Whether it is a daemon's engine; False if it has ended."""
    try:
        return "tenantd.engine" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def _folders_of(*packages: ModuleType) -> list[str]:
    """The folders that the modules are imported from."""
    return list(dict.fromkeys(str(Path(package.__path__[0]).parent) for package in packages))
