"""Official clients other than the installed one, each in a folder of the user's cache, made once from PyPI or npm."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
OLDEST = "1.60.0"
PACKAGES = (f"openai=={OLDEST}", "pytest>=8", "pytest-timeout>=2.3", "psutil>=6", "tomli-w>=1.1", "uvloop>=0.21")
"""The oldest client, and what the tests that run with it and their helpers import."""
NODE_PACKAGES = ("openai@7", "undici@6")
"""The client for JavaScript, and what speaks HTTP on a Unix socket for it; both run in Node 20 and later."""
NODE = shutil.which("npm") and shutil.which("node")


def oldest_python() -> str:
    """A Python with the oldest client of all that are supported."""

    def install(folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--clear", str(folder))
        run(str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES)

    folder = _made_once(f"openai-{OLDEST}-python{sys.version_info.major}.{sys.version_info.minor}", PACKAGES, install)
    return str(folder / "bin" / "python")


def node_packages() -> Path:
    """The folder in which Node finds the packages."""

    def install(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        run("npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--silent", *NODE_PACKAGES)

    return _made_once("openai-node", NODE_PACKAGES, install)


def _made_once(name: str, packages: tuple[str, ...], install: Callable[[Path], None]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tenantd-tests"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / name
    made = folder / "made"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists() or made.read_text() != repr(packages):
            install(folder)
            made.write_text(repr(packages))
    return folder


def run(*command: str, **environment: str) -> str:
    """What it printed; it must succeed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TENANTD_", "PYTEST"))}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=850, env={**clean, **environment}, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout
