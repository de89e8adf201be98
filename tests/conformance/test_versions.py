"""The oldest client that is supported and the newest, each with the HTTP library it is installed with.

The rest of these tests run with the newest. Here the oldest gets an environment of its own, and runs them there.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from tests.conformance.conftest import Shared

OLDEST = "1.60.0"
PACKAGES = (f"openai=={OLDEST}", "pytest>=8", "pytest-timeout>=2.3", "psutil>=6", "tomli-w>=1.1", "uvloop>=0.21")
"""The client, and what these tests and their helpers import."""
ROOT = Path(__file__).parents[2]
ALONE = """import runpy, sys
program, *absent = sys.argv[1:]
sys.modules.update(dict.fromkeys(absent))
runpy.run_path(program, run_name="__main__")"""
"""Runs a program as if the modules named after it were not installed: a client has openai and what that needs."""
TESTS = ("test_answers.py", "test_errors.py", "test_fields.py")


@pytest.fixture(scope="session")
def oldest() -> str:
    """A Python with the oldest client. Made once for a user, with packages from PyPI."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tenantd-tests"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"openai-{OLDEST}-python{sys.version_info.major}.{sys.version_info.minor}"
    python, made = folder / "bin" / "python", folder / "made"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists() or made.read_text() != repr(PACKAGES):
            run(sys.executable, "-m", "venv", "--clear", str(folder))
            run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES)
            made.write_text(repr(PACKAGES))
    return str(python)


def run(*command: str, **environment: str) -> str:
    """What it printed; it must succeed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TENANTD_", "PYTEST"))}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=850, env={**clean, **environment}, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


@pytest.fixture(params=["oldest", "newest"])
def python(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("oldest")) if request.param == "oldest" else sys.executable


def test_these_are_two_clients_with_two_http_libraries(oldest: str) -> None:
    said = run(oldest, "-c", "import openai, httpx; print(openai.__version__, openai.DefaultHttpxClient.__base__)")
    assert said == f"{OLDEST} <class 'httpx.Client'>\n"
    assert int(openai.__version__.partition(".")[0]) >= 3
    assert openai.DefaultHttpxClient.__base__ is not None
    assert openai.DefaultHttpxClient.__base__.__module__ == "httpx2"


def run_alone(python: str, program: Path, shared: Shared) -> str:
    absent = ("tenantd", "httpx") if python == sys.executable else ("tenantd",)
    environment = {"TENANTD_SOCKET": str(shared.daemon.socket), "TENANTD_API_KEY": shared.keys["acme"]}
    return run(python, "-c", ALONE, str(program), *absent, **environment)


def test_the_example_runs(python: str, shared: Shared) -> None:
    printed = run_alone(python, ROOT / "examples" / "openai_client.py", shared)
    assert re.match(r"model: fake\ncompleted: .+ \(\d+ tokens\)\nstreamed: ", printed)
    assert printed.splitlines()[-1].startswith("refused: temperature: ")


def test_the_readmes_client_is_one(python: str, shared: Shared, tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.+?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    program = tmp_path / "client.py"
    program.write_text(f"{code}\nprint([model.id for model in client.models.list()])\n")
    printed = run_alone(python, program, shared)
    assert printed == "['fake']\n"


def test_the_oldest_client_passes_these_tests(oldest: str) -> None:
    files = [str(Path(__file__).parent / name) for name in TESTS]
    without_gguf = ("-k", "not while_the_model_loads")
    printed = run(
        oldest,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", *without_gguf, *files),
        DAEMON_PYTHON=sys.executable,
        PYTHONPATH=str(ROOT / "cli"),
    )
    assert re.search(r"^\d{2,} passed, 1 deselected", printed, re.MULTILINE), printed
