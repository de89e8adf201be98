"""The oldest client that is supported and the newest, each with the HTTP library it is installed with.

The rest of these tests run with the newest. Here the oldest gets an environment of its own, and runs them there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import openai

from tests.conformance.conftest import Shared
from tests.support.client_packages import OLDEST, ROOT, run

ALONE = """import runpy, sys
program, *absent = sys.argv[1:]
sys.modules.update(dict.fromkeys(absent))
runpy.run_path(program, run_name="__main__")"""
"""Runs a program as if the modules named after it were not installed: a client has openai and what that needs."""
TESTS = ("test_answers.py", "test_errors.py", "test_fields.py")


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
