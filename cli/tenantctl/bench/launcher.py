"""Servers of one's own, for `tenantctl demo`, benchmarks and tests: a daemon in a folder, llama-server on a free port.

Each is a process in a session of its own, so Ctrl-C in a terminal reaches whoever started it, who then stops it. What
it prints goes to a file, and its end into the error when the server does not start.
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
"""Of the log, in an error."""

Settings = Mapping[str, Mapping[str, Any]]
"""Tables of a configuration file."""


class Server:
    """One server process, whose output goes to `log`. It may be launched again after its end."""

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
        """Its process; it was launched."""
        assert self.process is not None, f"{self.name} was not launched"
        return self.process

    @property
    def pids(self) -> tuple[int, ...]:
        """Of itself and its children; a daemon's engine is the first of them."""
        engines = self.engines()
        others = [child for child in _children(self.running.pid) if child not in engines]
        return (self.running.pid, *[child.pid for child in (*engines, *others)])

    def engines(self) -> list[psutil.Process]:
        """Those of its children that are a daemon's engine."""
        return [child for child in _children(self.running.pid) if _is_engine(child)]

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
        """Raises TenantdError with the end of its log when it ends, or is not ready in time."""
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
        """Its exit status. Raises TimeoutExpired."""
        return self.running.wait(timeout_s)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, and the exit status. Raises TenantdError when that takes too long; it is killed then."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TenantdError(f"{self.name} did not stop within {timeout_s:g} s and was killed") from None

    def kill(self) -> None:
        """SIGKILL, if it still runs, and wait until it and its engine are gone."""
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
    """One `python -m tenantd` with its socket, configuration, log and state in `folder`."""

    def __init__(
        self,
        folder: Path,
        settings: Settings | None = None,
        *,
        checkout: Path | None = None,
        python: str = sys.executable,
    ) -> None:
        """With a `checkout` it runs the code there, else the code that runs here; `python` has the packages."""
        super().__init__("the daemon", folder / "log")
        self.folder = folder
        self.socket = folder / "tenantd.sock"
        self.config = folder / "config.toml"
        self.environment: dict[str, str] = {}  # besides this process's own
        self._python = python
        self._code = _folders_of(tenantd, tenantctl) if checkout is None else [str(checkout), str(checkout / "cli")]
        self.configure(**(settings or {}))

    def configure(self, **settings: Mapping[str, Any]) -> None:
        """Write the configuration file; a running daemon reads it when it is told to."""
        own: Settings = {
            "server": {"socket": str(self.socket)},
            "ledger": {"state_dir": str(self.folder / "state")},
        }
        tables = {name: {**own.get(name, {}), **settings.get(name, {})} for name in {**own, **settings}}
        self.config.write_text(tomli_w.dumps(tables))

    def launch(self, before_exec: Callable[[], None] | None = None, **environment: str) -> None:
        """Start it and return at once. `environment` is added to this process's own, without what TENANTD_* it has."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TENANTD_")}
        merged = {**inherited, **self.environment, **environment}
        merged["PYTHONPATH"] = os.pathsep.join([*self._code, *filter(None, [merged.get("PYTHONPATH")])])
        self.spawn(
            [self._python, "-m", "tenantd", "--config", str(self.config)],
            environment=merged,
            folder=self.folder,  # `-m` looks for code in the folder it is started in
            before_exec=before_exec,
        )

    def admin(self, timeout_s: float = PROBE_TIMEOUT_S) -> Client:
        """A connection of its own user, who administers it."""
        return Client(self.socket, timeout_s)

    def wait_ready(
        self, timeout_s: float = START_TIMEOUT_S, show: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """Until the model is loaded. `show` gets each answer of /readyz before. Raises TenantdError."""

        def is_ready() -> bool:
            state = self.readiness()
            if state is not None and show is not None:
                show(state)
            return state is not None and state["status"] == "ready"

        self.wait_until(is_ready, timeout_s)

    def readiness(self) -> dict[str, Any] | None:
        """What /readyz says; None while nobody answers."""
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
    """A daemon in a temporary folder, ready, with these tenants; stopped in the end. Raises TenantdError."""
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
    binary: Path, model: Path, *, slots: int, context_tokens: int, threads: int
) -> Iterator[tuple[Server, int]]:
    """llama-server and its port on loopback, ready; each slot has `context_tokens`. Its prompt cache is off.

    Raises TenantdError.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [binary, "-m", model, "--host", "127.0.0.1", "--port", port, "-np", slots, "-c", slots * context_tokens]
    command += ["-t", threads, "-tb", threads, "--no-kv-unified", "--cache-ram", 0]
    with tempfile.TemporaryDirectory(prefix="llama-server-") as folder:
        server = Server("llama-server", Path(folder) / "log")
        with _stopped(server):
            server.spawn([*map(str, command)], environment=os.environ)
            server.wait_until(lambda: _is_healthy(port))
            yield server, port


@contextmanager
def _stopped(server: Server) -> Iterator[None]:
    """In the end it is told to stop, and killed if that is interrupted."""
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
    """Whether it is a daemon's engine; False for one that has ended."""
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
    """Where they are imported from."""
    return list(dict.fromkeys(str(Path(package.__path__[0]).parent) for package in packages))
