"""The servers to measure, and the streaming client of `tenantctl bench` to measure them with.

The same client measures every target, so that its own cost is the same for all of them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from tenantctl.bench.record import Outcome, Record
from tenantctl.bench.target import Target, send

START_TIMEOUT_S = 120


async def stream(target: Target, body: dict[str, Any]) -> Record:
    """POST `body` as a streamed completion, on a connection of its own. Raises RuntimeError unless it is complete."""
    record = Record("bench", max_tokens=body["max_tokens"])
    await send(target, body, record)
    if record.outcome is not Outcome.DONE:
        raise RuntimeError(f"{target.name}: {record.message}")
    return record


def admin(path: Path, method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    """One request to tenantd's admin API."""
    import httpx

    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://tenantd", timeout=30) as client:
        answer = client.request(method, url, json=body)
        answer.raise_for_status()
        return answer.json()


@contextmanager
def tenantd(
    config: dict[str, Any], tenants: dict[str, dict[str, Any]], checkout: Path | None = None
) -> Iterator[Target]:
    """A daemon in a temporary folder, ready, with these tenants; requests go to the first unless a header says so.

    With a `checkout` it runs that code, with the packages installed here.
    """
    environment = dict(os.environ)
    if checkout is not None:
        environment["PYTHONPATH"] = f"{checkout}:{checkout / 'cli'}"
    with tempfile.TemporaryDirectory(prefix="tenantd-bench-") as folder:
        path = Path(folder) / "tenantd.sock"
        file = Path(folder) / "config.toml"
        settings = {**config, "ledger": {"state_dir": folder}, "server": {"socket": str(path)}}
        file.write_text(tomli_w.dumps(settings))
        process = subprocess.Popen(
            [sys.executable, "-m", "tenantd", "--config", str(file)],
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd=folder,  # or `-m` would find the code of the folder it is started in
            env=environment,
        )
        try:
            _wait_ready(process, lambda: admin(path, "GET", "/readyz"))
            for name, settings in tenants.items():
                admin(path, "POST", "/admin/v1/tenants", {"name": name, **settings})
            children = subprocess.run(
                ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
            ).stdout.split()
            pids = (process.pid, *map(int, children))
            yield Target("tenantd", path=path, headers=(("x-tenant", next(iter(tenants))),), pids=pids)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


@contextmanager
def llama_server(binary: Path, model: Path, slots: int, context_tokens: int, threads: int) -> Iterator[Target]:
    """llama-server on a free loopback port, with the same slots, context and threads; its prompt cache off."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["-m", model, "--host", "127.0.0.1", "--port", port, "-np", slots, "-c", slots * context_tokens]
    arguments += ["-t", threads, "-tb", threads, "--no-kv-unified", "--cache-ram", "0"]
    process = subprocess.Popen(
        [str(binary), *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ,
        start_new_session=True,
    )
    try:
        _wait_ready(process, lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read())
        yield Target("llama-server", port=port, extra=(("cache_prompt", False),), pids=(process.pid,))
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_ready(process: subprocess.Popen[bytes], probe: Any) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            stderr = process.stderr.read().decode() if process.stderr else ""
            raise RuntimeError(f"the server ended with {process.returncode}: {stderr}")
        try:
            probe()
            return
        except Exception:  # not up yet, in whatever way
            time.sleep(0.1)
    raise TimeoutError("the server did not become ready")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown")
    return {"cpu": model, "cores": os.cpu_count(), "python": sys.version.split()[0]}


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()
