"""Try what people connect to servers on a real daemon, over TCP with a key: `make clients`, ten to twenty minutes.

    python -m tests.clients [NAME ...] [--json FILE] [--page FILE] [--keep]

Each client gets an environment of its own in build/clients, from PyPI or npm, and leaves it when it is done. One that
fails does not stop the others. Exits with 1 if a check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tenantctl.bench.launcher import own_daemon
from tenantctl.client import url
from tenantctl.commands.demo import demo_model
from tenantd import __version__
from tenantd.errors import TenantdError
from tests.clients.catalogue import CLIENTS, Client
from tests.support.network import urls
from tests.support.scripted_gguf import write_scripted_gguf

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).parent / "programs"
BUILD = ROOT / "build" / "clients"
INSTALL_TIMEOUT_S, PROGRAM_TIMEOUT_S = 1200.0, 1200.0
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1"}
"""Clients look nothing up on the network."""
LAST_LINES = 40
"""Of the output of what failed."""
CONTEXT_TOKENS = 8192
"""Enough for the system prompt of aider."""


@dataclass
class Result:
    """What one client did. `error` is the end of its output, if a check failed."""

    name: str
    packages: dict[str, str] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    failed: str | None = None
    error: str = ""
    seconds: float = 0.0


class Failed(Exception):
    """A command failed; the message is the end of what it printed."""


# ---- environments


def execute(
    command: Sequence[str | Path], timeout_s: float, environment: dict[str, str] | None = None, folder: Path = ROOT
) -> str:
    """Run it to its end, in a session of its own that ends with it. Returns what it printed. Raises Failed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TENANTD_", "OPENAI_"))}
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env={**clean, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        late = ""
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            late = f"\nnot done within {timeout_s:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if late:
            output = process.communicate()[0] + late
    if process.returncode != 0:
        raise Failed(output)
    return output


@contextlib.contextmanager
def environment_of(client: Client, keep: bool) -> Iterator[Path]:
    """The folder with its packages; deleted afterwards unless `keep`. Raises Failed."""
    folder = BUILD / client.name.lower().replace(" ", "-")
    try:
        if client.kind == "python" and not (keep and folder.exists()):
            execute([sys.executable, "-m", "venv", "--clear", folder], INSTALL_TIMEOUT_S)
            pip = [
                folder / "bin" / "python",
                "-m",
                "pip",
                "install",
                "-q",
                "--no-compile",
                "--disable-pip-version-check",
            ]
            execute([*pip, *client.packages], INSTALL_TIMEOUT_S)
        elif client.kind == "node":
            folder.mkdir(parents=True, exist_ok=True)
            npm = ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--silent"]
            execute([*npm, *client.packages], INSTALL_TIMEOUT_S)
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def versions(client: Client, folder: Path) -> dict[str, str]:
    """Of its packages, by name."""
    if client.kind == "system":
        return {client.name: execute([client.name, "--version"], 60).split()[1]}
    if client.kind == "node":
        paths = {name: folder / "node_modules" / name / "package.json" for name in client.packages}
        return {name: json.loads(path.read_text())["version"] for name, path in paths.items()}
    names = [name.partition("[")[0] for name in client.packages]
    script = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    found: dict[str, str] = json.loads(execute([folder / "bin" / "python", "-c", script, *names], 60))
    return found


# ---- running


class Servers:
    """The daemon with a real model and the one with the scripted model. See `programs/given.py`."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tenantd-")))
        scripted = write_scripted_gguf(folder / "scripted.gguf", context_length=CONTEXT_TOKENS)
        models = {"REAL": demo_model(Console(stderr=True)), "SCRIPTED": scripted}
        self._daemons = {
            name: stack.enter_context(
                own_daemon(
                    {
                        "model": {"path": str(path), "name": f"{name.lower()}-model"},
                        "engine": {"context_tokens": CONTEXT_TOKENS, "slots": 2},
                        "server": {"listen": [{"address": "127.0.0.1:0"}]},
                    },
                    {},
                )
            )
            for name, path in models.items()
        }
        self._clients = 0

    def environment(self) -> dict[str, str]:
        """Where they are, and keys of new tenants."""
        self._clients += 1
        given = {}
        for name, daemon in self._daemons.items():
            with daemon.admin() as client:
                tenant = client.post(url("tenants"), {"name": f"client-{self._clients}"})
                given |= {
                    f"{name}_KEY": tenant["key"],
                    f"{name}_URL": urls(daemon)[0],
                    f"{name}_MODEL": f"{name.lower()}-model",
                }
                if name == "REAL":
                    limits = {"requests_per_minute": 1}
                    busy = client.post(url("tenants"), {"name": f"busy-{self._clients}", "limits": limits})
                    given["BUSY_KEY"] = busy["key"]
        return given


def attempt(client: Client, servers: Servers, keep: bool) -> Result:
    """Install it, run its program, and clean up."""
    result = Result(client.name)
    started_s = time.monotonic()
    output = ""
    try:
        with environment_of(client, keep) as folder:
            result.packages = versions(client, folder)
            interpreter = {"python": folder / "bin" / "python", "node": "node", "system": "bash"}[client.kind]
            given = {**servers.environment(), **QUIET, "PACKAGES": str(folder)}
            output = execute([interpreter, PROGRAMS / client.program], PROGRAM_TIMEOUT_S, given)
    except (Failed, TenantdError) as e:  # the daemon may be gone
        output = str(e)
        result.error = "\n".join(output.splitlines()[-LAST_LINES:])
    lines = set(output.splitlines())
    result.passed = [check for check in client.checks if check in lines]
    result.failed = next((check for check in client.checks if check not in lines), None)
    if not result.packages:
        result.failed = "install"
    result.seconds = round(time.monotonic() - started_s, 1)
    return result


# ---- telling


def show(results: Sequence[Result]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("client", "version", "s", "works"):
        table.add_column(column, justify="right" if column == "s" else "left", overflow="fold")
    for result in results:
        works = ", ".join(result.passed) + (f"; FAILED: {result.failed}" if result.failed else "")
        table.add_row(result.name, next(iter(result.packages.values()), ""), f"{result.seconds:.0f}", works)
    Console(width=None if sys.stdout.isatty() else 80).print(table)


def page(results: Sequence[Result]) -> str:
    """The table of docs/clients.md."""
    lines = ["| client | packages | works | fails |", "|---|---|---|---|"]
    for result in results:
        packages = ", ".join(f"`{name}` {version}" for name, version in result.packages.items())
        lines.append(f"| {result.name} | {packages} | {', '.join(result.passed)} | {result.failed or ''} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.clients", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="clients to try (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write them to FILE as a table in Markdown")
    parser.add_argument("--keep", action="store_true", help="keep the environments, for another run")
    arguments = parser.parse_args()
    known = {client.name.lower(): client for client in CLIENTS}
    if unknown := [name for name in arguments.names if name.lower() not in known]:
        parser.error(f"unknown client {unknown[0]!r}; choose from {', '.join(repr(c.name) for c in CLIENTS)}")
    chosen = [known[name.lower()] for name in arguments.names] or list(CLIENTS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C does: stop the daemons
    BUILD.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    with contextlib.ExitStack() as stack:
        servers = Servers(stack)
        for client in chosen:
            print(f"{client.name} …", file=sys.stderr, flush=True)
            results.append(attempt(client, servers, arguments.keep))
            if results[-1].failed:
                print(f"{client.name}: {results[-1].failed} failed\n{results[-1].error}", file=sys.stderr, flush=True)
    show(results)
    content = {"tenantd": __version__, "python": sys.version.split()[0], "clients": [asdict(r) for r in results]}
    for path, text in ((arguments.json, json.dumps(content, indent=1) + "\n"), (arguments.page, page(results))):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    sys.exit(any(result.failed for result in results))


if __name__ == "__main__":
    main()
